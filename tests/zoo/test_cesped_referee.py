"""CESPED's own evaluator as referee of angular errors. Run with -m referee."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cryozoo.geometry import euler_to_matrix, matrix_to_euler, point_group, random_rotations, rotvec_to_matrix
from cryozoo.geometry.pose import Pose
from cryozoo.zoo.evaluate import pose_metrics

pytestmark = pytest.mark.referee


@pytest.fixture
def theirs() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        statistics = pytest.importorskip("cesped.utils.anglesStats")
    return statistics.computeAngularError


def poses(symmetry: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """RELION's Euler angles of truths, and of predictions that are mates of these and 5 to 25 degrees off."""
    generator = torch.Generator().manual_seed(0)
    truth, axis = (
        random_rotations(200, generator=generator, dtype=torch.float64),
        torch.randn(200, 3, generator=generator),
    )
    angle = torch.deg2rad(5 + 20 * torch.rand(200, 1, generator=generator, dtype=torch.float64))
    group = point_group(symmetry)
    mates = truth @ group[torch.arange(200) % len(group)]
    predicted = rotvec_to_matrix(angle * torch.nn.functional.normalize(axis.double())) @ mates
    return tuple(np.rad2deg(matrix_to_euler(rotation).numpy()) for rotation in (predicted, truth))


def ours(predicted: NDArray[np.float64], truth: NDArray[np.float64], symmetry: str) -> float:
    matrices = (euler_to_matrix(torch.from_numpy(np.deg2rad(angles))) for angles in (predicted, truth))
    return float(pose_metrics(*(Pose(matrix) for matrix in matrices), symmetry=symmetry)["mean_deg"])


@pytest.mark.parametrize("symmetry", ["C1", "C2", "D2", "O"])
def test_mean_errors_are_cespeds(theirs: Any, symmetry: str) -> None:
    predicted, truth = poses(symmetry)
    found = ours(predicted, truth, symmetry)
    assert found == pytest.approx(float(theirs(predicted, truth, symmetry=symmetry)[0]), abs=1e-4)
    assert 14 < found < 16
    if symmetry != "C1":  # control: without symmetry it is another number
        assert ours(predicted, truth, "C1") > 30


@pytest.mark.parametrize("symmetry", ["T", "I"])
def test_their_axes_of_other_groups_are_not_relions(theirs: Any, symmetry: str) -> None:
    """Exact mates in RELION's axes, which test_point_groups compares with RELION itself, score degrees with theirs."""
    _, truth = poses("C1")
    group = point_group(symmetry)
    rotation = euler_to_matrix(torch.from_numpy(np.deg2rad(truth))) @ group[torch.arange(200) % len(group)]
    mates = np.rad2deg(matrix_to_euler(rotation).numpy())
    assert ours(mates, truth, symmetry) < 1e-5
    assert float(theirs(mates, truth, symmetry=symmetry)[0]) > 10
