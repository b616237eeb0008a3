"""Sums over SO(3) against closed forms and finer grids, for densities wider and far narrower than the grid."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.spatial.transform import Rotation
from scipy.special import ive
from torch import Tensor

from cryozoo.geometry.harmonics.maxima import SO3Maxima
from cryozoo.geometry.harmonics.series import SO3Series
from cryozoo.geometry.harmonics.sums import SO3Sums, so3_sums
from cryozoo.geometry.harmonics.wigner import WignerD

CPU = torch.device("cpu")


def rotations(n: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(Rotation.random(n, rng=np.random.default_rng(seed)).as_matrix())


def matrix_fisher(singular_values: tuple[float, float, float], n: int = 8) -> Tensor:
    """Coefficients (n, 455) of F = tr(M^T R) for M with these singular values; D^1 is R with axes (y, z, x)."""
    u, v = rotations(n, 1), rotations(n, 2)
    m = (u * torch.tensor(singular_values).double() @ v.mT)[:, [1, 2, 0]][:, :, [1, 2, 0]]
    raw = torch.zeros(n, 455, dtype=torch.float64)
    raw[:, 1:10] = m.mT.flatten(1)
    return raw


def log_normaliser(singular_values: tuple[float, float, float]) -> float:
    """Of the matrix-Fisher density, by its integral over one variable (Lee 2018, arXiv:1710.03746)."""
    a, b, c = singular_values

    def integrand(u: float) -> float:
        down, up = (a - b) * (1 - u) / 2, (a + b) * (1 + u) / 2
        return ive(0, down) * ive(0, up) * math.exp(down + up + c * u - a - b - c) / 2

    return a + b + c + math.log(quad(integrand, -1, 1, points=[1 - 10 ** (-k / 2) for k in range(1, 12)], limit=500)[0])


# Standard deviations, in degrees, are those of 1 / sqrt(sums of two): from 30 to 0.6, and up to 1 : 4 in one density.
WIDE = [(3.0, 2.0, 1.0), (30.0, 20.0, 10.0), (100.0, 20.0, 5.0)]
NARROW = [(300.0, 200.0, 100.0), (300.0, 100.0, 20.0), (1000.0, 300.0, 100.0), (1000.0, 900.0, -800.0), (5e3, 3e3, 2e3)]


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("values", [*WIDE, *NARROW])
def test_normaliser_of_matrix_fisher_densities(values: tuple[float, float, float], order: int) -> None:
    sums, raw, expected = so3_sums(6, order, CPU), matrix_fisher(values), log_normaliser(values)
    assert (sums.log_z(raw) - expected).abs().max() < 0.02
    assert (sums.log_z(raw.float()) - expected).abs().max() < 0.02
    if values in NARROW:  # control: the grid alone
        grid = sums.series.values(raw).logsumexp(1) - math.log(len(sums.series))
        assert (grid - expected).abs().max() > 0.05


@pytest.mark.parametrize("values", [(50.0, 0.0, 0.0), (100.0, 1.0, 0.0), (300.0, 1.0, 0.0)])
def test_ridges_that_are_not_too_narrow(values: tuple[float, float, float]) -> None:
    """The direction of one axis is known, the turn about it is not: lattices do not reach along the whole ridge."""
    error = so3_sums(6, 3, CPU).log_z(matrix_fisher(values)) - log_normaliser(values)
    assert error.abs().max() < 0.05


def peaks(centres: Tensor, degrees: float) -> Tensor:
    """(B, k, 3, 3) -> (B, 455): peaks of one width, and between them the ripples that a series of degree 6 has."""
    return WignerD(6)(centres).sum(1) / (392 * math.radians(degrees) ** 2)


@pytest.fixture(scope="module")
def finer() -> SO3Series:
    """Points 3.75 degrees apart."""
    return SO3Series(6, 4)


# As narrow as the finer grid allows, and peaks whose windows overlap.
@pytest.mark.parametrize(("degrees", "apart"), [(2.5, 150.0), (3.0, 90.0), (4.0, 40.0)])
def test_several_peaks(degrees: float, apart: float, finer: SO3Series) -> None:
    first = rotations(4)
    others = [Rotation.from_rotvec(apart * axis, degrees=True).as_matrix() for axis in np.eye(3)[:2]]
    raw = peaks(torch.stack([first, *(first @ torch.from_numpy(other) for other in others)], 1), degrees).float()
    expected = finer.values(raw).double().logsumexp(1) - math.log(len(finer))
    assert (so3_sums(6, 3, CPU).log_z(raw) - expected).abs().max() < 0.01
    assert (so3_sums(6, 2, CPU).log_z(raw) - expected).abs().max() < 0.02


def test_gradient_is_the_mean_of_the_entries(finer: SO3Series) -> None:
    raw = peaks(torch.stack([rotations(1), rotations(1, 3)], 1), 2.5).float()
    gradients = []
    for sums in (so3_sums(6, 3, CPU).log_z, lambda x: finer.values(x).logsumexp(1)):
        leaf = raw.clone().requires_grad_()
        sums(leaf).sum().backward()
        gradients.append(leaf.grad)
    # entries are at most 1
    torch.testing.assert_close(*gradients, rtol=0, atol=0.01)


@pytest.mark.parametrize("degrees", [1.0, 3.0, 30.0])
def test_windows_divide_the_rotations(degrees: float) -> None:
    """Means of 1 and of F, which is its coefficient of degree 0, with the weights alone."""
    sums = so3_sums(6, 3, CPU)
    raw = peaks(torch.stack([rotations(3), rotations(3, 4)], 1), degrees)
    (samples,) = sums.samples(raw)
    weights = (samples.weighted - samples.value).exp() / len(sums.series)
    assert (weights.sum(1) - 1).abs().max() < 1e-3
    if degrees > 3:  # the lattice of a narrow peak is only as large as the peak
        torch.testing.assert_close((weights * samples.value).sum(1), raw[:, 0], rtol=0, atol=0.01)


def test_lattices_go_through_what_they_are_told() -> None:
    centre = rotations(5)
    turn = Rotation.from_rotvec(np.radians(2) * np.random.default_rng(5).normal(size=(5, 3)))
    truth = centre @ torch.from_numpy(turn.as_matrix())
    raw = peaks(centre[:, None], 2.0)
    for spacing in (0.75, 1.5):
        (samples,) = so3_sums(6, 3, CPU, spacing).samples(raw, through=truth)
        distances = (samples.lattice - truth[:, None]).abs().amax((2, 3))
        assert (distances.amin(1) < 1e-6).all()
        (without,) = so3_sums(6, 3, CPU, spacing).samples(raw)
        assert (samples.log_sum - without.log_sum).abs().max() < 0.01


@pytest.mark.parametrize("scale", [0.0, 1e-40, 1e-20, 1.0, 1e10, 1e30])
def test_finite_at_any_scale(scale: float) -> None:
    raw = (torch.randn(3, 455, generator=torch.Generator().manual_seed(0)) * scale).requires_grad_()
    log_z = so3_sums(6, 2, CPU).log_z(raw)
    log_z.sum().backward()
    assert log_z.isfinite().all()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()


def test_no_images_and_images_that_are_not_finite() -> None:
    sums = so3_sums(2, 1, CPU)
    assert sums.log_z(torch.zeros(0, 35)).shape == (0,)
    raw = torch.randn(3, 35)
    raw[1, 4] = torch.nan
    assert sums.log_z(raw).isnan().tolist() == [False, True, False]


def test_one_for_all_whatever_mode_it_was_asked_in() -> None:
    so3_sums.cache_clear()
    with torch.inference_mode(), torch.device("meta"):
        sums = so3_sums(2, 1, CPU)
    raw = torch.randn(2, 35, requires_grad=True)
    sums.log_z(raw).sum().backward()
    assert so3_sums(2, 1, CPU) is sums
    assert not SO3Sums(SO3Series(2, 1), SO3Maxima(2)).state_dict()
