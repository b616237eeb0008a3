import numpy as np
import torch
from scipy.spatial.transform import Rotation

from cryozoo.heads.sixd import SixDGramSchmidt, SixDSVD


def raw_vectors() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((50, 6))


def test_gram_schmidt_agrees_with_a_loop() -> None:
    raw = raw_vectors()
    for vector, rotation in zip(raw, SixDGramSchmidt()(torch.from_numpy(raw)).rotation.numpy(), strict=True):
        first = vector[:3] / np.linalg.norm(vector[:3])
        second = vector[3:] - (first @ vector[3:]) * first
        second /= np.linalg.norm(second)
        np.testing.assert_allclose(rotation, np.column_stack([first, second, np.cross(first, second)]), atol=1e-13)


def test_svd_agrees_with_kabsch_on_the_two_columns() -> None:
    # scipy aligns vectors: the rotation that brings the axes x and y nearest to the two given columns
    raw = raw_vectors()
    for vector, rotation in zip(raw, SixDSVD()(torch.from_numpy(raw)).rotation.numpy(), strict=True):
        expected, _ = Rotation.align_vectors(vector.reshape(2, 3), np.eye(3)[:2])
        np.testing.assert_allclose(rotation, expected.as_matrix(), atol=1e-9)


def test_columns_of_a_rotation_come_back() -> None:
    rotation = torch.from_numpy(Rotation.random(20, rng=0).as_matrix())
    raw = torch.cat([rotation[:, :, 0], rotation[:, :, 1]], dim=1)
    for head in (SixDGramSchmidt(), SixDSVD()):
        torch.testing.assert_close(head(raw).rotation, rotation, rtol=0, atol=1e-12)


def test_svd_treats_both_columns_alike_and_gram_schmidt_does_not() -> None:
    raw = torch.from_numpy(raw_vectors())
    swapped = torch.cat([raw[:, 3:], raw[:, :3]], dim=1)
    exchange = torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 0, -1]], dtype=torch.float64)
    difference = [
        (h(swapped).rotation - h(raw).rotation @ exchange).abs().max() for h in (SixDSVD(), SixDGramSchmidt())
    ]
    assert difference[0] < 1e-12
    assert difference[1] > 0.1
