"""Orientations from pairwise distances (Banjac et al. 2021, arXiv:2104.06237), in seconds instead of hours.

**What is minimised.** L_OR, the mean over the pairs of ``(estimate - d(q_i, q_j))^2``, ``d = 2 arccos |<q_i, q_j>|``:
the paper's loss, as its figures report it. The start is from eigenvectors (``start.py``), the descent by Gauss-Newton
steps (``descent.py``).

**What it can reach.** With independent normal errors of deviation s and N distances of a particle to uniform others,
the information about its orientation is ``N / (3 s^2)`` for each of the three components of a rotation vector, since
the unit tangents t have ``E t t^T = 1 / 3``. An efficient estimator is off by ``s sqrt(3 / N)`` in each, by an angle of
``s sqrt(3 / N) sqrt(8 / pi)`` on average. Least squares is efficient.

**What it withstands** (``errors.py``). Estimates that saturate, or are any rising function f of the distance
plus errors: f is estimated along. A share of pairs that are plainly wrong. Errors whose variance depends on the
distance, where none are wrong. All three are looked for in the data, and left out where these do not ask for them.

**Views that are not even** (``start.py``). Of views that crowd around a few directions most starts end in
minima that explain nearly as much; starts are compared by what they explain, and of many particles some hundred are
placed first, where that costs little. What goes wrong around one direction where estimates saturate is known and
undone (``moves.py``); around several directions, or with few pairs of each particle, some still fail.

**What stays open.** Distances do not change when all quaternions are multiplied by one orthogonal 4 x 4 matrix:
rotations are known up to ``R -> A R B`` and transposition. :func:`align_o4` removes this with the truth,
:func:`resolve_gauge` without. Where all orientations crowd into a small region, f and the size of that region are hard
to tell apart.

**Symmetric objects.** Distances between orientations restricted to one asymmetric unit (:func:`restrict`), as in the
paper, are served like any others: the views just are not uniform. The smallest distances between all mates are not
served. No quaternions have such distances, but some have nearly such, in another order: neither ``loss`` nor
``explained`` gives it away, so do not pass them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from ..geometry.distances import quaternion_distance
from .descent import Descent, descend, expected_errors, fitted
from .errors import ErrorModel, explained
from .given_distances import PLENTY, Pairs, Sample, checked_pairs
from .moves import mirrored, replaced, thin, unrolled
from .start import Subspace, kernel, placed, power_method, within_hemisphere

_SAMPLE = 2**15
_FEWER = 2**14

# Of more particles so many are placed first, and all others by their distances to these.
_CORE = 800

# Random starts, and how many different places where these end are tried; more of few particles, whose pairs say less
# about each.
_STARTS = 12
_TRIED = 6
_DESCENTS = 3000

# Particles that still move in the end are in a bad place, and everything is tried again.
_ATTEMPTS = 3

# Times that particles are tried elsewhere: two fetch nearly all that there is to fetch.
_MOVES = 2

# Share of the variance by which an arrangement may be behind and yet be the better one, until its tilts are mirrored.
_BEHIND = 0.05

# Nats per pair for which a link is taken: it is a strong assumption, and weakens what long distances say.
_LINK_WORTH = 0.1
_CLEAR = 0.5

# Radians, of distances.
_NO_ERRORS = 1e-6


@dataclass(frozen=True)
class Recovery:
    """What :func:`recover_orientations` found; P particles.

    Attributes:
        quaternions: (P, 4) unit (w, x, y, z), float64, up to one orthogonal 4 x 4 matrix.
        loss: L_OR, the mean over the pairs of the squared difference between estimated and recovered distances, in
            radians squared.
        particle_loss: (P,) the mean over the pairs of each particle of the squared difference between its estimates and
            what is expected of them, the recovered distances or the ``link`` of these; large where it fits nowhere.
        explained: share of the variance of the estimates that a rising function of the recovered distances explains:
            1 without errors, near 0 where the estimates are no distances at all, or recovery failed. This, not the
            loss, is the figure to look at, since the loss of estimates that saturate is large however well they are
            understood; but where views crowd, wrong arrangements explain nearly as much as the right one. Measured on
            pairs held back, where ``pairs`` were given and are fewer than 300 for each particle; else on those used,
            and then P particles explain something like 10 / P even of random numbers.
        noise: root mean square error, in radians, of the estimates that are not wrong, about the link.
        wrong: share of the pairs found wrong.
        link: (65,) expected estimates at true distances ``linspace(0, pi, 65)``; None where these are the same.
        expected_errors: (P,) radians, the mean angular error to expect of each particle, from the errors of its own
            distances. Compare them with each other: what all particles share (the link, the frame) is not in them.
        sweeps: passes over all pairs that the last descent made.
        converged: whether the particles had come to rest by then; where not, some are far from where they belong.
    """

    quaternions: Tensor
    loss: float
    particle_loss: Tensor
    explained: float
    noise: float
    wrong: float
    link: Tensor | None
    expected_errors: Tensor
    sweeps: int
    converged: bool


def recover_orientations(distances: Tensor, *, pairs: Tensor | None = None, seed: int = 0) -> Recovery:
    """Find orientations with these distances.

    Args:
        distances: estimates in radians, from 0 to pi: a symmetric (P, P) matrix of any floating type, which is neither
            copied nor changed; or (M,) with pairs.
        pairs: (M, 2) integers, which particles each distance is between; particles are numbered from 0 to the largest
            number here. Pairs should be drawn at random, a hundred or more of each particle; neighbours alone do not
            do.
        seed: of the random starts and samples; the same input and seed give the same result.

    Returns:
        Quaternions and what was learned about the errors. The device of ``distances`` is kept.

    Raises:
        ValueError: distances that are not finite, negative, above pi, not symmetric, or not 0 on the diagonal; pairs
            that repeat, of a particle with itself, or in several groups without distances between them; fewer than 30
            particles, 4 pairs of one, or 30 pairs of each on average.
    """
    return recover(checked_pairs(torch.as_tensor(distances), None if pairs is None else torch.as_tensor(pairs)), seed)


def recover(pairs: Pairs, seed: int) -> Recovery:
    """:func:`recover_orientations` of pairs as they are, whatever range their distances are in."""
    generator = torch.Generator().manual_seed(seed)
    used, choice, test = pairs.split(generator)
    sample = used.sample(_SAMPLE, generator)
    found = _best_descent(used, sample, choice or sample, generator)
    squares, about_link = _squares(pairs, found.q, found.errors)
    # Residuals are smaller than errors by what the 3 P - 6 numbers sought could fit.
    right = (1 - found.errors.wrong) * used.count
    fitted = math.sqrt(right / max(right - 3 * pairs.particles + 6, 1))
    return Recovery(
        quaternions=found.q,
        loss=float(squares.sum() / (2 * pairs.count)),
        particle_loss=about_link / pairs.degrees,
        explained=_explains(found.q, test or sample),
        noise=fitted * found.errors.noise,
        wrong=found.errors.wrong,
        link=found.errors.link,
        expected_errors=fitted * expected_errors(used, found.q, found.errors),
        sweeps=found.sweeps,
        converged=found.stopped,
    )


def _explains(q: Tensor, sample: Sample) -> float:
    i, j, estimates = sample
    return explained(quaternion_distance(q[i], q[j]), estimates)


def _squares(pairs: Pairs, q: Tensor, errors: ErrorModel) -> tuple[Tensor, Tensor]:
    """(P,) sums over the pairs of each particle of the squared difference to the distances, and to their link."""

    def square(c: Tensor | None, estimates: Tensor) -> list[Tensor]:
        assert c is not None
        d = 2 * c.abs_().clamp_(max=1).acos_()
        plain = (estimates - d).square_()
        return [plain] if errors.link is None else [plain, errors.residual(d, estimates)[0].square()]

    sums = pairs.sums(square, q, [torch.ones_like(q[:, :1])] * (1 if errors.link is None else 2))
    return sums[0][:, 0], sums[-1][:, 0]


def _best_descent(pairs: Pairs, sample: Sample, choice: Sample, generator: torch.Generator) -> Descent:
    """The best of some descents, by what they explain of ``choice``; one is enough where it arrives."""
    found: list[Descent] = []
    while len(found) < _ATTEMPTS and not (found and found[-1].stopped):
        found.append(_moved(pairs, _attempt(pairs, sample, choice, generator), sample, choice))
    return max(found, key=lambda descent: _explains(descent.q, choice))


def _attempt(pairs: Pairs, sample: Sample, choice: Sample, generator: torch.Generator) -> Descent:
    fewer = (sample[0][:_FEWER], sample[1][:_FEWER], sample[2][:_FEWER])
    start = q = _start(pairs, fewer, choice, generator)
    # Without a link that is there, particles drift away from the start, in no hurry; without one that is not, some need
    # many sweeps to arrive. So ask early whether the case is clear, and again when they have stopped. Particles that
    # went where a straight line fits them best leave half of what a link is worth, or less.
    for sweeps, clear in ((15, _CLEAR), (100, _LINK_WORTH)):
        found = descend(pairs, q, fewer, link=False, sweeps=sweeps)
        q, straight = found.q, found.errors
        worth = _LINK_WORTH if found.stopped else clear
        if straight.noise > _NO_ERRORS and fitted(q, fewer, link=True).likelihood > straight.likelihood + worth / 2:
            linked = descend(pairs, start, sample, link=True, sweeps=10)
            if linked.errors.likelihood > straight.likelihood + worth:
                return linked if linked.stopped else descend(pairs, linked.q, sample, link=True, sweeps=100)
        if found.stopped:
            break
    return found


def _moved(pairs: Pairs, found: Descent, sample: Sample, choice: Sample) -> Descent:
    """From where it ended, again with particles elsewhere (``moves.py``), where something asks for it."""

    def again(q: Tensor, sweeps: int = 100) -> Descent:
        return descend(pairs, q, sample, link=found.errors.link is not None, sweeps=sweeps, near=True)

    def explains(descent: Descent) -> float:
        return _explains(descent.q, choice)

    def fits(descent: Descent) -> float:
        return fitted(descent.q, sample, link=descent.errors.link is not None).likelihood

    def with_moves(found: Descent, move: Callable[[Pairs, Tensor, ErrorModel], tuple[Tensor, int]]) -> Descent:
        for _ in range(_MOVES):
            q, moved = move(pairs, found.q, found.errors)
            if not moved or fits(after := again(q)) < fits(found):
                break
            found = after
        return found

    if found.errors.noise <= _NO_ERRORS:
        return found
    if found.errors.wrong > 0 and float(pairs.degrees.mean()) < PLENTY:
        found = with_moves(found, replaced)
    # What does not come to rest is no arrangement that a move would mend.
    if pairs.particles > 1.5 * _CORE or not found.stopped or thin(found.q)[1] == 0:
        return found
    found = with_moves(found, mirrored)
    if found.errors.link is not None:
        others = [again(q, sweeps=20) for q in unrolled(found.q)]
        promising = [again(other.q) for other in others if explains(other) > explains(found) - _BEHIND]
        found = max([found, *(with_moves(other, mirrored) for other in promising)], key=explains)
    return found


def _start(pairs: Pairs, sample: Sample, choice: Sample, generator: torch.Generator) -> Tensor:
    """(P, 4) the best of several starts, by the share of the variance of ``choice`` that they explain."""
    estimates = sample[2]
    if pairs.particles > 1.5 * _CORE and (core := pairs.core(_CORE, generator)) is not None:
        few, some = core
        among = few.sample(_SAMPLE, generator)
        q = _best_descent(few, among, among, generator).q
        return placed(pairs, kernel(estimates), some, q)
    tried = max(_TRIED, _DESCENTS // pairs.particles)
    candidates: list[tuple[float, Tensor]] = []

    def consider(q: Tensor) -> None:
        candidates.append((_explains(q, choice), q))

    if float(estimates.quantile(0.99)) < math.pi / 2:
        consider(within_hemisphere(pairs, generator))
    table = kernel(estimates)
    starts = list(islice(Subspace(pairs, table, generator).orientations(max(_STARTS, tried), generator), tried))
    for q in starts:
        if float(pairs.degrees.mean()) < PLENTY:
            q = power_method(pairs, table, q)
        if len(starts) > 1:
            q = descend(pairs, q, sample, link=False, sweeps=10).q
            consider(descend(pairs, q, sample, link=True, sweeps=10).q)
        consider(q)
    return max(candidates, key=lambda candidate: candidate[0])[1]
