import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.special import sph_harm_y

from cryozoo.geometry import euler_to_matrix, rotvec_to_matrix
from cryozoo.geometry.harmonics.wigner import WignerD, so3_generators, wigner_d

DEGREES = range(9)


def rotations(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(Rotation.random(n, rng=np.random.default_rng(seed)).as_matrix())


def real_harmonics(degree: int, points: np.ndarray) -> np.ndarray:
    """(n, 3) -> (n, 2l+1), from scipy's complex ones: cosines for m > 0, sines for m < 0, Condon-Shortley undone."""
    polar, azimuth = np.arccos(np.clip(points[:, 2], -1, 1)), np.arctan2(points[:, 1], points[:, 0])
    columns = []
    for m in range(-degree, degree + 1):
        y = sph_harm_y(degree, abs(m), polar, azimuth)
        columns.append(y.real if m == 0 else (-1) ** m * 2**0.5 * (y.real if m > 0 else y.imag))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("degree", DEGREES)
def test_turns_spherical_harmonics(degree: int) -> None:
    turn, points = rotations(40), np.random.default_rng(1).normal(size=(40, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    matrices = wigner_d(degree, turn).numpy()
    turned = real_harmonics(degree, np.einsum("bij,bj->bi", turn.numpy(), points))
    np.testing.assert_allclose(
        np.einsum("bmn,bn->bm", matrices, real_harmonics(degree, points)), turned, rtol=0, atol=1e-13
    )
    if degree:  # and the transposed matrix, the field's favourite mistake, does not
        assert np.abs(np.einsum("bnm,bn->bm", matrices, real_harmonics(degree, points)) - turned).max() > 0.1


def test_degree_one_is_the_rotation_with_its_axes_in_the_order_y_z_x() -> None:
    turn = rotations(10)
    order = [1, 2, 0]
    torch.testing.assert_close(wigner_d(1, turn), turn[:, order][:, :, order], rtol=0, atol=1e-14)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float64, 1e-13)])
def test_is_an_orthogonal_representation(dtype: torch.dtype, tolerance: float) -> None:
    a, b = rotations(60, 2).to(dtype), rotations(60, 3).to(dtype)
    for degree in DEGREES:
        first, second = wigner_d(degree, a), wigner_d(degree, b)
        assert first.dtype == dtype
        assert first.shape == (60, 2 * degree + 1, 2 * degree + 1)
        eye = torch.eye(2 * degree + 1, dtype=dtype).expand_as(first)
        torch.testing.assert_close(first @ first.mT, eye, rtol=0, atol=tolerance)
        torch.testing.assert_close(first @ second, wigner_d(degree, a @ b), rtol=0, atol=tolerance)
        torch.testing.assert_close(wigner_d(degree, a.mT), first.mT, rtol=0, atol=tolerance)


def test_is_the_exponential_of_its_generators() -> None:
    rotvec = torch.tensor([[0.3, -1.1, 0.7], [0.0, 0.0, 2.0], [1e-9, 0.0, 0.0], [0.0, torch.pi, 0.0]]).double()
    for degree in DEGREES:
        x, y, z = generators = so3_generators(degree)
        torch.testing.assert_close(x @ y - y @ x, z, rtol=0, atol=1e-13)
        exponential = torch.matrix_exp(torch.einsum("na,aij->nij", rotvec, generators))
        torch.testing.assert_close(wigner_d(degree, rotvec_to_matrix(rotvec)), exponential, rtol=0, atol=1e-13)


@pytest.mark.parametrize("tilt", [0.0, 1e-9, 1e-4, torch.pi - 1e-9, torch.pi])
def test_nothing_is_lost_at_the_poles_of_euler_angles(tilt: float) -> None:
    a, b = euler_to_matrix(torch.tensor([[0.4, tilt, 1.3], [-2.0, 0.0, 0.1]]).double()), rotations(2, 4)
    for degree in DEGREES:
        product = wigner_d(degree, a) @ wigner_d(degree, b)
        torch.testing.assert_close(wigner_d(degree, a @ b), product, rtol=0, atol=1e-13)


def test_entries_of_all_degrees_in_one_vector() -> None:
    turn = rotations(6).unflatten(0, (2, 3))
    entries = WignerD(4)(turn)
    assert entries.shape == (2, 3, 1 + 9 + 25 + 49 + 81)
    columns = [wigner_d(degree, turn).mT.flatten(-2) for degree in range(5)]
    torch.testing.assert_close(entries, torch.cat(columns, -1), rtol=0, atol=1e-14)
    assert not WignerD(4).state_dict()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-5), (torch.float64, 1e-12)])
def test_series_are_sums_of_coefficients_times_entries(dtype: torch.dtype, tolerance: float) -> None:
    wigner, turn = WignerD(6), rotations(30).unflatten(0, (3, 10)).to(dtype)
    coefficients = torch.from_numpy(np.random.default_rng(6).normal(size=(3, 455))).to(dtype).requires_grad_()
    entries = wigner(turn)
    found = wigner.series(coefficients, turn)
    torch.testing.assert_close(found, (entries @ coefficients[..., None]).squeeze(-1), rtol=0, atol=tolerance)
    found.sum().backward()
    torch.testing.assert_close(coefficients.grad, entries.sum(1), rtol=0, atol=tolerance)


def test_no_rotations() -> None:
    assert WignerD(2)(torch.zeros(0, 4, 3, 3)).shape == (0, 4, 35)
    assert WignerD(2).series(torch.zeros(0, 35), torch.zeros(0, 4, 3, 3)).shape == (0, 4)
    assert wigner_d(2, torch.zeros(0, 3, 3)).shape == (0, 5, 5)


def test_gradcheck() -> None:
    euler = torch.tensor([[0.3, 1.1, -0.4], [2.0, 0.2, 1.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda e: WignerD(3)(euler_to_matrix(e)), euler)


def test_negative_degree_is_refused() -> None:
    with pytest.raises(ValueError, match="degree -1"):
        wigner_d(-1, torch.eye(3))


@pytest.mark.referee
def test_agrees_with_lie_learn() -> None:
    """At Rz(a) Ry(b) Rz(c)."""
    module = pytest.importorskip("lie_learn.representations.SO3.wigner_d")
    convention = {"field": "real", "normalization": "quantum", "order": "centered", "condon_shortley": "cs"}
    for a, b, c in np.random.default_rng(5).uniform(-3, 3, (10, 3)):
        turn = torch.from_numpy(Rotation.from_euler("ZYZ", [a, b, c]).as_matrix())
        for degree in DEGREES:
            other = module.wigner_D_matrix(degree, a, b, c, **convention)
            np.testing.assert_allclose(wigner_d(degree, turn), other, rtol=0, atol=1e-13)
