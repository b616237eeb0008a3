"""Descent on the loss: block Gauss-Newton steps, reweighted, with Anderson's acceleration.

Moving q_i along the unit tangent ``t_ij`` towards ``+-q_j`` by e shortens ``d_ij`` by 2 e. With residuals
``r = estimate - f(d)``, weights w and the other particles fixed, least squares moves q_i by

    delta_i = -(4 sum_j w f'^2 t t^T)^-1 (2 sum_j w f' r t).

From ``t_ij = (+-q_j - |c| q_i) / sqrt(1 - c^2)``, both sums are products of a matrix over the pairs with the entries of
q_j q_j^T and of q_j, projected to the tangent space of q_i. All particles move at once. On well-connected pairs this
converges fast, the coupling of one particle to another being small; smooth deformations of the whole set, which
converge slowly, are what Anderson's acceleration takes care of (Walker and Ni 2011, doi:10.1137/10078356X).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from ..geometry.distances import quaternion_distance
from .errors import ErrorModel, fit_errors
from .given_distances import Pairs, Sample
from .start import monomials, symmetric

_MEMORY = 5
_LONGEST = 0.3
_ROUNDING = 1e-10
# sin^2(d / 2) below which the direction to the other orientation is mostly rounding.
_FLOOR = 1e-12


@dataclass(frozen=True)
class Descent:
    """Where a descent ended.

    Attributes:
        q: (P, 4) unit quaternions.
        errors: of the distances, fitted there.
        sweeps: passes over all pairs.
        stopped: whether the particles no longer move.
    """

    q: Tensor
    errors: ErrorModel
    sweeps: int
    stopped: bool


def _normal_equations(pairs: Pairs, q: Tensor, errors: ErrorModel) -> tuple[Tensor, Tensor]:
    """(P, 4, 4) ``4 sum_j w f'^2 t t^T`` and (P, 4) ``-2 sum_j w f' r t``, w in units of 1 / noise^2."""

    def weigh(c: Tensor | None, estimates: Tensor) -> tuple[Tensor, Tensor]:
        assert c is not None
        cosine = c.abs().clamp_(max=1)
        residual, slope, precision = errors.residual(cosine.acos().mul_(2), estimates)
        inverse_sine = cosine.square_().neg_().add_(1).clamp_(min=_FLOOR).rsqrt_()
        gradient = residual.mul_(inverse_sine).mul_(c.sign_())
        curvature = inverse_sine.square_()
        for factor in (slope, precision):
            if factor is not None:
                gradient.mul_(factor)
                curvature.mul_(factor)
        if slope is not None:
            curvature.mul_(slope)
        return curvature, gradient

    curvature, gradient = pairs.sums(weigh, q, [monomials(q), q])
    tangent = torch.eye(4, dtype=q.dtype, device=q.device) - q[:, :, None] * q[:, None, :]
    return 4 * (tangent @ symmetric(curvature) @ tangent), -2 * (tangent @ gradient[:, :, None])[..., 0]


def _regular(curvature: Tensor, q: Tensor) -> Tensor:
    """The curvature made invertible along q, where nothing moves, and where no distance says anything."""
    trace = curvature.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    eye = torch.eye(4, dtype=q.dtype, device=q.device)
    return curvature + trace * (q[:, :, None] * q[:, None, :] + 1e-3 * eye) + 1e-300 * eye


def _sweep(pairs: Pairs, q: Tensor, errors: ErrorModel) -> tuple[Tensor, float]:
    """Where all particles go, and the rotation, in each of three directions, that their distances leave undetermined.

    That is ``2 noise / sqrt(I)`` with the information ``I = trace(4 sum_j w f'^2 t t^T) / 3``.
    """
    curvature, gradient = _normal_equations(pairs, q, errors)
    information = float(curvature.diagonal(dim1=-2, dim2=-1).sum(-1).mean()) / 3
    step = torch.linalg.solve(_regular(curvature, q), gradient)
    length = step.norm(dim=1, keepdim=True)
    arrived = torch.nn.functional.normalize(q + step * (_LONGEST / length.clamp_min(_LONGEST)), dim=1)
    return arrived, 2 * errors.noise / math.sqrt(max(information, 1e-300))


def _converge(
    pairs: Pairs, q: Tensor, errors_at: Callable[[Tensor], ErrorModel], sweeps: int
) -> tuple[Tensor, int, bool]:
    """Sweep until particles stop, relative to what the errors of the distances leave undetermined.

    q, the number of sweeps, and whether particles did stop.
    """
    arrivals: list[Tensor] = []
    steps: list[Tensor] = []
    before = math.inf
    for done in range(1, sweeps + 1):
        errors = errors_at(q)
        arrived, undetermined = _sweep(pairs, q, errors)
        step = arrived - q
        moved = 2 * float(step.square().sum(1).mean().sqrt())
        # Estimates beyond pi keep pushing pairs across the largest distance, to and fro.
        jitters = moved < 0.5 * undetermined and moved > 0.8 * before
        if jitters or moved < max(_ROUNDING, 0.1 * undetermined):
            return arrived, done, True
        before = moved
        arrivals, steps = [*arrivals[-_MEMORY:], arrived], [*steps[-_MEMORY:], step]
        q = arrived
        if done > 2:
            changes = torch.stack([(after - before).flatten() for before, after in pairwise(steps)])
            moves = torch.stack([(after - before).flatten() for before, after in pairwise(arrivals)])
            gram = changes @ changes.T
            ridge = 1e-12 * gram.diagonal().max() * torch.eye(len(gram), dtype=q.dtype, device=q.device)
            mix = torch.linalg.solve(gram + ridge + 1e-300, changes @ step.flatten())
            q = torch.nn.functional.normalize(arrived - (mix @ moves).view_as(q), dim=1)
    return arrived, sweeps, False


def fitted(q: Tensor, sample: Sample, *, link: bool) -> ErrorModel:
    """The errors of the distances of a sample, were all particles at q, (P, 4)."""
    i, j, estimates = sample
    return fit_errors(quaternion_distance(q[i], q[j]), estimates, link=link)


def descend(pairs: Pairs, q: Tensor, sample: Sample, *, link: bool, sweeps: int, near: bool = False) -> Descent:
    """Move all particles to where they stop.

    Without a link first by plain least squares: before the particles are about right, pairs that do not fit are no sign
    of wrong distances. Not where most are ``near``: it moves them away again.
    """
    i, j, estimates = sample

    def plain(q: Tensor) -> ErrorModel:
        rms = float((estimates - quaternion_distance(q[i], q[j])).square().mean().sqrt())
        return ErrorModel(rms, 0.0, -math.inf, None, None)

    first = 0
    if not (link or near):
        q, first, stopped = _converge(pairs, q, plain, sweeps)
        errors = fitted(q, sample, link=link)
        if errors.plain or not stopped:
            return Descent(q, errors, first, stopped)
    q, second, stopped = _converge(pairs, q, partial(fitted, sample=sample, link=link), sweeps)
    return Descent(q, fitted(q, sample, link=link), first + second, stopped)


def expected_errors(pairs: Pairs, q: Tensor, errors: ErrorModel) -> Tensor:
    """(P,) radians, the mean angle by which errors of the distances of each particle alone misplace it.

    The covariance of a rotation vector is ``4 noise^2 (sum_j 4 w f'^2 t t^T)^-1``, and the mean length of a normal
    vector of three components of deviation s is ``s sqrt(8 / pi)``; s^2 is the mean of the three variances.
    """
    curvature, _ = _normal_equations(pairs, q, errors)
    along = q[:, :, None] * q[:, None, :]
    inverse = torch.linalg.inv(_regular(curvature, q))
    across = inverse.diagonal(dim1=-2, dim2=-1).sum(-1) - (inverse * along).sum((-2, -1))
    return errors.noise * (across * (4 / 3) * (8 / math.pi)).sqrt()
