"""Distances of all particles at once against one pair at a time."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryozoo.geometry.pose import Pose
from cryozoo.heads.embedding import Metric
from cryozoo.zoo.distances import predicted_distances

METRICS: tuple[Metric, ...] = ("cosine", "euclidean")


def embeddings(n: int) -> torch.Tensor:
    return torch.randn(n, 16, generator=torch.Generator().manual_seed(0))


def test_between_rotations() -> None:
    rotation = Rotation.random(30, rng=np.random.default_rng(0))
    found = predicted_distances(Pose(torch.from_numpy(rotation.as_matrix()).float()), block=7)
    for i, j in product(range(30), repeat=2):
        assert found[i, j] == pytest.approx((rotation[i] * rotation[j].inv()).magnitude(), abs=1e-5)


def test_between_embeddings() -> None:
    raw = embeddings(30)
    cosine, euclidean = (predicted_distances(Pose(raw=raw), metric=metric, block=7) for metric in METRICS)
    vectors = raw.double().numpy()
    for i, j in product(range(30), repeat=2):
        a, b = vectors[i], vectors[j]
        similarity = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        assert cosine[i, j] == pytest.approx(2 * np.arccos(np.clip(similarity, 0, 1)), abs=1e-6)
        assert euclidean[i, j] == pytest.approx(np.linalg.norm(a - b), abs=1e-6)
    assert np.isclose(cosine.max(), np.pi)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rotations", [True, False])
def test_of_pairs_and_of_near_ones(rotations: bool, metric: Metric) -> None:
    if rotations:
        near = Rotation.random(20, rng=np.random.default_rng(0)).as_matrix()
        turn = Rotation.from_rotvec([1e-3, 0, 0]).as_matrix()
        pose = Pose(torch.from_numpy(np.concatenate([near, turn @ near])))
    else:
        raw = embeddings(20)
        pose = Pose(raw=torch.cat([raw, raw + 1e-3]))
    pairs = torch.triu_indices(40, 40, 1).T
    dense = predicted_distances(pose, metric=metric)
    torch.testing.assert_close(
        predicted_distances(pose, pairs, metric=metric, block=3), dense[tuple(pairs.T)], atol=1e-6, rtol=1e-5
    )
    torch.testing.assert_close(dense, dense.T, atol=1e-7, rtol=0)
    assert (dense.diagonal() == 0).all()
    if rotations:
        torch.testing.assert_close(dense.diagonal(20), torch.full((20,), 1e-3), atol=1e-6, rtol=0)


def test_nothing_to_measure_between() -> None:
    with pytest.raises(ValueError, match="neither rotations nor embeddings"):
        predicted_distances(Pose(shift=torch.zeros(3, 2)))
