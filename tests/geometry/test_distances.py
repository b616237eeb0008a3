import mpmath
import numpy as np
import pytest
import roma
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryozoo.geometry import (
    chordal_distance,
    geodesic_distance,
    matrix_to_quaternion,
    quaternion_distance,
    rotvec_to_matrix,
)

PI = torch.pi
ANGLES = [0.0, 1e-12, 1e-9, 1e-7, 1e-5, 1e-3, 0.5, 1.5, 2.5, PI - 1e-3, PI - 1e-6, PI - 1e-9, PI]


def _pairs(angle: float, n: int = 200) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(int(angle * 1e6) + 1)
    axis = rng.standard_normal((n, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    a = Rotation.random(n, rng=rng)
    b = a * Rotation.from_rotvec(axis * angle)
    return torch.from_numpy(a.as_matrix()), torch.from_numpy(b.as_matrix())


def _exact_geodesic(a: Tensor, b: Tensor) -> float:
    """The angle between two matrices as they are stored, with 40 digits."""
    with mpmath.workdps(40):
        d = mpmath.matrix(a.tolist()).T * mpmath.matrix(b.tolist())
        sine = mpmath.norm([d[2, 1] - d[1, 2], d[0, 2] - d[2, 0], d[1, 0] - d[0, 1]])
        return float(mpmath.atan2(sine, d[0, 0] + d[1, 1] + d[2, 2] - 1))


@pytest.mark.parametrize("angle", ANGLES)
def test_geodesic_distance_at_known_angles(angle: float) -> None:
    a, b = _pairs(angle)
    assert (geodesic_distance(a, b) - angle).abs().max() < 2e-15
    assert (geodesic_distance(b, a) - angle).abs().max() < 2e-15
    # rounding the matrices to float32 moves the angle itself by 1e-7; nothing is lost beyond
    single = geodesic_distance(a.float(), b.float())
    assert single.dtype == torch.float32
    assert (single - angle).abs().max() < 4e-7


@pytest.mark.parametrize("angle", ANGLES)
def test_geodesic_distance_in_float32_adds_no_error_of_its_own(angle: float) -> None:
    a, b = (x.float() for x in _pairs(angle, 20))
    exact = torch.tensor([_exact_geodesic(x, y) for x, y in zip(a, b, strict=True)], dtype=torch.float64)
    error = (geodesic_distance(a, b).double() - exact).abs()
    assert error.max() < 2.5e-7
    assert (error <= 4e-7 * exact + 1e-12).all() or angle > 0.1  # relative accuracy where it is small


def test_geodesic_distance_against_roma_and_scipy() -> None:
    a = torch.from_numpy(Rotation.random(2000, rng=np.random.default_rng(0)).as_matrix())
    b = torch.from_numpy(Rotation.random(2000, rng=np.random.default_rng(1)).as_matrix())
    ours = geodesic_distance(a, b)
    assert (ours - roma.rotmat_geodesic_distance(a, b)).abs().max() < 1e-12
    scipy = (Rotation.from_matrix(a.numpy()).inv() * Rotation.from_matrix(b.numpy())).magnitude()
    assert np.abs(ours.numpy() - scipy).max() < 1e-14


def test_quaternion_distance() -> None:
    for angle in ANGLES:
        a, b = _pairs(angle)
        p, q = matrix_to_quaternion(a), matrix_to_quaternion(b)
        for sign in (1, -1):
            assert (quaternion_distance(p, sign * q) - angle).abs().max() < 1e-14
        single = quaternion_distance(p.float(), -q.float())
        assert (single - angle).abs().max() < 1e-6
    a, b = _pairs(1.0)
    p, q = matrix_to_quaternion(a), matrix_to_quaternion(b)
    assert torch.allclose(quaternion_distance(p, q), 2 * (p * q).sum(-1).abs().arccos(), atol=1e-12, rtol=0)


def test_chordal_distance() -> None:
    for angle in ANGLES:
        a, b = _pairs(angle)
        assert (chordal_distance(a, b) - 2 * np.sqrt(2) * np.sin(angle / 2)).abs().max() < 3e-15


def test_distances_broadcast() -> None:
    a, b = _pairs(0.7, 6)
    assert geodesic_distance(a[:, None], b).shape == (6, 6)
    assert chordal_distance(a[:, None], b).shape == (6, 6)
    assert geodesic_distance(a[:, None], b).diagonal().allclose(torch.tensor(0.7, dtype=torch.float64))
    assert quaternion_distance(matrix_to_quaternion(a)[:, None], matrix_to_quaternion(b)).shape == (6, 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_zero_at_the_kinks_and_right_beside_them(dtype: torch.dtype) -> None:
    eye = torch.eye(3, dtype=dtype)
    for flip in (eye, torch.diag(torch.tensor([1, -1, -1])).to(dtype)):
        for function in (geodesic_distance, chordal_distance):
            a, b = eye.clone().requires_grad_(), flip.clone().requires_grad_()
            function(a, b).backward()
            assert a.grad is not None
            assert b.grad is not None
            assert a.grad.isfinite().all()
            assert b.grad.isfinite().all()
    for p, q in (((1, 0, 0, 0), (1, 0, 0, 0)), ((1, 0, 0, 0), (-1, 0, 0, 0)), ((1, 0, 0, 0), (0, 1, 0, 0))):
        x = torch.tensor(p, dtype=dtype, requires_grad=True)
        y = torch.tensor(q, dtype=dtype, requires_grad=True)
        quaternion_distance(x, y).backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()

    # a slope of exactly 1 along the geodesic, from 1e-6 after 0 to 1e-6 before pi
    for angle in (1e-6, 1e-3, 1.0, 2.5, PI - 1e-3, PI - 1e-6):
        t = torch.tensor(angle, dtype=torch.float64, requires_grad=True)
        axis = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
        geodesic_distance(torch.eye(3, dtype=torch.float64), rotvec_to_matrix(t * axis)).backward()
        assert t.grad is not None
        assert t.grad.item() == pytest.approx(1.0, abs=1e-7)


def test_gradient_against_finite_differences() -> None:
    a, b = _pairs(1.2, 4)
    assert torch.autograd.gradcheck(geodesic_distance, (a.requires_grad_(), b.requires_grad_()), atol=1e-7)
    p, q = matrix_to_quaternion(a.detach()), matrix_to_quaternion(b.detach())
    assert torch.autograd.gradcheck(quaternion_distance, (p.requires_grad_(), -q.requires_grad_()), atol=1e-7)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        geodesic_distance(torch.ones(5, 4), torch.ones(5, 4))
    with pytest.raises(ValueError, match="expected"):
        quaternion_distance(torch.ones(5, 3), torch.ones(5, 4))
