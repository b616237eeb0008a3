"""``match`` and ``refine`` as people call them: from files and memory, with maps and tables as they come."""

import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import starfile
import torch
from scipy.spatial.transform import Rotation

from cryozoo.geometry.pose import Pose
from cryozoo.imaging.pose_posterior import Matches
from cryozoo.imaging.projector import Projector
from cryozoo.imaging.simulate import Imaging, Simulator
from cryozoo.imaging.simulate_files import write_simulated_stack
from cryozoo.imaging.volumes import Volume, load_volume
from cryozoo.particles.errors import BadInput, BadInputWarning
from cryozoo.particles.mrc_writer import write_stack, write_volume
from cryozoo.particles.poses import PoseTable
from cryozoo.particles.stack import ParticleStack
from cryozoo.zoo import match as module
from cryozoo.zoo.match import MatchedTable, match, refine
from cryozoo.zoo.predict import PredictionStopped

SIZE, PIXEL, N = 32, 6.0, 72


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map, and particles of it with CTF and noise."""
    folder = tmp_path_factory.mktemp("match")
    volume = Volume.phantom(size=SIZE, pixel_size=PIXEL)
    write_volume(folder / "map.mrc", volume.data.numpy(), PIXEL)
    imaging = Imaging(snr=1.0, shift_sigma=6.0, defocus=(15000.0, 25000.0))
    write_simulated_stack(folder / "particles.mrcs", Simulator(volume, imaging), N)
    return folder


@pytest.fixture(scope="module")
def stack(folder: Path) -> ParticleStack:
    return ParticleStack.open(folder / "particles.star")


@pytest.fixture(scope="module")
def matched(folder: Path, stack: ParticleStack) -> MatchedTable:
    return match(stack, folder / "map.mrc", reach=24.0)


def errors(found: PoseTable, true: PoseTable) -> np.ndarray:
    """Degrees."""
    return np.rad2deg(Rotation.from_matrix(found.rotation.swapaxes(1, 2) @ true.rotation).magnitude())


def rough(stack: ParticleStack, seed: int = 0) -> PoseTable:
    """Poses that are off by some degrees and Angstrom."""
    rng = np.random.default_rng(seed)
    true = stack.poses
    assert true is not None
    off = Rotation.from_rotvec(rng.normal(scale=0.06, size=(len(true), 3))).as_matrix()
    return PoseTable(off @ true.rotation, true.shift + rng.normal(scale=5, size=(len(true), 2)), particles=stack.table)


def test_poses_are_found(stack: ParticleStack, matched: MatchedTable) -> None:
    assert stack.poses is not None
    error = errors(matched, stack.poses)
    assert np.median(error) < 4
    assert (error < 10).mean() > 0.95
    assert np.abs(matched.shift - stack.poses.shift)[error < 10].mean() < 2
    assert matched.confidence is not None
    np.testing.assert_allclose(1 / matched.confidence, matched.matches.error.numpy(), rtol=1e-5)
    expected = math.degrees(float(matched.matches.error.median()))
    assert expected == pytest.approx(np.sqrt((error[error < 10] ** 2).mean()), rel=0.4)


def test_refining_reaches_the_same(folder: Path, stack: ParticleStack, matched: MatchedTable) -> None:
    start = rough(stack)
    found = refine(stack, folder / "map.mrc", poses=start)
    assert stack.poses is not None
    assert np.median(errors(found, stack.poses)) < 0.7 * np.median(errors(start, stack.poses))
    assert np.median(errors(found, matched)) < 0.5


def test_the_table_comes_back_with_all_its_columns(folder: Path, stack: ParticleStack, matched: MatchedTable) -> None:
    matched.save(folder / "out.star", overwrite=True)
    again = ParticleStack.open(folder / "out.star")
    assert again.table.files == stack.table.files
    assert again.table.half_set is not None
    assert again.ctf is not None
    assert again.poses is not None
    assert errors(again.poses, matched).max() < 1e-3


def test_images_in_memory_and_a_map_of_other_voxels(folder: Path, stack: ParticleStack) -> None:
    finer = Volume.phantom(size=48, pixel_size=4.0)
    simulator = Simulator(finer, Imaging(snr=2.0), image_size=SIZE, pixel_size=PIXEL)
    clean = simulator(24, torch.Generator().manual_seed(0))
    found = match(clean.images, finer, pixel_size=PIXEL, reach=6.0)
    assert clean.pose.rotation is not None
    assert np.median(errors(found, PoseTable(clean.pose.rotation.numpy()))) < 5
    with pytest.raises(ValueError, match="pixel_size None, expected Angstrom"):
        match(clean.images, finer)


def test_images_that_were_started_too_far_off_are_sought(folder: Path, stack: ParticleStack) -> None:
    start = rough(stack)
    start.rotation[::3] = start.rotation[1::3]  # poses of others
    found = refine(stack, folder / "map.mrc", poses=start)
    assert stack.poses is not None
    assert (errors(start, stack.poses)[::3] > 20).mean() > 0.8
    assert (errors(found, stack.poses)[::3] < 10).mean() > 0.8


def test_only_particles_with_a_pose_are_refined(folder: Path, stack: ParticleStack) -> None:
    few = rough(stack).subset(np.arange(10, 40))
    with pytest.warns(BadInputWarning, match=r"no pose, by the names of images: left out \(42 times"):
        found = refine(stack, folder / "map.mrc", poses=few)
    assert len(found) == 30
    assert stack.poses is not None
    assert np.median(errors(found, stack.poses.subset(np.arange(10, 40)))) < 4


def test_every_optics_group_has_its_noise(folder: Path, stack: ParticleStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two groups, one with images ten times as large: each is whitened with its own."""
    original = ParticleStack.images
    group = np.arange(N) % 2
    other = stack.subset(np.arange(N))
    other.table = replace(other.table, group=group + 7)

    def brighter(self: ParticleStack, rows: np.ndarray) -> np.ndarray:
        return original(self, rows) * (1 + 9 * (np.asarray(rows) % 2))[:, None, None]

    monkeypatch.setattr(ParticleStack, "images", brighter)
    found = refine(other, folder / "map.mrc", poses=rough(stack))
    assert found.noise.shells.shape[0] == 2
    ratio = found.noise.shells[1] / found.noise.shells[0]
    assert float(ratio.median()) == pytest.approx(100, rel=0.2)
    assert stack.poses is not None
    assert np.median(errors(found, stack.poses)) < 4


