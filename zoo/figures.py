"""Figures of the verbs, with matplotlib, which is an extra."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..particles.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from ..recovery import Gauge
    from .recover import RecoveredPoses

INK, MUTED, BLUE = "#22313f", "#8795a1", "#2a6f97"


def pyplot() -> Any:
    """``matplotlib.pyplot`` that needs no screen; says what to install where it is missing."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("drawing needs matplotlib: pip install 'cryozoo[bench]'") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def save_figure(figure: Figure, path: Path, *, dpi: int = 150) -> None:
    """Write a figure as PNG, replacing an older one."""
    with atomic_write(path, overwrite=True) as file:
        figure.savefig(file, format="png", dpi=dpi)


def demo_figure(
    images: NDArray[np.float32],
    at_true: NDArray[np.float32],
    at_predicted: NDArray[np.float32],
    error_deg: NDArray[np.float64],
    confidence: NDArray[np.float64] | None,
    chance_deg: NDArray[np.float64],
    *,
    title: str,
) -> Figure:
    """What the encoder saw, what it should have said, what it said; and how the errors are distributed.

    Args:
        images: (k, L, L) noisy images of the first k of N particles.
        at_true: (k, L, L) clean projections at their true poses.
        at_predicted: (k, L, L) clean projections at the predicted poses.
        error_deg: (N,) errors of all particles in degrees.
        confidence: (N,) or None.
        chance_deg: (M,) errors of random guesses.
        title: of the figure.
    """
    plt = pyplot()
    k = len(images)
    panels = 1 if confidence is None else 2
    figure = plt.figure(figsize=(14.4, 5.2), facecolor="white")
    figure.suptitle(title, x=0.02, y=0.96, ha="left", fontsize=15, color=INK, fontweight="bold")
    left = figure.add_gridspec(3, k, left=0.095, right=0.62, top=0.855, bottom=0.085, wspace=0.04, hspace=0.04)
    rows = (("what the\nencoder sees", images), ("true pose", at_true), ("predicted pose", at_predicted))
    scale = max(float(np.abs(at_true).max()), 1e-12)
    for i, (label, block) in enumerate(rows):
        for j, image in enumerate(block):
            axes = figure.add_subplot(left[i, j])
            low, high = np.quantile(image, (0.005, 0.995)) if i == 0 else (-0.05 * scale, 0.85 * scale)
            axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="bicubic" if i else "nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if j == 0:
                axes.set_ylabel(label, fontsize=11, color=INK, rotation=0, ha="right", va="center", labelpad=10)
            if i == 2:
                error = error_deg[j]
                axes.set_xlabel(f"{error:.1f}\N{DEGREE SIGN}", fontsize=12, color=_colour(error), labelpad=5)
                axes.xaxis.label.set_fontweight("bold")
    right = figure.add_gridspec(1, panels, left=0.675, right=0.985, top=0.855, bottom=0.13, wspace=0.36)
    _cumulative(figure.add_subplot(right[0]), error_deg, chance_deg)
    if confidence is not None:
        draw_against_confidence(figure.add_subplot(right[1]), error_deg, confidence)
    return figure


def _colour(error: float) -> str:
    """Green, amber, red: within 10 degrees, within 30, beyond."""
    return "#2e8b57" if error <= 10 else "#d98e04" if error <= 30 else "#c0392b"


def _cumulative(axes: Any, error_deg: NDArray[np.float64], chance_deg: NDArray[np.float64]) -> None:
    for errors, colour in ((chance_deg, MUTED), (error_deg, BLUE)):
        ordered = np.sort(errors)
        axes.plot(ordered, np.arange(1, len(ordered) + 1) / len(ordered), color=colour, linewidth=2.2)
    median, chance = float(np.median(error_deg)), float(np.quantile(chance_deg, 0.2))
    axes.plot([0, median, median], [0.5, 0.5, 0], color=BLUE, linewidth=0.9, linestyle=":")
    beside = {"textcoords": "offset points", "fontsize": 11}
    place = {"xytext": (8, -4)} if median < 90 else {"xytext": (-8, 6), "ha": "right"}
    axes.annotate(f"median {median:.1f}\N{DEGREE SIGN}", (median, 0.5), color=BLUE, **place, **beside)
    axes.annotate("a random\nguess", (chance, 0.2), (-8, -4), color=MUTED, ha="right", **beside)
    axes.set(xlim=(0, 180), ylim=(0, 1.01), xticks=(0, 45, 90, 135, 180), yticks=(0, 0.25, 0.5, 0.75, 1))
    axes.set_xlabel("error (degrees)")
    axes.set_title("share of particles within", loc="left", fontsize=11, color=INK)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    tidy(axes)


