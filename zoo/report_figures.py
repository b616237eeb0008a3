"""Figures of the report of matched poses, each to be drawn on light and on dark paper."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..particles.files import atomic_write
from .figures import BLUE, INK, MUTED, pyplot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FEW = 3000  # points that can still be told apart
_GRID = 81  # samples across a hemisphere


@dataclass(frozen=True)
class Paper:
    """Colours that go together."""

    ground: str
    ink: str
    muted: str
    blue: str


LIGHT, DARK = Paper("#ffffff", INK, MUTED, BLUE), Paper("#171d23", "#dbe3ea", "#7d8b97", "#6fb4e0")
Draw = Callable[[Paper], "Figure"]


class Pictures:
    """The figures of a page: in the page itself, and beside it.

    Attributes:
        files: by name, those that were made.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def figure(self, name: str, draw: Draw) -> str:
        """HTML of a figure on light and on dark paper, whichever the reader has."""
        light, dark = self.embedded(name, png(draw, LIGHT)), self.embedded(f"{name}-dark", png(draw, DARK))
        source = f'<source media="screen and (prefers-color-scheme: dark)" srcset="{dark}">'
        return f'<picture>{source}<img src="{light}" alt="{name}"></picture>'

    def embedded(self, name: str, content: bytes) -> str:
        """A PNG as an address."""
        self.files[f"{name}.png"] = content
        return f"data:image/png;base64,{b64encode(content).decode()}"

    def write(self, path: Path, text: str, *, overwrite: bool) -> None:
        """The page, and the figures beside it."""
        folder = folder_of(path)
        folder.mkdir(exist_ok=True)
        for name, content in self.files.items():
            with atomic_write(folder / name, overwrite=overwrite) as file:
                file.write(content)
        with atomic_write(path, overwrite=overwrite) as file:
            file.write(text.encode())


def folder_of(page: Path) -> Path:
    """Where the figures of a page are, ``NAME_files``."""
    return page.with_name(f"{page.stem}_files")


def png(draw: Draw, paper: Paper) -> bytes:
    """A figure as a file."""
    plt = pyplot()
    style = {
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), paper.ink),
        **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), paper.muted),
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
        **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
        "font.size": 10,
        "figure.constrained_layout.use": True,
    }
    with plt.rc_context(style):
        figure = draw(paper)
        file = BytesIO()
        figure.savefig(file, format="png", dpi=150)
        plt.close(figure)
    return file.getvalue()


def histogram(values: NDArray[np.float64], label: str, mark: float, meaning: str) -> Draw:
    """How often values (N,) occur, with a line at one of them; the outermost bars hold what lies beyond the axis."""
    low, high = np.quantile(values, (0.005, 0.995))
    low, high = min(low, mark), max(high, mark)
    margin = 0.04 * (high - low) or max(0.05 * abs(high), 0.05)
    low, high = low - margin if low < 0 or low > margin else 0.0, high + margin
    bins = int(np.clip(2 * len(values) ** 0.5, 12, 60))

    def draw(paper: Paper) -> Figure:
        figure, axes = pyplot().subplots(figsize=(4.8, 2.9))
        axes.hist(np.clip(values, low, high), bins=bins, range=(low, high), color=paper.blue, rwidth=0.92)
        axes.axvline(mark, color=paper.ink, linewidth=1.2, linestyle=":")
        left = mark > (low + high) / 2
        place = {"xytext": (-6 if left else 6, 4), "ha": "right" if left else "left"}
        axes.annotate(meaning, (mark, 1), xycoords=("data", "axes fraction"), textcoords="offset points", **place)
        axes.set(xlim=(low, high), xlabel=label, ylabel="particles")
        axes.yaxis.get_major_locator().set_params(integer=True)
        return figure

    return draw


def shifts(shift: NDArray[np.float64], reach: float | None) -> Draw:
    """Shifts (N, 2) in Angstrom, and how far was looked first."""
    far = 1.08 * max(float(np.abs(shift).max()), reach or 0, 1.0)

    def draw(paper: Paper) -> Figure:
        figure, axes = pyplot().subplots(figsize=(5.0, 4.0))
        if len(shift) <= _FEW:
            axes.scatter(*shift.T, s=9, color=paper.blue, alpha=0.5, linewidths=0)
        else:
            counts = axes.hist2d(*shift.T, bins=80, range=((-far, far), (-far, far)), cmap=_shades(paper))
            _bar(figure, counts[3], axes, "particles")
        if reach:
            axes.add_patch(pyplot().Circle((0, 0), reach, fill=False, color=paper.muted, linestyle="--", linewidth=1.2))
        axes.set(
            xlim=(-far, far), ylim=(-far, far), aspect="equal", xlabel="x shift (\u00c5)", ylabel="y shift (\u00c5)"
        )
        return figure

    return draw


