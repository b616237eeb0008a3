"""What a training says while it runs: lines, and a bar for who looks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from tqdm import tqdm

from ..zoo.columns import COLUMNS

_STEPS, _SECONDS = 20, 30.0
"""So many steps, or seconds of them, tell how long all will take."""


class Progress:
    """Counts the steps of a training. Lines do not tear the bar.

    Args:
        name: of what is trained, at the bar.
        steps: of the whole training.
        done: before it goes on.
        criterion: the metric that tells which encoder is the best.
        bar: show a bar on stderr.
        report: is told lines.
    """

    def __init__(
        self, name: str, steps: int, done: int, criterion: str, *, bar: bool, report: Callable[[str], object] | None
    ) -> None:
        self._steps, self._done, self._criterion, self._report = steps, done, criterion, report
        self._bar = tqdm(total=steps, initial=done, desc=name, disable=not bar, unit="step", smoothing=0.02)
        self._timed: tuple[int, float] | None = None
        self._told = False

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()

    def say(self, line: str) -> None:
        """Report a line."""
        if self._report is not None:
            with tqdm.external_write_mode():
                self._report(line)

    def stepped(self) -> None:
        """One step more; says once how long all take."""
        self._bar.update()
        self._done += 1
        now = time.monotonic()
        if self._timed is None:  # the first step is slow, and not counted
            self._timed = self._done, now
        elif not self._told and (self._done - self._timed[0] >= _STEPS or now - self._timed[1] >= _SECONDS):
            self._told = True
            if left := self._left():
                self.say(f"the {self._steps - self._done:,} steps to come take about {left}, without validations")

    def validated(self, row: Mapping[str, Any], best: Mapping[str, Any]) -> None:
        """A validation, and the best so far, which may be the same."""
        value, loss = row[self._criterion], f"loss {row['loss']:.3f}"
        self._bar.set_postfix_str(f"{loss}, {self._criterion} {value:.2f}")
        so_far = f"the best so far {shown(self._criterion, best[self._criterion])} at step {best['step']:,}"
        line = f"step {row['step']:,} of {self._steps:,}: {named(self._criterion, value)}, {so_far}; {loss}"
        left = self._left()
        self._told = self._told or bool(left)
        self.say(f"{line}; {left} left" if left else line)

    def _left(self) -> str:
        if self._timed is None or self._done in (self._timed[0], self._steps):
            return ""
        per_step = (time.monotonic() - self._timed[1]) / (self._done - self._timed[0])
        return duration(per_step * (self._steps - self._done))


def named(metric: str, value: float) -> str:
    """A metric in words, with its unit."""
    return f"{COLUMNS[metric].line if metric in COLUMNS else metric} {shown(metric, value)}"


def shown(metric: str, value: float) -> str:
    """The value of a metric, with its unit."""
    return COLUMNS[metric].shown.format(value) if metric in COLUMNS else f"{value:.4g}"


def duration(seconds: float) -> str:
    """A time in words, to a minute or so: ``2 h 5 min``."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    hours = round(minutes / 60)
    return f"{minutes // 60} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
