import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryozoo.geometry.point_groups import point_group
from cryozoo.heads.embedding import Embedding
from cryozoo.heads.qcqp_bingham import QCQPBingham
from cryozoo.losses.forum import Forum


def quaternion_angle(p: np.ndarray, q: np.ndarray) -> float:
    return 2 * math.acos(min(abs(p @ q), 1))


def chordal_squared(p: np.ndarray, q: np.ndarray) -> float:
    d = float(min(np.linalg.norm(p - q), np.linalg.norm(p + q)))
    return 2 * d**2 * (4 - d**2)


@pytest.mark.parametrize("progress", [0.0, 0.09, 0.5, 1.0])
@pytest.mark.parametrize(
    ("regression", "naive"), [("geodesic", quaternion_angle), ("chordal_squared", chordal_squared)]
)
def test_agrees_with_a_loop_over_quaternions(
    progress: float, regression: Literal["geodesic", "chordal_squared"], naive: Callable, batch: Callable
) -> None:
    pose, target = batch()
    p, t = (Rotation.from_matrix(x.rotation.numpy()).as_quat() for x in (pose, target))
    a = math.sqrt(progress)
    terms = [
        (1 - a) * abs(quaternion_angle(p[i], p[j]) - quaternion_angle(t[i], t[j]))
        + a / 2 * naive(p[i], t[i])
        + a / 2 * naive(p[j], t[j])
        for i in range(7)
        for j in range(i + 1, 7)
    ]
    output = Forum(regression=regression)(pose, target, progress)
    assert output.total.item() == pytest.approx(sum(terms) / len(terms), abs=1e-7)


@pytest.mark.parametrize("pairs", ["random", "stratified"])
def test_regression_term_is_that_of_the_images_drawn(
    pairs: Literal["random", "stratified"], batch: Callable, angle: Callable
) -> None:
    pose, target = batch(30)
    loss = Forum(pairs=pairs, num_pairs=4)
    torch.manual_seed(1)
    drawn = loss.draw(target.rotation).tolist()
    torch.manual_seed(1)
    output = loss(pose, target, 0.25)
    p, t = pose.rotation.numpy(), target.rotation.numpy()
    regression = sum(angle(p[i], t[i]) for pair in drawn for i in pair) / 8
    distance = sum(abs(angle(p[i], p[j]) - angle(t[i], t[j])) for i, j in drawn) / 4
    assert output.parts["regression"].item() == pytest.approx(regression, abs=1e-9)
    assert output.parts["distance"].item() == pytest.approx(distance, abs=1e-9)
    assert output.total.item() == pytest.approx(0.5 * distance + 0.5 * regression, abs=1e-9)


def test_symmetry_agrees_with_the_least_over_the_group(batch: Callable, symmetric_angle: Callable) -> None:
    pose, target = batch()
    group, p, t = point_group("D2").numpy(), pose.rotation.numpy(), target.rotation.numpy()
    pairs = [(i, j) for i in range(7) for j in range(i + 1, 7)]
    distance = [abs(symmetric_angle(p[i], p[j], group) - symmetric_angle(t[i], t[j], group)) for i, j in pairs]
    regression = [symmetric_angle(t[i], p[i], group) for i in range(7)]
    output = Forum(symmetry="D2")(pose, target, 0.5)
    assert output.parts["distance"].item() == pytest.approx(sum(distance) / len(distance), abs=1e-9)
    assert output.parts["regression"].item() == pytest.approx(sum(regression) / 7, abs=1e-9)


@pytest.mark.parametrize("regression", ["geodesic", "chordal_squared"])
def test_gradcheck(regression: Literal["geodesic", "chordal_squared"], batch: Callable) -> None:
    pose, target = batch(4)
    loss, head = Forum(regression=regression), QCQPBingham()
    raw = pose.raw[:, :10].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda raw: loss(head(raw), target, 0.3).total, raw)


def test_curriculum() -> None:
    assert [Forum().regression_weight(p) for p in (0, 0.25, 1)] == [0, 0.5, 1]
    assert Forum(curriculum=0).regression_weight(0.0) == 1  # regression from the start
    knots = Forum(curriculum=[(0.2, 0.1), (0.6, 0.9)])
    assert [knots.regression_weight(p) for p in (0, 0.2, 0.4, 0.6, 1)] == pytest.approx([0.1, 0.1, 0.5, 0.9, 0.9])


@pytest.mark.parametrize(
    "curriculum", [-1.0, [], [(0.5, 0), (0.5, 1)], [(0.6, 0), (0.5, 1)], [(0, 0), (1, 2)], [(0, 1, 2)]]
)
def test_curricula_that_make_no_sense_are_refused(curriculum: Any) -> None:
    with pytest.raises(ValueError, match="curriculum"):
        Forum(curriculum=curriculum)


def test_misuse_is_refused(batch: Callable) -> None:
    with pytest.raises(ValueError, match="'mse', expected"):
        Forum(regression="mse")  # type: ignore[arg-type]
    _, target = batch()
    with pytest.raises(ValueError, match="Forum: the prediction has no rotation"):
        Forum()(Embedding(dim=4)(torch.zeros(7, 4)), target)
