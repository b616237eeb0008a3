"""Recovered poses against the true ones, with an encoder that reads distances off drawings of rotations."""

from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
import torch
from encoder_fixtures import make_entry
from scipy.spatial.transform import Rotation
from scipy.stats import spearmanr
from torch import Tensor, nn

from cryozoo.geometry import align_frames, align_o4, matrix_to_quaternion, point_group, restrict, rotvec_to_matrix
from cryozoo.geometry.pairs import pair_distance
from cryozoo.geometry.pose import Pose
from cryozoo.heads.embedding import Embedding
from cryozoo.heads.quaternion import Quaternion
from cryozoo.imaging.preprocessing import Preprocessing
from cryozoo.particles.errors import BadInput
from cryozoo.particles.poses import PoseTable
from cryozoo.zoo import recover
from cryozoo.zoo.encoder import PoseEncoder
from cryozoo.zoo.recover import RecoveredPoses, recover_poses

SIZE, REACH = 96, 44


def truth(n: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(Rotation.random(n, rng=np.random.default_rng(seed)).as_matrix())


def drawings(rotation: Tensor) -> Tensor:
    """(N, L, L): where the three unit vectors of the object are seen, in pixels of brightness 1, 2 and 3."""
    column, row = (rotation[:, :2] * REACH).round().long().unbind(1)
    images = torch.zeros(len(rotation), SIZE, SIZE)
    n = torch.arange(len(rotation))
    for axis in range(3):
        images[n, row[:, axis] + SIZE // 2, column[:, axis] + SIZE // 2] = axis + 1.0
    return images


def read(images: Tensor) -> Tensor:
    """The rotations of drawings, however bright, (N, 3, 3); right to a degree."""
    place = images.flatten(1).topk(3).indices.flip(1)
    seen = torch.stack([place % SIZE, place // SIZE], 1).double() - SIZE // 2
    rows = torch.cat([seen, torch.linalg.cross(seen[:, :1], seen[:, 1:])], 1) / REACH
    u, _, vh = torch.linalg.svd(torch.cat([rows[:, :2], torch.nn.functional.normalize(rows[:, 2:], dim=2)], 1))
    return u @ vh


class Reader(PoseEncoder):
    """An encoder that gives rotations with wrong frames on both sides, or all products of two of their quaternions."""

    def __init__(
        self, *, rotations: bool, transposed: bool = False, deviation: float = 0.0, symmetry: str = "C1"
    ) -> None:
        nn.Module.__init__(self)
        self.name = "reader"
        self.entry = make_entry(trained_with={"data": {"symmetry": symmetry}, "loss_args": {}})
        self.backbone = nn.Identity()  # type: ignore[assignment]
        self.head = Quaternion() if rotations else Embedding(dim=16)
        self.transposed = transposed
        self.generator = torch.Generator().manual_seed(0)
        self.deviation = deviation
        self.unit = point_group(symmetry)
        self.preprocessing = Preprocessing(SIZE, 1.0)
        self.camera, self.frame = truth(2, seed=7)
        self.anything = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Pose:
        noise = torch.randn(len(images), 3, generator=self.generator, dtype=torch.float64)
        seen = rotvec_to_matrix(self.deviation * noise) @ restrict(read(images[:, 0]), self.unit)
        if self.head.has_rotation:
            return Pose(self.camera @ (seen.mT if self.transposed else seen) @ self.frame, confidence=noise[:, 0])
        q = matrix_to_quaternion(seen)
        shift = images.new_ones(len(seen), 2)
        return Pose(shift=shift, raw=(q[:, :, None] * q[:, None]).flatten(1))


def errors(found: RecoveredPoses, true: Tensor) -> Tensor:
    """Degrees, after the frame of the object and its hand were aligned."""
    return torch.rad2deg(align_frames(torch.from_numpy(found.poses.rotation), true).angles)


def test_the_reader_reads_and_knows_copies() -> None:
    true = truth(50)
    assert torch.rad2deg(pair_distance(torch.cat([read(drawings(true)), true]), _diagonal(50))).max() < 3
    wrong = truth(50, seed=1)
    assert torch.rad2deg(pair_distance(torch.cat([read(drawings(true)), wrong]), _diagonal(50))).median() > 90


def _diagonal(n: int) -> Tensor:
    return torch.stack([torch.arange(n), torch.arange(n) + n], 1)


@pytest.mark.parametrize("transposed", [False, True])
def test_only_the_frame_of_the_object_stays_open(transposed: bool) -> None:
    true, encoder = truth(200), Reader(rotations=True, transposed=transposed)
    found = recover_poses(encoder, drawings(true), copies=12, batch_size=64)
    assert errors(found, true).quantile(0.95) < 3
    assert found.gauge.transposed == transposed
    assert found.gauge.residual < 0.02 < 1 < found.gauge.other_residual
    assert found.gauge.preference > 10
    # the encoder's rotations alone are of another camera
    seen = encoder(encoder.preprocessing(drawings(true), None)).rotation
    assert seen is not None
    assert torch.rad2deg(align_frames(seen, true).angles).median() > 30
    assert found.recovery is None
    assert found.poses.confidence is not None
    assert found.poses.confidence.std() == pytest.approx(1, abs=0.2)  # is the encoder's


def test_rotations_of_a_symmetric_object_may_be_of_any_mate() -> None:
    true = truth(200)
    found = recover_poses(Reader(rotations=True, symmetry="D2"), drawings(true), copies=40)
    assert errors(found, restrict(true, point_group("D2"))).quantile(0.9) < 4
    assert found.gauge.preference > 4
    assert (
        errors(recover_poses(Reader(rotations=True, symmetry="D2"), drawings(true), symmetry="C1"), true).median() > 9
    )


@pytest.mark.parametrize("seed", range(3))
def test_an_embedding_whose_distances_are_bent(seed: int) -> None:
    """2 arccos <q q', q q'> = 2 arccos cos^2(d / 2) rises with d and is no distance of rotations: a link is found."""
    true = truth(300)
    found = recover_poses(Reader(rotations=False), drawings(true), copies=20, seed=seed)
    assert found.recovery is not None
    assert found.recovery.link is not None
    assert found.recovery.explained > 0.95
    assert errors(found, true).median() < 4
    np.testing.assert_array_equal(found.poses.shift, 1)
    assert spearmanr(found.distances, found.between_poses()).statistic > 0.99


def test_an_embedding_of_a_symmetric_object_that_was_restricted() -> None:
    """Orientations that are not uniform, and bent distances: together they are told apart less well."""
    true, encoder = truth(300), Reader(rotations=False, symmetry="D2")
    encoder.entry = make_entry(trained_with={"data": {"symmetry": "D2"}, "loss_args": {"restricted": True}})
    found = recover_poses(encoder, drawings(true), copies=40)
    unit = restrict(true, point_group("D2"))
    ours, theirs = (matrix_to_quaternion(r) for r in (torch.from_numpy(found.poses.rotation), unit))
    assert errors(found, unit).mean() < np.degrees(align_o4(ours, theirs).error) + 2
    assert found.gauge.preference > 4


def test_many_particles_by_some_of_their_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recover, "_DENSE", 100)
    monkeypatch.setattr(recover, "_PARTNERS", 100)
    true = truth(400)
    found = recover_poses(Reader(rotations=False), drawings(true), copies=12)
    assert errors(found, true).median() < 4


def test_images_that_fit_nowhere_are_the_least_sure() -> None:
    true = truth(240)
    images = drawings(true)
    ring = torch.arange(SIZE) - SIZE // 2
    speckles = torch.rand(30, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) < 0.01
    images[::8] = torch.where(speckles, 3.0, 0.0) * (ring**2 + ring[:, None] ** 2 < REACH**2)
    encoder = Reader(rotations=False, deviation=0.1)
    encoder.register_forward_hook(lambda module, inputs, pose: _scattered(inputs[0][:, 0], pose))
    found = recover_poses(encoder, images, copies=40, batch_size=240)
    good = np.arange(240) % 8 > 0
    assert errors(found, true)[torch.from_numpy(good)].median() < 12
    assert found.poses.confidence is not None
    assert np.median(found.poses.confidence[good]) > found.poses.confidence[~good].max()


def _scattered(images: Tensor, pose: Pose) -> Pose:
    """What is no drawing gets an embedding that is none of a rotation."""
    assert pose.raw is not None
    raw = pose.raw.clone()
    bad = (images > images.flatten(1).amax(1)[:, None, None] - 0.1).sum((1, 2)) > 9
    raw[bad] = torch.rand(int(bad.sum()), 16, generator=torch.Generator().manual_seed(1)).to(raw)
    return Pose(shift=pose.shift, raw=raw)


def test_poses_join_the_table_of_the_particles(tmp_path: Path) -> None:
    images, true = drawings(truth(60)), truth(60)
    with mrcfile.new(tmp_path / "drawn.mrcs") as file:
        file.set_data(images.numpy())
        file.set_image_stack()
    PoseTable(true.numpy(), image_size=SIZE, pixel_size=1.0).save(tmp_path / "poses.star")
    rows = starfile.read(tmp_path / "poses.star")
    rows["particles"]["rlnImageName"] = [f"{k + 1:06d}@drawn.mrcs" for k in range(60)]
    rows["particles"]["rlnCoordinateX"] = np.arange(60.0)
    starfile.write(rows, tmp_path / "drawn.star")
    found = recover_poses(Reader(rotations=True), tmp_path / "drawn.star", copies=12)
    found.poses.save(tmp_path / "out.star")
    out = starfile.read(tmp_path / "out.star")["particles"]
    assert list(out["rlnImageName"]) == list(rows["particles"]["rlnImageName"])
    assert list(out["rlnCoordinateX"]) == list(range(60))
    assert found.poses.confidence is not None
    np.testing.assert_allclose(out["rlnParticleFigureOfMerit"], found.poses.confidence, atol=1e-4)
    read_back = torch.from_numpy(PoseTable.load(tmp_path / "out.star").rotation)
    assert torch.rad2deg(align_frames(read_back, true).angles).median() < 3


def test_refusals() -> None:
    with pytest.raises(ValueError, match="copies 1"):
        recover_poses(Reader(rotations=True), drawings(truth(40)), copies=1)
    with pytest.raises(ValueError, match="batch_size 0"):
        recover_poses(Reader(rotations=True), drawings(truth(40)), batch_size=0)
    with pytest.raises(ValueError, match="pixel_size 0"):
        recover_poses(Reader(rotations=True), drawings(truth(40)), pixel_size=0)
    with pytest.raises(BadInput, match="29 particles"):
        recover_poses(Reader(rotations=True), drawings(truth(29)))
    images = drawings(truth(40))
    images[11] = torch.nan
    with pytest.raises(BadInput, match="row 12"):
        recover_poses(Reader(rotations=True), images)


@pytest.mark.parametrize("rotations", [True, False])
def test_a_network_that_gives_nan_is_refused_with_the_row(rotations: bool) -> None:
    encoder = Reader(rotations=rotations)

    def spoil(module: nn.Module, inputs: object, pose: Pose) -> None:
        values = pose.rotation if rotations else pose.raw
        assert values is not None
        values[5] = torch.nan

    encoder.register_forward_hook(spoil)
    with pytest.raises(BadInput, match="row 6: the network makes NaN"):
        recover_poses(encoder, drawings(truth(40)))


def test_distances_that_are_no_angles_between_orientations_are_refused() -> None:
    """The weights say how they were trained."""
    encoder = Reader(rotations=False, symmetry="D2")
    with pytest.raises(ValueError, match=r"least over D2, .* train it with restricted"):
        recover_poses(encoder, drawings(truth(40)))
    encoder.entry = make_entry(trained_with={"data": None, "loss_args": {"metric": "euclidean"}})
    with pytest.raises(ValueError, match="Euclidean"):
        recover_poses(encoder, drawings(truth(40)))
