"""What is wrong with estimated distances: their scatter, a monotone distortion, pairs that are plainly wrong.

All is fitted to a sample of pairs, given the distances d of the present orientations, and simpler descriptions are kept
unless the data speak clearly for the next one (in nats per pair of log-likelihood):

1. ``estimate = d + e``, e normal with one variance;
2. one variance for each of 16 ranges of d;
3. a share of pairs is wrong, and has any distance from 0 to pi: weights are the probability to be right, so that
   weighted least squares is expectation maximisation;
4. ``estimate = f(d) + e`` with f rising, the link: it absorbs estimators that saturate, and the bias of errors clipped
   to [0, pi].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

CELLS = 64
_RANGES = 16
# Variance of distances near 0, by rounding.
_FLOOR = 1e-16

# Nats per pair for which a further complication is taken. What is lost by not taking it is of that order.
_VARIANCES_WORTH = 0.02
_MIXTURE_WORTH = 0.05

# Density of wrong estimates.
_ANY = 1 / math.pi


@dataclass(frozen=True)
class ErrorModel:
    """Expected estimates and their precision, by cells of the true distance.

    Attributes:
        noise: root mean square of the errors of the right pairs, radians.
        wrong: share of the pairs whose estimates say nothing.
        likelihood: mean log-likelihood of the estimates, in nats per pair.
        link: (CELLS + 1,) f at equidistant d from 0 to pi; None where ``f(d) = d``.
        variance: (CELLS + 1,) at the same d; None where it is the same everywhere, as it is where some pairs are wrong.
    """

    noise: float
    wrong: float
    likelihood: float
    link: Tensor | None
    variance: Tensor | None

    @property
    def plain(self) -> bool:
        """Whether all pairs count the same, and are taken as they are."""
        return self.link is None and self.variance is None and self.wrong == 0

    def residual(self, d: Tensor, estimate: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """``estimate - f(d)``, f'(d), expected precision in units of 1 / noise^2; None stands for 1 everywhere."""
        if self.plain:
            return estimate - d, None, None
        cell = (d * (CELLS / math.pi)).int().flatten()

        def at(table: Tensor) -> Tensor:
            return table.index_select(0, cell).view_as(d)

        slope = None
        if self.link is None:
            residual = estimate - d
        else:
            slopes = torch.diff(self.link) * (CELLS / math.pi)
            slopes = torch.cat([slopes, slopes[-1:]])
            slope = at(slopes)
            residual = estimate - torch.addcmul(at(self.link - slopes * _grid(d)), slope, d)
        if self.wrong > 0:
            odds = self.wrong / (1 - self.wrong) * _ANY * math.sqrt(2 * math.pi) * self.noise
            exponent = (residual * residual).mul_(0.5 / self.noise**2).clamp_(max=600)
            return residual, slope, exponent.exp_().mul_(odds).mul_(_possible(estimate)).add_(1).reciprocal_()
        return residual, slope, None if self.variance is None else at(self.noise**2 / self.variance)

    def log_likelihood(self, d: Tensor, estimate: Tensor) -> Tensor:
        """Of each estimate, in nats."""
        residual = self.residual(d, estimate)[0]
        variance = d.new_tensor(self.noise**2)
        if self.variance is not None:
            variance = self.variance[(d * (CELLS / math.pi)).long()]
        right = _log_normal(residual, variance)
        if self.wrong == 0:
            return right
        return torch.logaddexp(right + math.log1p(-self.wrong), math.log(self.wrong) + _log_wrong(estimate))


def _possible(estimates: Tensor) -> Tensor:
    """Whether estimates can be of wrong pairs."""
    return (estimates >= 0) & (estimates <= math.pi)


def _log_wrong(estimates: Tensor) -> Tensor:
    """Log density of the estimates of wrong pairs."""
    return (_possible(estimates).double() * _ANY).log()


def _grid(like: Tensor) -> Tensor:
    return torch.linspace(0, math.pi, CELLS + 1, dtype=torch.float64, device=like.device)


def _interpolate(x: Tensor, y: Tensor, at: Tensor) -> Tensor:
    """The piecewise linear function through sorted points, continued beyond the ends."""
    right = torch.searchsorted(x, at).clamp(1, len(x) - 1)
    slope = (y[right] - y[right - 1]) / (x[right] - x[right - 1]).clamp_min(1e-12)
    return y[right - 1] + slope * (at - x[right - 1])


def _isotonic(y: Tensor, weights: Tensor) -> Tensor:
    """The rising sequence nearest to y, by pooling adjacent violators."""
    pools: list[tuple[float, float, int]] = []
    for value, weight in zip(y.tolist(), weights.tolist(), strict=True):
        length = 1
        while pools and pools[-1][0] > value:
            before, w, n = pools.pop()
            value, weight, length = (before * w + value * weight) / (w + weight), w + weight, n + length
        pools.append((value, weight, length))
    return y.new_tensor([value for value, _, length in pools for _ in range(length)])


