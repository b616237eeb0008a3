"""Moves that no descent makes: particles far from where they belong, one by one or many together.

1. With a hundred pairs each, of which half are wrong, single particles are a radian away, among wrong pairs that happen
   to agree there. All others being about right, the best of a grid of orientations is near enough to descend from.
2. Views that crowd around one direction have quaternions near a great circle, the in-plane angle; the two small
   components are the tilt. Where estimates saturate, particles at far angles hardly see each other, and stretches of
   the circle may end with one component of the tilt mirrored. Whether each particle is mirrored or not is a problem of
   synchronisation over +-1: mirroring both of a pair changes nothing, so what the pairs prefer is a symmetric matrix
   W, and its leading eigenvector has the signs (Singer 2011, doi:10.1016/j.acha.2010.02.001).
3. Or the whole circle ends as a small one, around which pairs that are close have the right distances all the same;
   only far ones, which have saturated, would tell. Unrolled to a great circle it is about right, but for mirrored
   tilts.

Median errors with the moves and without the one (``benchmarks/results/recovery_moves.md``), radians: 1. half of few
pairs wrong, 0.134 and 0.195; views around one direction, estimates that saturate at 1.5, 0.035 and 2. 0.179, 3. 0.582.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..geometry.distances import quaternion_distance
from ..geometry.grids import so3_grid
from ..geometry.rotations import matrix_to_quaternion
from .errors import ErrorModel
from .given_distances import Pairs

# 576 rotations, of which one is 14 degrees away on average: a descent finds the rest of the way.
_ORDER = 1
_SHARE = 8

# Mean square of a component of the quaternions, a quarter for even views, below which it is small.
_THIN = 0.1


def replaced(pairs: Pairs, q: Tensor, errors: ErrorModel) -> tuple[Tensor, int]:
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
    """(K,) mean log-likelihood of the distances of a particle at places (K, 4)."""
    others, estimates = pairs.of(particle)
    return errors.log_likelihood(quaternion_distance(places[:, None], q[others]), estimates).mean(1)


def thin(q: Tensor) -> tuple[Tensor, int]:
    """Principal axes of quaternions (P, 4), as columns, those of small components first, and how many are small."""
    moments, axes = torch.linalg.eigh(q.T @ q / len(q))
    return axes, int((moments < _THIN).sum())


def mirrored(pairs: Pairs, q: Tensor, errors: ErrorModel) -> tuple[Tensor, int]:
    """Those particles mirrored along thin axes whose distances ask for it, as in 2 above.

    Takes P^2 memory and P^3 time. Arguments and returns as those of :func:`replaced`.
    """
    axes, count = thin(q)
    components = q @ axes
    moved = 0
    for axis in range(count):
        weights = torch.zeros(len(q), len(q), dtype=q.dtype, device=q.device)
        for particle in range(len(q)):
            others, estimates = pairs.of(particle)
            one = components[particle].repeat(2, 1)
            one[1, axis] *= -1
            distances = quaternion_distance(one[:, None], components[others])
            as_is, opposite = errors.log_likelihood(distances, estimates)
            weights[particle, others] = as_is - opposite
        signs = _synchronised(weights)
        if float(signs @ weights @ signs) > float(weights.sum()):
            components[:, axis] *= signs
            moved += int(min((signs < 0).sum(), (signs > 0).sum()))
    return components @ axes.T, moved


def _synchronised(weights: Tensor) -> Tensor:
    """Signs s with large ``s^T W s``: those of the leading eigenvector, each then turned to what the others want."""
    signs = torch.linalg.eigh(weights).eigenvectors[:, -1].sign()
    for _ in range(20):
        better = torch.where(weights @ signs < 0, -1.0, 1.0).to(weights)
        if torch.equal(better, signs):
            break
        signs = better
    return signs


def unrolled(q: Tensor) -> list[Tensor]:
    """Two arrangements (P, 4) in which a small circle of quaternions is a great one, as in 3 above.

    From the angle a around the small circle and the displacement t from it, a complex number, to
    ``(cos(a / 2), sin(a / 2), t exp(+-i a / 2))``: after a whole turn, q is -q, the same rotation.
    """
    axes, _ = thin(q)
    y = q @ axes
    y = torch.where(y[:, 3:] < 0, -y, y)
    angle = torch.atan2(y[:, 2], y[:, 1])
    radius = torch.atan2(y[:, 1:3].norm(dim=1), y[:, 3])
    displacement = torch.complex(radius - radius.median(), y[:, 0].clamp(-1, 1).asin())
    out = []
    for sign in (1, -1):
        tilt = torch.view_as_real(displacement * torch.polar(torch.ones_like(angle), sign * angle / 2))
        circle = torch.stack([(angle / 2).cos(), (angle / 2).sin()], 1)
        out.append(torch.nn.functional.normalize(torch.cat([circle, tilt], 1), dim=1))
    return out
