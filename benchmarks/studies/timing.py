"""Speed, measured side by side in one run, and the file that says what came out."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from ...particles.files import atomic_write, write_json
from ..runs import RESULTS, markdown_table


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


def write_figures(name: str, figures: Mapping[str, Any], table: str | None = None) -> None:
    """Write ``results/<name>.json`` and ``.md``, and print the table; by default a row for each figure."""
    if table is None:
        rows = [[key, f"{value:.4g}" if isinstance(value, float) else str(value)] for key, value in figures.items()]
        table = markdown_table(["figure", "value"], rows)
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / f"{name}.json", figures, overwrite=True)
    with atomic_write(RESULTS / f"{name}.md", overwrite=True) as file:
        file.write(table.encode())
    print(table)
