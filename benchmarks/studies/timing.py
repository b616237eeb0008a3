"""Speed, measured side by side in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def take_turns(
    sides: Mapping[str, Callable[[], object]], *, repeats: int = 9, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Seconds of each side, one per round, the first round left out.

    Taking turns, all sides suffer alike from whatever else the machine does. The default clock counts CPU time.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats + 1):
        for name, side in sides.items():
            began = clock()
            side()
            seconds[name].append(clock() - began)
    return {name: values[1:] for name, values in seconds.items()}


def median_ratio(numerator: list[float], denominator: list[float]) -> float:
    """Median over the rounds of one side's seconds over another's."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))
