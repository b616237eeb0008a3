"""Figures of the verbs, with matplotlib, which is an extra."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..particles.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from ..recovery import Gauge
    from .encoder import PoseEncoder
    from .entry import Entry
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


def png_bytes(figure: Figure, *, dpi: int = 100) -> bytes:
    """A figure as PNG, the same for the same figure."""
    file = BytesIO()
    figure.savefig(file, format="png", dpi=dpi, metadata={"Software": None})
    pyplot().close(figure)
    return file.getvalue()


def demo_figure(
    images: NDArray[np.float32],
    at_true: NDArray[np.float32],
    found: Mapping[str, NDArray[np.float32]],
    errors: Mapping[str, NDArray[np.float64]],
    confidence: NDArray[np.float64] | None,
    chance_deg: NDArray[np.float64],
    slices: Mapping[str, NDArray[np.float32]],
    *,
    title: str,
) -> Figure:
    """What the encoder saw, what it should have said, what was found; how errors are distributed; and what maps come.

    Args:
        images: (k, L, L) noisy images of the first k of N particles.
        at_true: (k, L, L) clean projections at their true poses.
        found: by the name of some poses, (k, L, L) clean projections at these.
        errors: by the same names, (N,) of all particles in degrees.
        confidence: (N,) of the first of these poses, or None.
        chance_deg: (M,) errors of random guesses.
        slices: by the name of a map, (L, L) through its centre.
        title: of the figure.
    """
    k, panels = len(images), 1 if confidence is None else 2
    figure = pyplot().figure(figsize=(14.4, 6.6), facecolor="white")
    figure.suptitle(title, x=0.02, y=0.965, ha="left", fontsize=15, color=INK, fontweight="bold")
    blocks = {
        "what the\nencoder sees": images,
        "true pose": at_true,
        **{f"{name} pose": b for name, b in found.items()},
    }
    left = figure.add_gridspec(len(blocks), k, left=0.095, right=0.6, top=0.89, bottom=0.07, wspace=0.04, hspace=0.16)
    scale = max(float(np.abs(at_true).max()), 1e-12)
    for i, (label, block) in enumerate(blocks.items()):
        for j, image in enumerate(block):
            axes = figure.add_subplot(left[i, j])
            low, high = np.quantile(image, (0.005, 0.995)) if i == 0 else (-0.05 * scale, 0.85 * scale)
            show_image(axes, image, low, high, smooth=i > 0)
            if j == 0:
                axes.set_ylabel(label, fontsize=11, color=INK, rotation=0, ha="right", va="center", labelpad=10)
            if i > 1:
                error = list(errors.values())[i - 2][j]
                axes.set_xlabel(f"{error:.1f}\N{DEGREE SIGN}", fontsize=11, color=_colour(error), labelpad=3)
                axes.xaxis.label.set_fontweight("bold")
    above = figure.add_gridspec(1, panels, left=0.66, right=0.985, top=0.86, bottom=0.5, wspace=0.4)
    _cumulative(figure.add_subplot(above[0]), errors, chance_deg)
    if confidence is not None:
        draw_against_confidence(figure.add_subplot(above[1]), next(iter(errors.values())), confidence)
    below = figure.add_gridspec(1, len(slices), left=0.66, right=0.985, top=0.36, bottom=0.07, wspace=0.08)
    for i, (label, image) in enumerate(slices.items()):
        axes = figure.add_subplot(below[i])
        show_image(axes, image, 0.0, float(np.quantile(image, 0.998)), smooth=True)
        axes.set_title(label, loc="left", fontsize=11, color=INK)
    return figure


def frame_figure(encoder: PoseEncoder) -> Figure:
    """The map in whose frame an encoder answers: slices through its centre, and projections along the same axes.

    Raises:
        BadInput: it has none.
    """
    volume, entry = encoder.own_map(), encoder.entry
    named = None if entry is None else entry.molecule.name if entry.molecule else entry.full_name
    title = f"{named or encoder.name}, {volume.size} voxels of {volume.pixel_size:.2f} A"
    figure = pyplot().figure(figsize=(8.4, 6.0), facecolor="white")
    figure.suptitle(title, x=0.02, y=0.965, ha="left", fontsize=15, color=INK, fontweight="bold")
    places = figure.add_gridspec(2, 3, left=0.12, right=0.99, top=0.86, bottom=0.02, wspace=0.04, hspace=0.04)
    data, middle = volume.data.numpy(), volume.size // 2
    for j, axis in enumerate("zyx"):
        for i, image in enumerate((data.take(middle, axis=j), data.sum(axis=j))):
            axes = figure.add_subplot(places[i, j])
            show_image(axes, image, 0.0, float(np.quantile(image, 0.998)), smooth=True)
            if j == 0:
                label = ("slice", "projection")[i]
                axes.set_ylabel(label, fontsize=11, color=INK, rotation=0, ha="right", va="center", labelpad=10)
            if i == 0:
                axes.set_title(f"along {axis}", loc="left", fontsize=11, color=INK)
    return figure


def noise_figure(entry: Entry) -> Figure:
    """Errors of an encoder over noise, alone and refined, and the best that is possible."""
    measured = entry.metrics["over_noise"]["at"]
    snr = [float(value) for value in measured]
    curves = {
        "alone": ([found["alone"]["median_deg"] for found in measured.values()], BLUE, "-"),
        "refined": ([found["refined"]["median_deg"] for found in measured.values()], "#2e8b57", "-"),
        "best possible": ([found["bound_median_deg"] for found in measured.values()], MUTED, ":"),
    }
    figure = pyplot().figure(figsize=(6.0, 4.0), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    for name, (errors, colour, style) in curves.items():
        axes.plot(snr, errors, style, color=colour, linewidth=2.2, marker="o", markersize=4, label=name)
    axes.set(xscale="log", yscale="log", xticks=snr)
    axes.set_xticklabels(list(measured))
    axes.minorticks_off()
    axes.yaxis.set_major_locator(pyplot().LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}\N{DEGREE SIGN}")
    axes.set_xlabel("SNR")
    axes.set_title("median error", loc="left", fontsize=11, color=INK)
    axes.legend(frameon=False)
    tidy(axes)
    return figure


def show_image(axes: Any, image: NDArray[np.float32], low: float, high: float, *, smooth: bool) -> None:
    """Draw an image in grey, without a frame."""
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="bicubic" if smooth else "nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _colour(error: float) -> str:
    """Green, amber, red: within 10 degrees, within 30, beyond."""
    return "#2e8b57" if error <= 10 else "#d98e04" if error <= 30 else "#c0392b"


def _cumulative(axes: Any, errors: Mapping[str, NDArray[np.float64]], chance_deg: NDArray[np.float64]) -> None:
    """Shares of particles within an angle, of the last of some poses in the strongest colour."""
    shades = (*(f"#{127 + 20 * i:02x}a8c9" for i in range(len(errors) - 1)), BLUE)
    chance = float(np.quantile(chance_deg, 0.2))
    for values, colour in ((chance_deg, MUTED), *zip(errors.values(), shades, strict=True)):
        ordered = np.sort(values)
        axes.plot(ordered, np.arange(1, len(ordered) + 1) / len(ordered), color=colour, linewidth=2.2)
    beside = {"textcoords": "offset points", "fontsize": 11}
    for i, ((name, values), colour) in enumerate(zip(errors.items(), shades, strict=True)):
        said = f"{name}: {np.median(values):.1f}\N{DEGREE SIGN}"
        axes.annotate(said, (18, 0.8 - 0.13 * i), (0, 0), color=colour, **beside)
    axes.annotate("a random\nguess", (chance, 0.2), (-8, -4), color=MUTED, ha="right", **beside)
    axes.set(xlim=(0, 180), ylim=(0, 1.01), xticks=(0, 45, 90, 135, 180), yticks=(0, 0.25, 0.5, 0.75, 1))
    axes.set_xlabel("error (degrees)")
    axes.set_title("share within, and median", loc="left", fontsize=11, color=INK)
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
    axes.set_title("error by confidence", loc="left", fontsize=11, color=INK)
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