class _Ranges:
    """Pairs sorted by d, in as many ranges as there is data for: at least 40 in the first, then more."""

    def __init__(self, d: Tensor, estimates: Tensor) -> None:
        self.count = max(1, min(_RANGES, math.isqrt(len(d) // 40)))
        order = d.argsort()
        self.d, self.estimates = d[order], estimates[order]
        rank = (torch.arange(len(d), dtype=torch.float64, device=d.device) + 0.5) / len(d)
        self.of = (rank.sqrt() * self.count).long()
        self.centres = self.sums(self.d) / self.sums(torch.ones_like(d))

    def sums(self, x: Tensor) -> Tensor:
        return x.new_zeros(self.count).index_add_(0, self.of, x)

    def link(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """f on the grid, and the residuals of the pairs."""
        total = self.sums(weights).clamp_min(1e-9)
        heights = _isotonic(self.sums(weights * self.estimates) / total, total)
        return self._through(self.sums(weights * self.d) / total, heights)

    def median_link(self) -> tuple[Tensor, Tensor]:
        """The same from medians, for a start that wrong pairs do not spoil."""
        sizes = torch.bincount(self.of, minlength=self.count).tolist()
        medians = torch.stack([part.median() for part in self.estimates.split(sizes)])
        return self._through(self.centres, _isotonic(medians, torch.ones_like(medians)))

    def _through(self, x: Tensor, heights: Tensor) -> tuple[Tensor, Tensor]:
        grid = _grid(x)
        table = _interpolate(x, heights, grid)
        return table, self.estimates - _interpolate(grid, table, self.d)


def explained(d: Tensor, estimates: Tensor) -> float:
    """Share of the variance of the estimates that the best rising function of d explains."""
    ranges = _Ranges(d, estimates)
    _, residual = ranges.link(torch.ones_like(d)) if ranges.count > 1 else (None, estimates - d)
    return 1 - float(residual.square().mean() / estimates.var().clamp_min(_FLOOR))


def _log_normal(residual: Tensor, variance: Tensor) -> Tensor:
    return -0.5 * (residual * residual / variance + (2 * math.pi * variance).log())


class _Likelihood:
    """Mean of estimates (N,), in nats per pair, with normal errors and a share of wrong pairs.

    Where estimates are clipped, those at 0 and pi have the probability to be there or beyond (Tobin 1958,
    doi:10.2307/1907382), and wrong ones that of all.
    """

    def __init__(self, estimates: Tensor) -> None:
        self.estimates = estimates
        clipped = bool(_possible(estimates).all())
        self.low, self.high = (clipped & (estimates == end) for end in (0, math.pi))
        ends = (self.low | self.high).double().mean()
        self.wrong_log = torch.where(self.low | self.high, ends.log(), _log_wrong(estimates) + torch.log1p(-ends))

    def __call__(self, residual: Tensor, variance: Tensor, wrong: Tensor | None = None) -> float:
        expected, deviation = self.estimates - residual, variance.sqrt()
        log = _log_normal(residual, variance)
        log = torch.where(self.low, torch.special.log_ndtr(-expected / deviation), log)
        log = torch.where(self.high, torch.special.log_ndtr((expected - math.pi) / deviation), log)
        if wrong is not None:
            log = torch.logaddexp(log + torch.log1p(-wrong), self.wrong_log + wrong.log())
        return float(log.mean())


def fit_errors(d: Tensor, estimates: Tensor, *, link: bool) -> ErrorModel:
    """The description of the errors that the data ask for, (N,) true and estimated distances."""
    ranges = _Ranges(d, estimates)
    d, estimates = ranges.d, ranges.estimates
    likelihood = _Likelihood(estimates)
    ones = torch.ones_like(d)
    table, residual = ranges.link(ones) if link and ranges.count > 1 else (None, estimates - d)

    def on_grid(variance: Tensor) -> Tensor:
        return variance[torch.searchsorted(ranges.centres, _grid(d)).clamp(max=ranges.count - 1)]

    single = residual.square().mean().clamp_min(_FLOOR)
    best = ErrorModel(float(single.sqrt()), 0.0, likelihood(residual, single), table, None)

    several = (ranges.sums(residual.square()) / ranges.sums(ones)).clamp_min(_FLOOR)
    found = likelihood(residual, several[ranges.of])
    if found > best.likelihood + _VARIANCES_WORTH:
        best = ErrorModel(best.noise, 0.0, found, table, on_grid(several))

    mixtures = [_mixture(ranges, likelihood, table is not None, narrow) for narrow in (1.0, 0.1)]
    mixture = max(mixtures, key=lambda m: m.likelihood)
    return mixture if mixture.likelihood > best.likelihood + _MIXTURE_WORTH else best


def _mixture(ranges: _Ranges, likelihood: _Likelihood, link: bool, narrow: float) -> ErrorModel:
    """Expectation maximisation from errors of the right pairs that are ``narrow`` times the median error."""
    table, residual = ranges.median_link() if link else (None, ranges.estimates - ranges.d)
    variance = (narrow * residual.abs().median() / 0.6745).square().clamp_min(_FLOOR)
    wrong = torch.tensor(0.3, dtype=torch.float64, device=residual.device)
    wrong_log = _log_wrong(ranges.estimates)
    for _ in range(20):
        right = torch.sigmoid(_log_normal(residual, variance) + torch.log1p(-wrong) - wrong.log() - wrong_log)
        if link:
            table, residual = ranges.link(right)
        variance = ((right * residual.square()).sum() / right.sum().clamp_min(1e-9)).clamp_min(_FLOOR)
        wrong = (1 - right).mean().clamp(1e-6, 0.95)
    found = likelihood(residual, variance, wrong)
    return ErrorModel(float(variance.sqrt()), float(wrong), found, table, variance=None)
