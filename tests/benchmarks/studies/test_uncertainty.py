"""The error that a Bingham density predicts, against sampling from it."""

import numpy as np
import pytest
import torch

from cryozoo.benchmarks.studies.uncertainty import expected_error_deg
from cryozoo.heads.qcqp_bingham import bingham_matrix


@pytest.mark.parametrize("scale", [15.0, 40.0])
def test_expected_error_is_the_root_mean_square_angle_of_the_density(scale: float) -> None:
    """Self-normalised importance sampling with Gaussian steps of twice the predicted width about the mode."""
    raw = scale * torch.randn(1, 10, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    predicted = np.radians(expected_error_deg(raw)[0])
    matrix = bingham_matrix(raw)[0].numpy()
    values = np.linalg.eigvalsh(matrix)
    rng = np.random.default_rng(0)
    width = 2 * np.sqrt(0.5 / (values[1:] - values[0]))  # of the quaternion's components: half the angle's
    steps = width * rng.normal(size=(400_000, 3))
    steps = steps[(steps**2).sum(1) < 1]
    along = np.sqrt(1 - (steps**2).sum(1))
    # On the sphere the steps have density N(step) * along, because the area element is d step / along.
    log_target = -((values[1:] - values[0]) * steps**2).sum(1)
    log_proposal = -0.5 * ((steps / width) ** 2).sum(1) + np.log(along)
    weight = np.exp(log_target - log_proposal)
    angle = 2 * np.arccos(along)
    assert predicted == pytest.approx(np.sqrt((weight * angle**2).sum() / weight.sum()), rel=0.03)
