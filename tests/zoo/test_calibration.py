"""Truths at the quantiles of the densities themselves, and of wider and narrower ones.

Quantiles instead of draws: nothing is left to chance, so an error of calibration is one of the sums over rotations.
"""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.stats import chi
from torch import Tensor

from cryozoo.geometry.harmonics.series import SO3Series
from cryozoo.geometry.harmonics.wigner import WignerD, wigner_d
from cryozoo.geometry.point_groups import point_group
from cryozoo.zoo.calibration import calibration_metrics

N = 100
RNG = np.random.default_rng(0)
LEVELS = (np.arange(N) + 0.5) / N
ANGLES = np.radians(np.geomspace(0.001, 180, 20_000))


def character(angle: np.ndarray) -> np.ndarray:
    """The sum of the characters of degree 0 to 6, 1 at angle 0, where its curvature is 8."""
    return np.sum([np.sin((degree + 0.5) * angle) / np.sin(angle / 2) for degree in range(7)], 0) / 49


def share_within(height: float) -> np.ndarray:
    """Of the density exp(height x character), within each of ANGLES."""
    cumulative = np.cumsum((1 - np.cos(ANGLES)) * np.exp(height * (character(ANGLES) - 1)) * np.gradient(ANGLES))
    return cumulative / cumulative[-1]


def directions(n: int) -> np.ndarray:
    axis = RNG.normal(size=(n, 3))
    return axis / np.linalg.norm(axis, axis=1, keepdims=True)


def one_peak(degrees: float) -> tuple[Tensor, Tensor]:
    """Raw vectors (N, 455) of peaks of one width at random places, and a rotation from each density."""
    height = 1 / (8 * math.radians(degrees) ** 2)
    angle = np.interp(LEVELS, share_within(height), ANGLES)
    centre = Rotation.random(N, rng=RNG)
    truth = centre * Rotation.from_rotvec(angle[:, None] * directions(N))
    return height / 49 * WignerD(6)(torch.from_numpy(centre.as_matrix())), torch.from_numpy(truth.as_matrix())


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("degrees", [30.0, 8.0, 5.0, 3.0, 1.2, 0.3])
def test_densities_that_the_truths_come_from_are_calibrated(degrees: float, order: int) -> None:
    raw, truth = one_peak(degrees)
    metrics = calibration_metrics(raw.float(), truth, order=order)
    assert metrics["ece"] < 0.01
    assert metrics["coverage_50"] == pytest.approx(0.5, abs=0.025)
    assert metrics["coverage_90"] == pytest.approx(0.9, abs=0.025)


@pytest.mark.parametrize("symmetry", ["C3", "D2"])
def test_one_mate_is_as_good_as_another(symmetry: str) -> None:
    """A density that favours one mate says as much of the others; which one the truth is given as does not matter."""
    raw, truth = one_peak(5.0)
    group = point_group(symmetry)
    turned = truth @ group[torch.arange(N) % len(group)]
    plain = calibration_metrics(raw.float(), truth)
    found = calibration_metrics(raw.float(), turned, symmetry=symmetry)
    assert found["ece"] == pytest.approx(plain["ece"], abs=1e-3)
    assert found["coverage_90"] == pytest.approx(plain["coverage_90"], abs=0.02)
    assert found["nll"] == pytest.approx(plain["nll"] + math.log(len(group)), abs=1e-3)
    assert calibration_metrics(raw.float(), turned)["ece"] > 0.2


