"""Who is better, as far as the images tell: the paired bootstrap, and ties that are ties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 1000


@dataclass(frozen=True)
class Rank:
    """A place among designs.

    Attributes:
        name: of the design.
        value: median error in degrees over images, the mean over seeds.
        low: of the central 95 % of resampled values.
        high: of the same.
        place: 1 for the best; designs that cannot be told from the best of a place have the same.
    """

    name: str
    value: float
    low: float
    high: float
    place: int


def ranking(errors: Mapping[str, Sequence[NDArray[np.float64]]], *, seed: int = 0) -> list[Rank]:
    """Designs by their median error, the best first.

    Images and, within each design, seeds are drawn again with replacement, the same images for all (Efron and
    Tibshirani 1993, chapter 16: a paired comparison). Whoever is worse than the best of a place in less than 97.5 % of
    the draws shares the place.

    Args:
        errors: of each design, (N,) degrees for each seed, of the same images in the same order.
        seed: of the draws.

    Raises:
        ValueError: designs were judged by different numbers of images.
    """
    counts = {len(run) for runs in errors.values() for run in runs}
    if len(counts) > 1:
        raise ValueError(f"errors of {sorted(counts)} images cannot be paired")
    if not errors:
        return []
    (count,) = counts
    generator = np.random.default_rng(seed)
    names = list(errors)
    stacked = [np.stack(list(errors[name])) for name in names]
    drawn = np.empty((_RESAMPLES, len(names)))
    for k in range(_RESAMPLES):
        images = generator.integers(count, size=count)
        for column, runs in enumerate(stacked):
            seeds = generator.integers(len(runs), size=len(runs))
            drawn[k, column] = np.median(runs[seeds][:, images], axis=1).mean()
    values = np.array([np.median(runs, axis=1).mean() for runs in stacked])
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    ranks: list[Rank] = []
    best = place = 0
    for position, column in enumerate(np.argsort(values, kind="stable")):
        if not ranks or (drawn[:, column] > drawn[:, best]).mean() >= 0.975:
            best, place = int(column), position + 1
        ranks.append(Rank(names[column], float(values[column]), float(low[column]), float(high[column]), place))
    return ranks
