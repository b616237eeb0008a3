import math
from collections.abc import Callable

import pytest
import torch
from scipy.spatial.transform import Rotation

from cryozoo.geometry.point_groups import closest_mate, point_group
from cryozoo.geometry.pose import Pose
from cryozoo.heads.quaternion import Quaternion
from cryozoo.losses.geodesic import Geodesic


def test_agrees_with_a_loop(batch: Callable, angle: Callable) -> None:
    pose, target = batch()
    angles = [angle(a, b) for a, b in zip(pose.rotation.numpy(), target.rotation.numpy(), strict=True)]
    output = Geodesic()(pose, target)
    assert output.total.item() == pytest.approx(sum(angles) / len(angles), abs=1e-12)
    assert output.parts["rotation"].item() == output.total.item()


@pytest.mark.parametrize("symmetry", ["C4", "D3", "T"])
def test_symmetry_agrees_with_the_least_over_the_group(
    symmetry: str, batch: Callable, symmetric_angle: Callable
) -> None:
    pose, target = batch()
    group = point_group(symmetry).numpy()
    angles = [symmetric_angle(b, a, group) for a, b in zip(pose.rotation.numpy(), target.rotation.numpy(), strict=True)]
    assert Geodesic(symmetry=symmetry)(pose, target).total.item() == pytest.approx(sum(angles) / len(angles), abs=1e-9)


@pytest.mark.parametrize("symmetry", ["C1", "D2"])
def test_gradcheck(symmetry: str, batch: Callable) -> None:
    pose, target = batch()
    loss, head = Geodesic(symmetry=symmetry), Quaternion()
    raw = pose.raw[:, :4].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda raw: loss(head(raw), target).total, raw)


def test_gradient_has_the_same_length_at_every_angle() -> None:
    lengths = []
    for degrees in (1e-2, 1, 90, 179, 179.99):
        vector = torch.tensor([[math.radians(degrees), 0, 0]], dtype=torch.float64)
        rotation = torch.from_numpy(Rotation.from_rotvec(vector.numpy()).as_matrix()).requires_grad_()
        eye = torch.eye(3, dtype=torch.float64)[None]
        Geodesic()(Pose(rotation=rotation), Pose(rotation=eye)).total.backward()
        assert rotation.grad is not None
        tangent = rotation.detach().mT @ rotation.grad
        lengths.append((tangent - tangent.mT).norm().item())
    assert lengths == pytest.approx([math.sqrt(2)] * 5, rel=1e-6)


def test_opposite_quaternions_are_the_same_rotation() -> None:
    raw = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    output = Geodesic()(Quaternion()(raw), Quaternion()(-raw.detach()))
    output.total.backward()
    assert output.total.item() < 1e-6
    assert raw.grad is not None
    assert raw.grad.isfinite().all()


def test_mates_come_from_the_group(rotations: Callable) -> None:
    group = point_group("D2")
    target = rotations(9)
    predicted = target @ group[torch.arange(9) % 4]
    torch.testing.assert_close(Geodesic(symmetry="D2").mate(predicted, target), predicted, rtol=0, atol=1e-12)
    torch.testing.assert_close(closest_mate(predicted, target, group), predicted, rtol=0, atol=1e-12)
