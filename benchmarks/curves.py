"""Accuracy of a suite's runs against what it costs: CPU seconds, or images to train on."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..zoo.figures import BLUE, INK, MUTED, pyplot, save_figure, tidy
from ..zoo.registry import split_name
from .runs import Result, load_results

_COLOURS = (BLUE, "#d1495b", "#edae49", "#66a182", MUTED)
_STYLES = ("-", "--", ":")
_SECONDS, _IMAGES = "CPU seconds of training", "images to train on"
_TITLES = {
    _SECONDS: "median error on validation particles, degrees",
    _IMAGES: "median error on test particles, degrees",
}

Curve = list[tuple[float, list[float]]]
"""For some x all the y that seeds gave, in the order of x."""


def curves(records: Sequence[Result]) -> tuple[str, dict[tuple[str, str], Curve]]:
    """What x is, and for each network and head its curve of median errors in degrees.

    Where runs have fixed images, x is how many train, and y the error on the test set; else x is the mean CPU time of
    all seeds at each of their validations, and y the errors there.
    """
    runs: dict[tuple[str, str], list[Result]] = {}
    for record in records:
        network, head, _ = split_name(record.recipe.encoder)
        if record.data.augment == "rotate":
            network += ", images turned"
        runs.setdefault((network, head), []).append(record)
    if records[0].data.images is not None:
        return _IMAGES, {name: _by_images(group) for name, group in runs.items()}
    return _SECONDS, {name: _by_seconds(group) for name, group in runs.items()}


def _by_images(records: Sequence[Result]) -> Curve:
    found: dict[float, list[float]] = {}
    for record in records:
        found.setdefault(record.data.training_images or 0, []).append(record.metrics["median_deg"])
    return sorted(found.items())


def _by_seconds(records: Sequence[Result]) -> Curve:
    rows = zip(*([row for row in record.history if "median_deg" in row] for record in records), strict=True)
    return [(statistics.mean(row["cpu_s"] for row in step), [row["median_deg"] for row in step]) for step in rows]


def write(suite: str, picture: Path) -> None:
    """Draw the curves: a line through the medians of seeds, from the lowest to the highest shaded."""
    x_is, found = curves(load_results(suite))
    ranked = sorted(found, key=lambda name: statistics.median(found[name][-1][1]))  # the best in the first colour
    networks, heads = (list(dict.fromkeys(names)) for names in zip(*ranked, strict=True))
    figure, axes = pyplot().subplots(figsize=(9, 5))
    for network, head in ranked:
        colour, style = _COLOURS[networks.index(network)], _STYLES[heads.index(head)]
        x, low, middle, high = zip(
            *((x, min(y), statistics.median(y), max(y)) for x, y in found[network, head]), strict=True
        )
        label = f"{network}, {head}" if len(heads) > 1 else network
        few = "o" if x_is == _IMAGES else ""
        axes.plot(x, middle, style, marker=few, color=colour, lw=2, label=label)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
    axes.set(xscale="log", yscale="log", xlabel=x_is)
    _ticks(axes.xaxis, sorted({x for curve in found.values() for x, _ in curve}) if x_is == _IMAGES else _STEPS)
    _ticks(axes.yaxis, _STEPS)
    axes.set_title(_TITLES[x_is], loc="left", fontsize=11, color=INK)
    axes.legend(frameon=False, fontsize=8)
    tidy(axes)
    figure.tight_layout()
    save_figure(figure, picture)


_STEPS = [step * 10**power for power in range(4) for step in (1, 1.5, 2, 3, 5, 7)]


def _ticks(axis: Any, values: Sequence[float]) -> None:
    """Those within the limits, in plain numbers."""
    low, high = axis.get_view_interval()
    shown = [value for value in values if low <= value <= high]
    axis.set_ticks(shown, [f"{value:,g}" for value in shown])
    axis.set_ticks([], minor=True)
