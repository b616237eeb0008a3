"""Poses: what torch does with named tuples, rows and joining."""

import numpy as np
import torch
from torch.nn.parallel.scatter_gather import gather
from torch.utils import _pytree

from cryozoo.geometry import Pose, join_poses, random_rotations


def poses(n: int) -> Pose:
    return Pose(random_rotations(n), torch.randn(n, 2), None, torch.randn(n, 6))


def same(a: Pose, b: Pose) -> bool:
    pairs = zip(a, b, strict=True)
    return all((x is None and y is None) or (x is not None and y is not None and torch.equal(x, y)) for x, y in pairs)


def test_rows_join_to_the_whole():
    pose = poses(7)
    assert same(join_poses([pose.rows(slice(0, 3)), pose.rows(torch.tensor([3, 4, 5, 6]))]), pose)
    assert same(pose.rows(torch.tensor([6, 0])), Pose(*(None if v is None else v[[6, 0]] for v in pose)))


def test_arrays():
    rotation, shift, confidence, raw = poses(3).numpy()
    assert rotation is not None
    assert (rotation.dtype, rotation.shape) == (np.float64, (3, 3, 3))
    assert shift is not None
    assert confidence is None
    assert raw is not None


def test_torch_takes_it_apart_and_puts_it_together():
    """As DataParallel gathers the outputs of its replicas (from two devices there, from one here)."""
    pose = poses(4)
    leaves, form = _pytree.tree_flatten(pose)
    assert sum(isinstance(leaf, torch.Tensor) for leaf in leaves) == 3
    assert same(_pytree.tree_unflatten(leaves, form), pose)
    halved = _pytree.tree_map_only(torch.Tensor, lambda x: x[:2], pose)
    assert isinstance(halved, Pose)
    assert same(halved, pose.rows(slice(0, 2)))
    if torch.cuda.is_available():
        parts = [Pose(*(None if v is None else v.cuda() for v in pose.rows(rows))) for rows in (slice(2), slice(2, 4))]
        assert same(gather(parts, "cpu"), pose)
