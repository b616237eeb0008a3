"""Truths from the densities themselves, and from wider and narrower ones."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryozoo.geometry.wigner import WignerD
from cryozoo.zoo.calibration import calibration_metrics


def one_peak(degrees: float, n: int = 200, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Raw vectors (n, 455) of peaks of a width at random places, and a rotation from each density.

    F = height x the sum of the characters of degree 0 to 6 / 49 depends on the angle from the peak alone.
    """
    rng = np.random.default_rng(seed)
    height = 1 / (8 * math.radians(degrees) ** 2)
    t = np.radians(np.linspace(0, 180, 100_001)[1:])
    f = height * sum(np.sin((degree + 0.5) * t) / np.sin(t / 2) for degree in range(7)) / 49
    cumulative = np.cumsum((1 - np.cos(t)) * np.exp(f - height))
    angle = np.interp((np.arange(n) + 0.5) / n, cumulative / cumulative[-1], t)  # quantiles: less noise than draws
    axis = rng.normal(size=(n, 3))
    centre = Rotation.random(n, rng=rng)
    truth = centre * Rotation.from_rotvec(angle[:, None] * axis / np.linalg.norm(axis, axis=1, keepdims=True))
    raw = height / 49 * WignerD(6)(torch.from_numpy(centre.as_matrix()))
    return raw.float(), torch.from_numpy(truth.as_matrix())


@pytest.mark.parametrize("degrees", [30.0, 8.0, 4.0, 2.0, 1.2])
def test_densities_that_the_truths_come_from_are_calibrated(degrees: float) -> None:
    raw, truth = one_peak(degrees)
    metrics = calibration_metrics(raw, truth)
    assert metrics["ece"] < 0.02
    assert metrics["coverage_50"] == pytest.approx(0.5, abs=0.05)
    assert metrics["coverage_90"] == pytest.approx(0.9, abs=0.03)


def test_overconfident_and_underconfident_densities_are_told_apart() -> None:
    raw, truth = one_peak(6.0)
    right, over, under = (calibration_metrics(factor * raw, truth) for factor in (1.0, 3.0, 1 / 3))
    assert right["nll"] < min(over["nll"], under["nll"])
    assert over["ece"] > 0.15
    assert over["coverage_90"] < 0.6
    assert under["ece"] > 0.15
    assert under["coverage_50"] > 0.8


def test_two_peaks_and_a_grid_of_another_order() -> None:
    """The truth is from the first of two peaks of equal height, which are farther apart than they are wide."""
    raw, truth = one_peak(5.0)
    far = Rotation.from_rotvec([0, 0, 2.5]) * Rotation.from_matrix(truth)
    other = 1 / (8 * math.radians(5.0) ** 2) / 49 * WignerD(6)(torch.from_numpy(far.as_matrix()))
    for order in (2, 3):
        metrics = calibration_metrics(raw + other.float(), truth, order=order)
        assert metrics["ece"] < 0.06
        alone = calibration_metrics(raw, truth, order=order)
        assert metrics["nll"] == pytest.approx(alone["nll"] + math.log(2), abs=0.15)


def test_other_raw_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="10 numbers is not that of an SO3Harmonic head"):
        calibration_metrics(torch.zeros(2, 10), torch.eye(3).expand(2, 3, 3))
