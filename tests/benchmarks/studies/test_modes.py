"""Densities with modes where they belong, and where they do not."""

import pytest
import torch

from cryozoo.benchmarks.studies.modes import mode_metrics
from cryozoo.geometry import WignerD, point_group, random_rotations
from cryozoo.heads.so3_harmonic import SO3Harmonic


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_mode_at_every_mate_and_the_control(symmetric: bool) -> None:
    """Peaks at the mates of the truth, and of its transpose."""
    truth = random_rotations(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    group = point_group("D2")
    mates = (truth if symmetric else truth.mT)[:, None] @ group
    raw = WignerD(6)(mates).sum(1).float() * 0.6
    metrics = mode_metrics(SO3Harmonic().modes(raw, 5), truth, group)
    assert metrics["mates"] == 4
    # a ball of 15 degrees is a thousandth of SO(3)
    assert metrics["mates_found_at_random"] == pytest.approx(4 * 4 * 0.00095, rel=0.01)
    if symmetric:
        assert metrics["mates_found"] == 4
        assert metrics["all_found"] == 1
        assert metrics["probability_in_modes"] > 0.6
        assert metrics["least_over_greatest"] > 0.9
        assert metrics["probability_of_next"] < 0.02
    else:
        assert metrics["mates_found"] < 0.5