def test_small_groups_are_estimated_together() -> None:
    groups = np.repeat([5, 6, 7, 9], [40, 3, 50, 2])
    assert module._pooled(groups).tolist() == [1] * 40 + [0] * 3 + [0] * 50 + [0] * 2


def test_inverted_contrast_is_said(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dark = ParticleStack.open(folder / "particles.star", invert=True)
    with pytest.warns(BadInputWarning, match=r"the negatives of the images fit .*map\.mrc better: invert=True"):
        refine(dark, folder / "map.mrc", poses=rough(dark))


@pytest.mark.parametrize(
    ("data", "pixel_size", "message"),
    [
        (np.zeros((16, 16, 16)), 6.0, "a constant map"),
        (np.random.default_rng(0).normal(size=(8, 16, 16)), 6.0, "16 x 16 voxels; expected a cube"),
        (Volume.phantom(size=32, pixel_size=20.0).data.numpy(), 20.0, r"a molecule of \d+ A in images of 192 A"),
    ],
)
def test_maps_that_cannot_be_used(
    tmp_path: Path, stack: ParticleStack, data: np.ndarray, pixel_size: float, message: str
) -> None:
    write_volume(tmp_path / "bad.mrc", data, pixel_size)
    with pytest.raises(BadInput, match=rf"bad\.mrc: .*{message}"):
        match(stack, tmp_path / "bad.mrc")


def said(stack: ParticleStack, volume: Path | Volume, poses: PoseTable | None = None) -> tuple[MatchedTable, list[str]]:
    """Poses, and what is warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = match(stack, volume, reach=24.0) if poses is None else refine(stack, volume, poses=poses)
    return found, [str(warning.message) for warning in caught]


def test_the_right_map_raises_no_doubts(folder: Path, stack: ParticleStack, matched: MatchedTable) -> None:
    _, doubts = said(stack, folder / "map.mrc")
    assert doubts == []
    assert matched.fit.agreement == pytest.approx(1, abs=4 * matched.fit.agreement_error + 0.1)
    assert matched.fit.pixel_size == pytest.approx(PIXEL, rel=0.01)
    assert matched.fit.better == {}


def test_a_map_of_another_molecule_is_said() -> None:
    """A cloud of atoms at random; at 6 Angstrom, where molecules have more than an outline."""
    volume = Volume.phantom(size=64, pixel_size=3.0)
    images = Simulator(volume, Imaging(snr=0.3, shift_sigma=6.0))(48, torch.Generator().manual_seed(0)).images[:, 0]
    right = match(images, volume, pixel_size=3.0)
    assert right.fit.agreement == pytest.approx(1, abs=0.15)
    atoms = np.random.default_rng(0).normal(size=(400, 3)) * (12.0, 12.0, 20.0)
    other = Volume.from_atoms(atoms, np.ones(len(atoms)), size=64, pixel_size=3.0)
    with pytest.warns(BadInputWarning, match="the map seems to be of another molecule"):
        assert match(images, other, pixel_size=3.0).fit.agreement < 0.25


def test_a_wrong_pixel_size_is_said_and_measured(folder: Path, stack: ParticleStack) -> None:
    volume = load_volume(str(folder / "map.mrc"), image_size=SIZE, pixel_size=PIXEL)
    found, doubts = said(stack, Volume(volume.data, 1.04 * PIXEL))
    assert found.fit.pixel_size == pytest.approx(PIXEL, rel=0.015)
    assert any("fits best with voxels of" in doubt for doubt in doubts)


def test_a_mirrored_map_is_said_where_poses_are_given(folder: Path, stack: ParticleStack) -> None:
    volume = load_volume(str(folder / "map.mrc"), image_size=SIZE, pixel_size=PIXEL)
    mirrored = Volume(volume.data.flip(0).roll(1, 0), PIXEL)
    assert any("it is of the other hand" in doubt for doubt in said(stack, mirrored, rough(stack))[1])
    assert not any("hand" in doubt for doubt in said(stack, volume, rough(stack))[1])  # the control


@pytest.mark.parametrize("change", ["phase_flipped", "premultiplied", "none"])
def test_what_was_done_about_the_ctf(folder: Path, stack: ParticleStack, matched: MatchedTable, change: str) -> None:
    """Images are changed by numpy; said in the table the poses are as good as before, not said it is warned of."""
    ctf = stack.ctf
    assert ctf is not None
    assert stack.poses is not None
    k = np.stack(np.meshgrid(np.fft.fftfreq(SIZE, PIXEL), np.fft.fftfreq(SIZE, PIXEL)), -1)
    transfer = ctf(torch.from_numpy(k)).numpy()
    spectra = np.fft.fft2(stack.images(range(N)))
    if change == "none":
        volume = load_volume(str(folder / "map.mrc"), image_size=SIZE, pixel_size=PIXEL)
        pose = [torch.from_numpy(values).float() for values in (stack.poses.rotation, stack.poses.shift)]
        spectra = spectra + np.fft.fft2(Projector(volume)(*pose).numpy()) * (1 - transfer)
    else:
        spectra = spectra * (np.sign(transfer) if change == "phase_flipped" else transfer)
    name = folder / f"{change}.mrcs"
    write_stack(name, np.fft.ifft2(spectra).real.astype(np.float32), PIXEL)
    changed = ParticleStack.open(name)
    known = {name: getattr(stack.table, name) for name in ("ctf", "rotation", "shift", "pixel_size")}
    changed.table = replace(changed.table, **known)
    expected = {
        "phase_flipped": "as if their phases were flipped",
        "premultiplied": "as if multiplied by their CTF",
        "none": "without the CTF of their table",
    }[change]
    assert any(expected in doubt for doubt in said(changed, folder / "map.mrc")[1])
    changed.table = (
        replace(changed.table, ctf=None) if change == "none" else replace(changed.table, corrected=(change,))
    )
    found, doubts = said(changed, folder / "map.mrc")
    assert doubts == []
    error = np.median(errors(found, stack.poses))
    assert error < 1.15 * np.median(errors(matched, stack.poses))


def test_what_is_not_modelled_is_said(folder: Path, stack: ParticleStack) -> None:
    few = stack.subset(np.arange(4))
    few.table = replace(few.table, unmodelled=("rlnBeamTiltX",))
    with pytest.warns(BadInputWarning, match="rlnBeamTiltX: not modelled, and ignored"):
        refine(few, folder / "map.mrc")


def test_particles_without_poses_are_not_refined(folder: Path) -> None:
    stack = ParticleStack.open(folder / "particles.mrcs")
    with pytest.raises(BadInput, match="no poses to refine; give poses, or use match"):
        refine(stack, folder / "map.mrc")


def test_what_is_finished_is_kept(folder: Path, stack: ParticleStack) -> None:
    """Ctrl-C after the first batch; what goes on from there ends in the same."""
    start, kept = rough(stack), []

    def stop(found: Matches) -> None:
        kept.append(found)
        raise KeyboardInterrupt

    with pytest.raises(PredictionStopped, match="stopped after 64 of 72 particles") as caught:
        refine(stack, folder / "map.mrc", poses=start, on_batch=stop)
    assert caught.value.done is not None
    assert len(caught.value.done) == 64
    again = refine(stack, folder / "map.mrc", poses=start, done=kept[0])
    whole = refine(stack, folder / "map.mrc", poses=start)
    for name, values in vars(whole.matches).items():
        assert torch.equal(getattr(again.matches, name), values), name
    with pytest.raises(ValueError, match="64 are done: no whole batches of 64 of 20 particles"):
        refine(stack.subset(range(20)), folder / "map.mrc", done=kept[0])


def test_a_star_file_says_how_sure_poses_are(matched: MatchedTable, tmp_path: Path) -> None:
    """In the columns of RELION, which reads them."""
    matched.save(tmp_path / "matched.star")
    written = starfile.read(tmp_path / "matched.star")["particles"]
    np.testing.assert_allclose(written["rlnMaxValueProbDistribution"], matched.matches.probability, atol=1e-5)
    np.testing.assert_allclose(written["rlnLogLikeliContribution"], matched.matches.merit / 2, rtol=1e-5)


def test_a_large_box_is_compared_up_to_what_the_memory_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    volume = Volume.phantom(size=48, pixel_size=4.0)
    simulator = Simulator(volume, Imaging(snr=4.0, shift_sigma=4.0))
    batch = simulator(40, torch.Generator().manual_seed(0))
    start = _true(batch.pose)
    whole = refine(batch.images[:, 0], volume, poses=start, pixel_size=4.0)
    monkeypatch.setattr(module, "_MOST_PERIODS", 6)
    coarse = refine(batch.images[:, 0], volume, poses=start, pixel_size=4.0)
    assert coarse.matches.error.median() > 1.2 * whole.matches.error.median()
    asked = refine(batch.images[:, 0], volume, poses=start, pixel_size=4.0, resolution=8.0)
    assert asked.matches.error.median() == pytest.approx(float(whole.matches.error.median()), rel=0.05)


def _true(pose: Pose) -> PoseTable:
    rotation, shift, *_ = pose.numpy()
    assert rotation is not None
    return PoseTable(rotation, shift)
