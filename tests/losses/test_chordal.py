import math
from collections.abc import Callable
from typing import Literal

import pytest
import torch

from cryozoo.geometry.point_groups import point_group
from cryozoo.heads.quaternion import Quaternion
from cryozoo.losses.chordal import Chordal

Norm = Literal["frobenius", "squared", "l1"]
NAIVE: dict[Norm, Callable[[list[float]], float]] = {
    "frobenius": lambda d: math.sqrt(sum(x * x for x in d)),
    "squared": lambda d: sum(x * x for x in d),
    "l1": lambda d: sum(abs(x) for x in d) / 9,
}


@pytest.mark.parametrize("norm", NAIVE)
@pytest.mark.parametrize("symmetry", ["C1", "D2"])
def test_agrees_with_a_loop(norm: Norm, symmetry: str, batch: Callable, angle: Callable) -> None:
    pose, target = batch()
    errors = []
    for a, b in zip(pose.rotation.numpy(), target.rotation.numpy(), strict=True):
        mate = min((b @ g for g in point_group(symmetry).numpy()), key=lambda mate: angle(a, mate))
        errors.append(NAIVE[norm]((a - mate).ravel().tolist()))
    loss = Chordal(norm=norm, symmetry=symmetry)
    assert loss(pose, target).total.item() == pytest.approx(sum(errors) / len(errors), abs=1e-12)


def test_is_a_function_of_the_angle(batch: Callable, angle: Callable) -> None:
    pose, target = batch()
    sines = [math.sin(angle(a, b) / 2) for a, b in zip(pose.rotation.numpy(), target.rotation.numpy(), strict=True)]
    frobenius = sum(2 * math.sqrt(2) * s for s in sines) / len(sines)
    squared = sum(8 * s * s for s in sines) / len(sines)
    assert Chordal(norm="frobenius")(pose, target).total.item() == pytest.approx(frobenius, abs=1e-12)
    assert Chordal(norm="squared")(pose, target).total.item() == pytest.approx(squared, abs=1e-12)


@pytest.mark.parametrize("norm", NAIVE)
def test_gradcheck(norm: Norm, batch: Callable) -> None:
    pose, target = batch()
    raw = pose.raw[:, :4].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda raw: Chordal(norm=norm)(Quaternion()(raw), target).total, raw)


def test_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="'l2', expected 'frobenius', 'squared' or 'l1'"):
        Chordal(norm="l2")  # type: ignore[arg-type]
