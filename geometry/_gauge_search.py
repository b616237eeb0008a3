"""The camera's side of poses of a symmetric object, by search: see :mod:`.gauge`."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .grids import so3_grid
from .rotations import rotvec_to_matrix

_ORDER = 2  # of the grid, rotations 15 degrees apart
_KEPT = 8
_PRECISION = 1e-6  # radians


def symmetric_residuals(camera: Tensor, observed: Tensor, phi: Tensor, group: Tensor) -> Tensor:
    """Radians by which the angle of ``W_k^T A phi_k A^T`` differs from all angles of the group, (S, 3, 3) -> (S, K)."""
    # The trace is sum A_pi A_qj phi_ij W_pq: one product for all cameras and copies.
    table = torch.einsum("kij,kpq->piqjk", phi, observed).flatten(0, 3)
    a = camera.flatten(1)
    angles = _angle((a[:, :, None] * a[:, None, :]).flatten(1) @ table)
    allowed = _angle(group.to(camera).diagonal(dim1=1, dim2=2).sum(1))
    allowed = allowed[(torch.tril((allowed[:, None] - allowed).abs() < 1e-6, -1)).sum(1) == 0]
    return (angles[..., None] - allowed).abs().amin(-1)


def search_camera(observed: Tensor, phi: Tensor, group: Tensor) -> Tensor:
    """(3, 3) the A with the smallest mean residual, among those near the best points of a grid."""

    def mean_residual(cameras: Tensor) -> Tensor:
        return symmetric_residuals(cameras, observed, phi, group).mean(1)

    grid = so3_grid(_ORDER).to(observed)
    scores = torch.cat([mean_residual(block) for block in grid.split(512)])
    return _downhill(mean_residual, grid[scores.topk(_KEPT, largest=False).indices], math.radians(60 / 2**_ORDER / 2))


def _downhill(score: Callable[[Tensor], Tensor], start: Tensor, step: float) -> Tensor:
    """Compass search from (S, 3, 3): the best of turns about the axes, smaller and smaller ones; the best of all."""
    axes = torch.eye(3, dtype=start.dtype, device=start.device)
    cameras, best, rows = start, score(start), torch.arange(len(start), device=start.device)
    while step > _PRECISION:
        tried = cameras[:, None] @ rotvec_to_matrix(step * torch.cat([axes, -axes]))
        scores, index = score(tried.flatten(0, 1)).unflatten(0, (-1, 6)).min(1)
        better = scores < best
        cameras = torch.where(better[:, None, None], tried[rows, index], cameras)
        best = torch.minimum(best, scores)
        if not better.any():
            step /= 2
    return cameras[best.argmin()]


def _angle(trace: Tensor) -> Tensor:
    return ((trace - 1) / 2).clamp(-1, 1).arccos()
