import numpy as np
import torch
from scipy.spatial.transform import Rotation

from cryozoo.heads.nined_svd import NineDSVD


def test_agrees_with_kabsch() -> None:
    # the rotation nearest to M brings the three axes nearest to M's columns
    raw = np.random.default_rng(0).standard_normal((50, 9))
    determinants = []
    for vector, rotation in zip(raw, NineDSVD()(torch.from_numpy(raw)).rotation.numpy(), strict=True):
        columns = vector.reshape(3, 3)
        determinants.append(np.linalg.det(columns))
        expected, _ = Rotation.align_vectors(columns, np.eye(3))
        np.testing.assert_allclose(rotation, expected.as_matrix(), atol=1e-9)
    assert min(determinants) < 0 < max(determinants)  # both hands were tried


def test_rotation_comes_back_column_by_column() -> None:
    rotation = torch.from_numpy(Rotation.random(20, rng=0).as_matrix())
    raw = torch.cat([rotation[:, :, 0], rotation[:, :, 1], rotation[:, :, 2]], dim=1)
    torch.testing.assert_close(NineDSVD()(raw).rotation, rotation, rtol=0, atol=1e-12)
