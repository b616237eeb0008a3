"""What every loss promises, each promise checked for every loss; the losses' own files check what is theirs alone."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from cryozoo.geometry.point_groups import point_group
from cryozoo.geometry.pose import Pose
from cryozoo.heads.embedding import Embedding, Metric
from cryozoo.heads.qcqp_bingham import QCQPBingham
from cryozoo.heads.so3_harmonic import SO3Harmonic
from cryozoo.losses import Loss
from cryozoo.losses.bingham import BinghamNLL
from cryozoo.losses.chordal import Chordal
from cryozoo.losses.forum import Forum
from cryozoo.losses.geodesic import Geodesic
from cryozoo.losses.rotation_laplace import RotationLaplace
from cryozoo.losses.siamese import SiameseDistance
from cryozoo.testing import check_loss
from cryozoo.zoo.registry import get_part, list_parts

MakeBatch = Callable[..., Any]  # Pose, Pose with every field there
MakeLoss = Callable[..., Loss]

ALL_LOSSES: dict[str, MakeLoss] = {
    "Geodesic": Geodesic,
    "Chordal frobenius": lambda **args: Chordal(norm="frobenius", **args),
    "Chordal squared": lambda **args: Chordal(norm="squared", **args),
    "Chordal l1": lambda **args: Chordal(norm="l1", **args),
    "BinghamNLL": BinghamNLL,
    "RotationLaplace": RotationLaplace,
    "SiameseDistance": SiameseDistance,
    "SiameseDistance stratified": lambda **args: SiameseDistance(pairs="stratified", **args),
    "Forum": Forum,
    "Forum chordal": lambda **args: Forum(regression="chordal_squared", **args),
}
all_losses = pytest.mark.parametrize("make", ALL_LOSSES.values(), ids=ALL_LOSSES.keys())


@pytest.mark.parametrize("symmetry", ["C1", "C3", "D2", "O"])
@all_losses
def test_what_every_loss_promises(make: MakeLoss, symmetry: str) -> None:
    check_loss(make(symmetry=symmetry))


@pytest.mark.parametrize("name", [name for name in list_parts("loss") if not name.startswith("reconstruction_")])
def test_what_every_registered_loss_promises(name: str) -> None:
    check_loss(
        get_part("loss", name).load()(),
        head=SO3Harmonic(lmax=2, order=1) if name in ("so3_nll", "wigner_mse") else None,
    )


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_what_distances_of_embeddings_promise(metric: Metric) -> None:
    check_loss(SiameseDistance(metric=metric), head=Embedding(dim=16))


def total(loss: Loss, pose: Pose, target: Pose, progress: float = 0.5) -> torch.Tensor:
    torch.manual_seed(0)  # the pairs
    return loss(pose, target, progress).total


@all_losses
def test_every_image_has_a_gradient(make: MakeLoss, batch: MakeBatch) -> None:
    pose, target = batch()
    leaf = pose.raw.clone().requires_grad_()
    total(make(), QCQPBingham()(leaf), target).backward()
    assert leaf.grad is not None
    assert (leaf.grad != 0).any(1).all()


@all_losses
def test_total_falls_when_it_is_minimised(make: MakeLoss, batch: MakeBatch) -> None:
    pose, target = batch(16, torch.float32)
    head, loss = QCQPBingham(), make()
    raw = pose.raw.clone().requires_grad_()
    optimiser = torch.optim.Adam([raw], lr=0.03)
    values = []
    for _ in range(150):
        optimiser.zero_grad()
        value = total(loss, head(raw), target)
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert values[-1] < 0.4 * values[0]


@all_losses
def test_dtype_of_the_prediction_decides(make: MakeLoss, batch: MakeBatch) -> None:
    double, target = batch()
    single, _ = batch(dtype=torch.float32)
    assert total(make(), double, target).dtype == torch.float64
    mixed = total(make(), single, target)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed.double(), total(make(), double, target), rtol=1e-4, atol=1e-5)


@all_losses
@pytest.mark.parametrize("symmetry", ["C3", "D2", "O"])
def test_without_the_symmetry_a_mate_is_not_as_good(make: MakeLoss, symmetry: str, batch: MakeBatch) -> None:
    pose, target = batch()
    pose = QCQPBingham()(pose.raw)
    group = point_group(symmetry)
    mates = torch.stack([r @ group[i % len(group)] for i, r in enumerate(target.rotation)])
    assert abs(total(make(), pose, Pose(rotation=mates)) - total(make(), pose, target)) > 1e-3


# Without the losses of distances alone: their error can grow when both distances shrink. Forum has none at the end.
@pytest.mark.parametrize("make", [make for name, make in ALL_LOSSES.items() if "Siamese" not in name])
def test_symmetry_makes_a_loss_smaller(make: MakeLoss, batch: MakeBatch) -> None:
    pose, target = batch(12)
    pose = QCQPBingham()(pose.raw)
    assert total(make(symmetry="C2"), pose, target, 1.0) < total(make(), pose, target, 1.0)


@all_losses
@pytest.mark.parametrize(
    ("change_pose", "change_target", "message"),
    [
        ({}, {"rotation": None}, "the target has no rotation"),
        ({"rotation": torch.zeros(6, 3, 3)}, {}, r"predicted rotation \(6, 3, 3\), expected \(7, 3, 3\)"),
        ({"rotation": torch.zeros(7, 9)}, {}, r"predicted rotation \(7, 9\), expected \(7, 3, 3\)"),
        ({"raw": torch.zeros(6, 12)}, {}, r"predicted raw \(6, 12\), expected \(7, any\)"),
        ({}, {"rotation": torch.zeros(7, 4)}, r"target rotation \(7, 4\), expected \(7, 3, 3\)"),
        ({"rotation": None, "raw": None}, {}, "the prediction has no|the prediction has no raw vector"),
    ],
)
def test_what_is_missing_or_misshapen_is_named(
    make: MakeLoss, batch: MakeBatch, change_pose: dict, change_target: dict, message: str
) -> None:
    pose, target = batch()
    loss = make()
    with pytest.raises(ValueError, match=f"{type(loss).__name__}: .*({message})"):
        loss(pose._replace(**change_pose), target._replace(**change_target))


def test_empty_batches_and_wrong_progress_are_named(batch: MakeBatch) -> None:
    pose, target = batch()
    empty = Pose(rotation=torch.zeros(0, 3, 3))
    with pytest.raises(ValueError, match="Chordal: the batch is empty"):
        Chordal()(empty, empty)
    for progress in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=re.escape(f"Chordal: progress {progress}, expected 0 to 1")):
            Chordal()(pose, target, progress)


@all_losses
def test_an_unknown_symmetry_is_refused(make: MakeLoss) -> None:
    with pytest.raises(ValueError, match="X7"):
        make(symmetry="X7")


def degenerate_rotations() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Pairs of rotations at which a careless distance divides by zero."""
    turn = lambda *diagonal: torch.diag(torch.tensor(diagonal, dtype=torch.float32))  # noqa: E731
    eye = torch.eye(3)
    return {"distance 0": (eye, eye), "distance pi": (eye, turn(1, -1, -1)), "pi about z": (turn(-1, -1, 1), eye)}


@all_losses
@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("symmetry", ["C1", "D2"])
def test_gradients_are_finite_at_distance_0_and_pi(make: MakeLoss, progress: float, symmetry: str) -> None:
    for name, (predicted, true) in degenerate_rotations().items():
        predicted = predicted.expand(4, 3, 3).clone().requires_grad_()
        raw = torch.tensor([[0.0, 0, 1, 0, 0, 1, 0, 0, 0, 1]]).repeat(4, 1).requires_grad_()
        target = Pose(rotation=true.expand(4, 3, 3))
        total(make(symmetry=symmetry), Pose(rotation=predicted, raw=raw), target, progress).backward()
        for leaf in (predicted, raw):
            assert leaf.grad is None or leaf.grad.isfinite().all(), name
        assert predicted.grad is not None or raw.grad is not None
