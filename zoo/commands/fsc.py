"""``cryozoo fsc``: how far two maps agree."""

from __future__ import annotations

from pathlib import Path

import click

from ...particles.errors import BadInput
from ._common import INPUT, PIXEL_SIZE, check_output, format_table, overwrite_option, verb


@verb("fsc", short_help="Fourier shell correlation of two maps.")
@click.argument("a", type=INPUT)
@click.argument("b", type=INPUT)
@click.option("--pixel-size", type=PIXEL_SIZE, metavar="A", help="Angstrom per voxel, when the headers do not say.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="PNG", help="Draw the curve.")
@overwrite_option
def fsc(a: Path, b: Path, pixel_size: float | None, plot: Path | None, overwrite: bool) -> None:
    """Fourier shell correlation of two maps of one box, which must be aligned already."""
    from ...particles.fsc import fourier_shell_correlation, resolution_at
    from ...particles.volumes import Volume

    if plot is not None:
        check_output(plot, overwrite=overwrite)
    first, second = (Volume.load(path, pixel_size=pixel_size) for path in (a, b))
    if first.data.shape != second.data.shape or len(set(first.data.shape)) > 1:
        boxes = [" x ".join(map(str, v.data.shape)) for v in (first, second)]
        raise BadInput(b, f"{boxes[1]} voxels", expected=f"a cube of the same box as {a}, which has {boxes[0]}")
    if abs(first.pixel_size / second.pixel_size - 1) > 0.01:
        found, expected = (f"{v.pixel_size:.4g} A per voxel" for v in (second, first))
        raise BadInput(b, found, expected=f"{expected} as in {a}", hint="--pixel-size replaces both")
    curve = fourier_shell_correlation(first.data, second.data)
    box = first.size * first.pixel_size
    click.echo(format_table([("1/A", "A", "FSC")] + [
        (f"{s / box:.4f}", f"{box / s:.2f}", f"{value:.4f}") for s, value in enumerate(curve.tolist()) if s
    ]))  # fmt: skip
    for threshold, meaning in ((0.143, "between half maps"), (0.5, "against a reference")):
        resolution = resolution_at(curve, threshold, first.pixel_size)
        reached = "better than" if bool((curve[1:] >= threshold).all()) else "at"
        click.echo(f"FSC {threshold} ({meaning}): {reached} {resolution:.2f} A")
    if plot is not None:
        _draw(curve.tolist(), box, plot)


def _draw(curve: list[float], box: float, path: Path) -> None:
    from .figures import pyplot, save_figure

    plt = pyplot()
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.plot([s / box for s in range(len(curve))], curve, color="#2a6f97")
    for threshold in (0.143, 0.5):
        axes.axhline(threshold, color="0.7", linewidth=0.8, linestyle="--")
    axes.set(xlabel="spatial frequency (1/A)", ylabel="Fourier shell correlation", ylim=(min(0, *curve) - 0.02, 1.02))
    axes.set_xlim(0, (len(curve) - 1) / box)
    save_figure(figure, path)
