"""The camera's side of poses of a symmetric object, by search: see :mod:`.gauge`."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..geometry.grids import so3_grid
from ..geometry.rotations import rotvec_to_matrix

_ORDER = 2  # of the grid, rotations 15 degrees apart
_KEPT = 8
_PRECISION = 1e-6  # radians


def symmetric_residuals(observed: Tensor, phi: Tensor, group: Tensor) -> Callable[[Tensor], Tensor]:
    """What gives the residuals of cameras, (S, 3, 3) -> (S, K).

    They are the radians by which the angle of ``W_k^T A phi_k A^T`` differs from all angles of the group.
    """
    # The trace is sum A_pi A_qj phi_ij W_pq: one product for all cameras and copies.
    table = torch.einsum("kij,kpq->piqjk", phi, observed).flatten(0, 3)
    allowed = _angle(group.to(observed).diagonal(dim1=1, dim2=2).sum(1))
    allowed = allowed[(torch.tril((allowed[:, None] - allowed).abs() < 1e-6, -1)).sum(1) == 0]

    def residuals(camera: Tensor) -> Tensor:
        a = camera.flatten(1)
        angles = _angle((a[:, :, None] * a[:, None, :]).flatten(1) @ table)
        return (angles[..., None] - allowed).abs().amin(-1)

    return residuals


def search_camera(residuals: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """(3, 3) the camera with the smallest mean residual, among those near the best points of a grid."""

    def mean_residual(cameras: Tensor) -> Tensor:
        return residuals(cameras).mean(1)

    grid = so3_grid(_ORDER).to(like)
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
