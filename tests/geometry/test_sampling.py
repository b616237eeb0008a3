import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.transform import Rotation

from cryozoo.geometry import geodesic_distance, matrix_to_quaternion, random_quaternions, random_rotations

N = 20_000


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _angle_cdf(t: np.ndarray) -> np.ndarray:
    """Of the angle of a uniform rotation: its density is (1 - cos t) / pi."""
    return (t - np.sin(t)) / np.pi


def test_rotations_are_uniform() -> None:
    rotations = random_rotations(N, generator=_generator(), dtype=torch.float64)
    for centre in Rotation.random(3, rng=np.random.default_rng(0)).as_matrix():
        angles = geodesic_distance(rotations, torch.from_numpy(centre)).numpy()
        assert stats.kstest(angles, _angle_cdf).pvalue > 0.01
        counts, _ = np.histogram(_angle_cdf(angles), bins=50, range=(0, 1))
        assert stats.chisquare(counts).pvalue > 0.01
    # every row and column is uniform on the sphere, so each entry is uniform in [-1, 1]
    for entry in rotations.flatten(1).T:
        assert stats.kstest(entry.numpy(), stats.uniform(-1, 2).cdf).pvalue > 0.01


def test_the_uniformity_test_notices_uniform_euler_angles() -> None:
    angles = np.random.default_rng(0).uniform(0, np.pi, (N, 3))
    wrong = Rotation.from_euler("ZYZ", angles * [2, 1, 2]).magnitude()
    assert stats.kstest(wrong, _angle_cdf).pvalue < 1e-10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quaternions_are_unit_reproducible_and_of_either_sign(dtype: torch.dtype) -> None:
    q = random_quaternions(N, generator=_generator(), dtype=dtype)
    assert q.shape == (N, 4)
    assert q.dtype == dtype
    assert (q.norm(dim=-1) - 1).abs().max() < 4 * torch.finfo(dtype).eps
    assert torch.equal(q, random_quaternions(N, generator=_generator(), dtype=dtype))
    assert not torch.equal(q, random_quaternions(N, generator=_generator(1), dtype=dtype))
    assert stats.binomtest(int((q[:, 0] > 0).sum()), N).pvalue > 0.01


def test_rotations_are_those_of_the_quaternions() -> None:
    q = random_quaternions(100, generator=_generator(), dtype=torch.float64)
    back = matrix_to_quaternion(random_rotations(100, generator=_generator(), dtype=torch.float64))
    assert torch.minimum((q - back).abs(), (q + back).abs()).max() < 1e-14
    assert random_rotations(0).shape == (0, 3, 3)
    assert random_rotations(2).dtype == torch.float32