def hemispheres(of: Callable[[torch.Tensor], torch.Tensor], titles: tuple[str, ...], label: str) -> Draw:
    """A function of the direction on discs of equal area: the hemisphere of +z and, with two titles, that of -z.

    This is Lambert's azimuthal projection; both discs have x to the right and y up.
    """
    axis = torch.linspace(-1, 1, _GRID, dtype=torch.float64)
    x, y = torch.meshgrid(axis, axis, indexing="xy")
    radius = (x.square() + y.square()).sqrt()
    inside = radius.clamp_min(1)  # the rim goes on outside, where it is cut off
    x, y = x / inside, y / inside
    root = (2 - x.square() - y.square()).clamp_min(0).sqrt()
    z = 1 - x.square() - y.square()
    discs = [
        of(torch.stack([x * root, y * root, side * z], -1).flatten(0, 1)).view_as(x).numpy()
        for side in (1, -1)[: len(titles)]
    ]
    top = max(2.0, *(float(disc[radius <= 1].max()) for disc in discs))

    def draw(paper: Paper) -> Figure:
        figure, places = pyplot().subplots(1, len(discs), figsize=(2.75 * len(discs) + 0.9, 3.1), squeeze=False)
        for axes, disc, title in zip(places[0], discs, titles, strict=True):
            shown = axes.imshow(
                disc,
                cmap=_shades(paper),
                vmin=0,
                vmax=top,
                origin="lower",
                extent=(-1, 1, -1, 1),
                interpolation="bilinear",
            )
            rim = axes.add_patch(pyplot().Circle((0, 0), 1, fill=False, color=paper.muted, linewidth=1))
            shown.set_clip_path(rim)
            axes.set(xlim=(-1.02, 1.02), ylim=(-1.02, 1.02), xticks=(), yticks=())
            axes.spines[:].set_visible(False)
            axes.set_title(title, fontsize=10)
        _bar(figure, shown, places[0].tolist(), label)
        return figure

    return draw


def draw_curves(values: Mapping[str, NDArray[np.float64]], box: float, marks: tuple[float, ...]) -> Draw:
    """Up to four correlations (S,) over the shells of a box in Angstrom, the first in the strongest stroke."""
    lowest = min(0.0, *(float(curve.min()) for curve in values.values()))

    def draw(paper: Paper) -> Figure:
        figure, axes = pyplot().subplots(figsize=(6, 4), layout="constrained")
        styles = (paper.blue, "-", 2.2), (paper.muted, "-", 1.2), (paper.blue, ":", 1.2), (paper.muted, "--", 1.2)
        for (name, curve), (colour, style, width) in zip(values.items(), styles, strict=False):
            axes.plot(np.arange(len(curve)) / box, curve, style, color=colour, linewidth=width, label=name)
        for mark in marks:
            axes.axhline(mark, color=paper.muted, linewidth=0.8, linestyle=":", zorder=0)
            axes.annotate(f"{mark}", (0, mark), (3, 2), textcoords="offset points", color=paper.muted, fontsize=8)
        longest = max(map(len, values.values())) - 1
        axes.set(xlim=(0, longest / box), ylim=(lowest - 0.02, 1.02), ylabel="Fourier shell correlation")
        axes.set_xlabel("spatial frequency (1/\u00c5)")
        axes.spines[["top", "right"]].set_visible(False)
        if len(values) > 1:
            axes.legend(frameon=False, fontsize=9)
        return figure

    return draw


def panels(rows: list[NDArray[np.float32]]) -> Draw:
    """Rows of images (k, L, L), each image on a scale of grey of its own."""
    images = np.stack(rows)
    low, high = np.quantile(images, (0.002, 0.998), axis=(-2, -1), keepdims=True)
    grey = np.clip((images - low) / np.maximum(high - low, 1e-12), 0, 1)
    gap = 1 + images.shape[-1] // 32
    spaced = np.pad(grey, ((0, 0), (0, 0), (0, gap), (0, gap)), constant_values=np.nan)
    across, down = spaced.shape[1] * spaced.shape[3], spaced.shape[0] * spaced.shape[2]
    mosaic = spaced.swapaxes(1, 2).reshape(down, across)[:-gap, :-gap]

    def draw(_: Paper) -> Figure:
        inches = 1.3 / images.shape[-1]
        figure = pyplot().figure(figsize=(across * inches, down * inches), layout="none")
        axes = figure.add_axes((0, 0, 1, 1), frame_on=False, xticks=(), yticks=())
        axes.imshow(mosaic, cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation="bilinear")
        return figure

    return draw


def _shades(paper: Paper) -> Any:
    """From the paper, faintly tinted, to blue and beyond."""
    from matplotlib.colors import LinearSegmentedColormap

    dark = paper is DARK
    stops = ["#1d2730", "#2a6f97", "#6fb4e0", "#e8f4fb"] if dark else ["#f3f7fa", "#9cc8e3", "#2a6f97", "#0d2b40"]
    return LinearSegmentedColormap.from_list("paper", stops)


def _bar(figure: Figure, shown: Any, axes: Any, label: str) -> None:
    bar = figure.colorbar(shown, ax=axes, label=label, shrink=0.8, aspect=18)
    bar.outline.set_visible(False)