def draw_against_confidence(axes: Any, error_deg: NDArray[np.float64], confidence: NDArray[np.float64]) -> None:
    """Scatter errors over the rank of their confidence, with the median of each tenth."""
    rank = np.argsort(np.argsort(confidence)) / max(1, len(confidence) - 1)
    axes.scatter(rank, np.maximum(error_deg, 0.1), s=7, color=BLUE, alpha=0.35, linewidths=0)
    edges = np.linspace(0, 1, 11)
    bins = np.clip(np.digitize(rank, edges) - 1, 0, 9)
    filled = [b for b in range(10) if (bins == b).any()]
    medians = [np.median(error_deg[bins == b]) for b in filled]
    axes.plot((edges[:-1] + 0.05)[filled], medians, color=INK, linewidth=2.2, marker="o", markersize=4)
    axes.set(yscale="log", xlim=(-0.02, 1.02), ylim=(0.5, 200), xticks=(0, 0.5, 1), yticks=(1, 3, 10, 30, 100))
    axes.set_xticklabels(["least", "", "most"])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}\N{DEGREE SIGN}")
    axes.yaxis.set_minor_locator(pyplot().NullLocator())
    axes.set_xlabel("confidence (rank)")
    axes.set_title("error, and its median", loc="left", fontsize=11, color=INK)
    tidy(axes)


def recovery_figure(found: RecoveredPoses, *, title: str) -> Figure:
    """How far recovered poses can be trusted: their copies, from where images are seen, and of embeddings distances."""
    panels = 2 if found.recovery is None else 3
    figure = pyplot().figure(figsize=(4.8 * panels, 4.6), facecolor="white")
    figure.suptitle(title, x=0.02, y=0.96, ha="left", fontsize=15, color=INK, fontweight="bold")
    places = figure.add_gridspec(1, panels, left=0.18 / panels, right=0.985, top=0.82, bottom=0.14, wspace=0.22)
    _draw_copies(figure.add_subplot(places[0]), found.gauge)
    draw_directions(figure.add_subplot(places[1], projection="mollweide"), found.poses.rotation)
    if found.recovery is not None:
        draw_distances(figure.add_subplot(places[2]), found.distances, found.between_poses())
    return figure


def draw_distances(axes: Any, predicted: Tensor, between_poses: Tensor) -> None:
    """Density of predicted distances (M,) over those between poses (M,), both in radians."""
    x, y = (np.degrees(values.numpy()) for values in (between_poses, predicted))
    axes.hist2d(x, y, bins=60, range=((0, 180), (0, 180)), cmap="Blues", cmin=1)
    axes.plot([0, 180], [0, 180], color=MUTED, linewidth=0.9, linestyle=":")
    axes.set(xlim=(0, 180), ylim=(0, 180), xticks=(0, 45, 90, 135, 180), yticks=(0, 45, 90, 135, 180))
    axes.set_xlabel("distance between the poses (degrees)")
    axes.set_title("predicted distance (degrees)", loc="left", fontsize=11, color=INK)
    tidy(axes)


def _draw_copies(axes: Any, gauge: Gauge) -> None:
    right, other = np.degrees([gauge.residual, gauge.other_residual])
    axes.hist(np.degrees(gauge.residuals.numpy()), bins=45, range=(0, 180), color=BLUE)
    for angle, colour, label in ((right, INK, "median"), (other, MUTED, "median, if the poses\nwere transposed")):
        axes.axvline(angle, color=colour, linewidth=1.2, linestyle=":")
        place = {"xycoords": ("data", "axes fraction"), "xytext": (6, -14), "textcoords": "offset points"}
        axes.annotate(label, (angle, 1.0), color=colour, fontsize=11, va="top", **place)
    axes.set(xlim=(0, 180), xticks=(0, 45, 90, 135, 180))
    axes.set_xlabel("angle between seen and known turn (degrees)")
    axes.set_title("turned and mirrored images", loc="left", fontsize=11, color=INK)
    tidy(axes)


def draw_directions(axes: Any, rotation: NDArray[np.float64]) -> None:
    """Directions from which the object is seen, (N, 3, 3), on axes of Mollweide's equal-area projection."""
    x, y, z = rotation[:, 2].T
    axes.scatter(np.arctan2(y, x), np.arcsin(np.clip(z, -1, 1)), s=5, color=BLUE, alpha=0.4, linewidths=0)
    axes.set(xticks=(), yticks=())
    axes.set_title("directions of view", loc="left", fontsize=11, color=INK)


def tidy(axes: Any) -> None:
    """Two spines, quiet colours."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=INK, labelsize=10)
    axes.xaxis.label.set_color(INK)
