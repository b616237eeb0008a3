import numpy as np
import torch
from scipy.spatial.transform import Rotation

from cryozoo.heads.quaternion import Quaternion


def test_agrees_with_scipy() -> None:
    raw = np.random.default_rng(0).standard_normal((100, 4)) * 3
    expected = [Rotation.from_quat([x, y, z, w]).as_matrix() for w, x, y, z in raw]
    np.testing.assert_allclose(Quaternion()(torch.from_numpy(raw)).rotation, expected, atol=1e-14)


def test_sign_does_not_matter() -> None:
    raw = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Quaternion()(raw).rotation, Quaternion()(-raw).rotation)


def test_zero_is_the_identity() -> None:
    assert torch.equal(Quaternion()(torch.zeros(2, 4)).rotation, torch.eye(3).expand(2, 3, 3))
