"""Naive references: scipy rotations, one pair at a time."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryozoo.geometry.pose import Pose

Matrix = np.ndarray


@pytest.fixture(scope="session")
def rotations() -> Callable[..., torch.Tensor]:
    """``rotations(n, seed)``: uniform rotations, (n, 3, 3) float64."""
    return lambda n, seed=0: torch.from_numpy(Rotation.random(n, rng=np.random.default_rng(seed)).as_matrix())


@pytest.fixture(scope="session")
def angle() -> Callable[[Matrix, Matrix], float]:
    """Angle between two rotation matrices in radians."""
    return lambda a, b: (Rotation.from_matrix(a).inv() * Rotation.from_matrix(b)).magnitude()


@pytest.fixture(scope="session")
def symmetric_angle(angle: Callable[[Matrix, Matrix], float]) -> Callable[[Matrix, Matrix, Matrix], float]:
    """Least angle between a g and b over the elements g of a group."""
    return lambda a, b, group: min(angle(a @ g, b) for g in group)


@pytest.fixture(scope="session")
def batch(rotations: Callable[..., torch.Tensor]) -> Callable[..., tuple[Pose, Pose]]:
    """``batch(n)``: a prediction with every field, for the 10 numbers of QCQP, and its target."""

    def make(n: int = 7, dtype: torch.dtype = torch.float64) -> tuple[Pose, Pose]:
        rng = np.random.default_rng(3)
        raw, shift, true_shift = (torch.from_numpy(rng.standard_normal((n, k))).to(dtype) for k in (12, 2, 2))
        prediction = Pose(rotation=rotations(n, 1).to(dtype), shift=shift, raw=raw[:, :10])
        return prediction, Pose(rotation=rotations(n, 2).to(dtype), shift=true_shift)

    return make
