"""Particles that fit badly, tried everywhere.

With a hundred pairs each, of which half are wrong, some particles of the start are a radian away from where they
belong, among wrong pairs that happen to agree there, and no descent brings them back. All others being about right, the
best of a grid of orientations is near enough to descend from.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._recovery_errors import ErrorModel
from ._recovery_pairs import Pairs
from .grids import so3_grid
from .rotations import matrix_to_quaternion

# 576 rotations, of which one is 14 degrees away on average: a descent finds the rest of the way.
_ORDER = 1
_SHARE = 8


def replace(pairs: Pairs, q: Tensor, errors: ErrorModel) -> tuple[Tensor, int]:
    """The particles that fit worst, an eighth of all, at the best of their place and a grid's.

    Args:
        pairs: the distances.
        q: (P, 4) unit quaternions.
        errors: of the distances.

    Returns:
        (P, 4), and how many particles are elsewhere.
    """
    fits = torch.empty(pairs.particles, dtype=q.dtype, device=q.device)
    for particle in range(pairs.particles):
        fits[particle] = _fit(pairs, particle, q[particle, None], q, errors)[0]
    grid = matrix_to_quaternion(so3_grid(_ORDER)).to(q)
    out = q.clone()
    moved = 0
    for particle in fits.argsort()[: pairs.particles // _SHARE].tolist():
        found, place = _fit(pairs, particle, grid, q, errors).max(0)
        if found > fits[particle]:
            out[particle] = grid[place]
            moved += 1
    return out, moved


def _fit(pairs: Pairs, particle: int, places: Tensor, q: Tensor, errors: ErrorModel) -> Tensor:
    """(K,) mean log-likelihood of the distances of a particle at places (K, 4), up to a constant."""
    others, estimates = pairs.of(particle)
    d = (places @ q[others].T).abs_().clamp_(max=1).acos_().mul_(2)
    return errors.log_likelihood(d, estimates).mean(1)