def test_a_density_that_is_wider_in_one_direction_is_calibrated() -> None:
    """Matrix-Fisher, exp(tr(M^T R)), whose peak is normal with precisions that are sums of two singular values."""
    singular = np.array([3000.0, 1000.0, 100.0])
    scale = (singular.sum() - singular) ** -0.5
    u, v = Rotation.random(N, rng=RNG), Rotation.random(N, rng=RNG)
    off = Rotation.from_rotvec(scale * chi(3).ppf(LEVELS)[:, None] * directions(N))
    truth = (u * off * v).as_matrix()
    m = (u.as_matrix() * singular @ v.as_matrix())[:, [1, 2, 0]][:, :, [1, 2, 0]]
    raw = torch.zeros(N, 455)
    raw[:, 1:10] = torch.from_numpy(m).mT.flatten(1)
    metrics = calibration_metrics(raw, torch.from_numpy(truth))
    assert metrics["ece"] < 0.01
    # of a normal density, relative to that of all rotations, 8 pi^2
    normal = 1.5 * math.log(2 * math.pi) + np.log(scale).sum() + (chi(3).ppf(LEVELS) ** 2).mean() / 2
    assert metrics["nll"] == pytest.approx(normal - math.log(8 * math.pi**2), abs=0.01)


@pytest.mark.parametrize("factor", [3.0, 1 / 3])
@pytest.mark.parametrize("degrees", [2.0, 6.0])
def test_overconfident_and_underconfident_densities_are_told_apart(degrees: float, factor: float) -> None:
    raw, truth = one_peak(degrees)
    right, wrong = calibration_metrics(raw.float(), truth), calibration_metrics(factor * raw.float(), truth)
    height = 1 / (8 * math.radians(degrees) ** 2)
    level = np.interp(np.interp(LEVELS, share_within(height), ANGLES), ANGLES, share_within(factor * height))
    assert wrong["ece"] == pytest.approx(np.abs(level - LEVELS).mean(), abs=0.01)
    assert wrong["coverage_50"] == pytest.approx((level <= 0.5).mean(), abs=0.025)
    assert wrong["coverage_90"] == pytest.approx((level <= 0.9).mean(), abs=0.025)
    assert right["nll"] < wrong["nll"] - 0.2
    assert right["ece"] < 0.1 * wrong["ece"]


@pytest.mark.parametrize("order", [2, 3])
def test_two_peaks(order: int) -> None:
    """Of equal height, farther apart than they are wide, and the truth from the first."""
    raw, truth = one_peak(3.0)
    # moving a density by A on the left moves its coefficients by D(A), in every degree
    turn = torch.from_numpy(Rotation.from_rotvec([0, 2.5, 0]).as_matrix())
    blocks = raw.split([(2 * degree + 1) ** 2 for degree in range(7)], 1)
    moved = [b.unflatten(1, (n, n)) @ wigner_d(n // 2, turn).mT for b, n in zip(blocks, range(1, 14, 2), strict=True)]
    raw = raw + torch.cat([b.flatten(1) for b in moved], 1)
    metrics = calibration_metrics(raw.float(), truth, order=order)
    assert metrics["ece"] < 0.02
    finer = SO3Series(6, 4)
    log_z = torch.cat([finer.values(part).logsumexp(1) for part in raw.float().split(8)]) - math.log(len(finer))
    nll = (log_z - (raw * WignerD(6)(truth)).sum(1)).mean()
    assert metrics["nll"] == pytest.approx(float(nll), abs=0.01)


def test_what_chance_makes_of_perfect_calibration() -> None:
    """The docstring's figure, for many sets of levels drawn as they should be."""
    for n in (50, 1000):
        levels = np.sort(np.random.default_rng(n).uniform(size=(2000, n)), 1)
        ece = np.abs(levels - (np.arange(n) + 0.5) / n).mean()
        assert ece == pytest.approx(math.sqrt(2 * math.pi / n) / 8, rel=0.03)


def test_other_raw_vectors_and_none_are_refused() -> None:
    with pytest.raises(ValueError, match="10 numbers is not that of an SO3Harmonic head"):
        calibration_metrics(torch.zeros(2, 10), torch.eye(3).expand(2, 3, 3))
    with pytest.raises(ValueError, match="no raw vectors"):
        calibration_metrics(torch.zeros(0, 35), torch.zeros(0, 3, 3))
