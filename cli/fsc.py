"""``cryozoo fsc``: how far two maps agree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..particles.errors import BadInput
from ..particles.files import atomic_write
from .common import (
    INPUT,
    PIXEL_SIZE,
    SHARED_REFERENCE,
    check_map,
    check_output,
    check_picture,
    format_table,
    moved_by,
    overwrite_option,
    verb,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ..imaging.volumes import Volume

_AUTO = "auto"
_ROUNDING = 0.01
"""What resampling adds to a mask, above and below."""
# FSC of the first shells, below which maps are each other's negatives.
_OPPOSITE = -0.5
# RELION's names, as in the table of its postprocess.
_LABELS = {
    "FSC": "FourierShellCorrelation",
    "corrected": "FourierShellCorrelationCorrected",
    "unmasked": "FourierShellCorrelationUnmaskedMaps",
    "masked": "FourierShellCorrelationMaskedMaps",
    "random phases": "CorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps",
}


@verb("fsc", short_help="Fourier shell correlation of two maps.")
@click.argument("a", type=INPUT)
@click.argument("b", type=INPUT)
@click.option("--mask", metavar="MAP", help="A map from 0 to 1, or `auto` for one around the density.")
@click.option("--pixel-size", type=PIXEL_SIZE, metavar="A", help="Angstrom per voxel, instead of what the headers say.")
@click.option(
    "--aligned",
    type=click.Path(path_type=Path),
    metavar="MAP",
    help="First lay A over B, by rotation, shift and hand, and write it there.",
)
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="FILE", help="Write the curve: .star or .csv.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="PNG", help="Draw the curve.")
@overwrite_option
def fsc(
    a: Path,
    b: Path,
    mask: str | None,
    pixel_size: float | None,
    aligned: Path | None,
    out: Path | None,
    plot: Path | None,
    overwrite: bool,
) -> None:
    """Fourier shell correlation of two maps of one box, as they lie or, with --aligned, laid over each other.

    In a mask, maps correlate by the mask alone; that part is measured on maps with random phases and taken off.
    """
    if out is not None and out.suffix.lower() not in (".star", ".csv"):
        raise BadInput(out, f"the suffix {out.suffix!r}", expected="one of .star, .csv")
    inputs = [a, b] + ([] if mask in (None, _AUTO) else [Path(str(mask))])
    for path in filter(None, (*inputs, aligned)):
        check_map(path)
    check_picture(plot)
    for output in (aligned, out, plot):
        if output is not None:
            check_output(output, overwrite=overwrite, inputs=inputs)

    from ..imaging.fsc import fourier_shell_correlation, masked_fsc, resolution_at
    from ..imaging.masks import mask_from_map
    from ..imaging.volumes import Volume

    first, second = (Volume.load(path, pixel_size=pixel_size) for path in (a, b))
    _check_fits(second, b, first, a)
    for volume, path in ((first, a), (second, b)):
        if float(volume.data.min()) == float(volume.data.max()):
            raise BadInput(path, "all voxels are equal", expected="a density")
    if float(fourier_shell_correlation(first.data, second.data)[1:4].mean()) < _OPPOSITE:
        click.echo("the maps have opposite signs: density is positive in one and negative in the other")
    given = None if mask in (None, _AUTO) else _load_mask(str(mask), first, a, pixel_size)
    if aligned is not None:
        first = _align(first, second, aligned, overwrite=overwrite)
    if mask is None:
        curves = {"FSC": fourier_shell_correlation(first.data, second.data)}
    else:
        if given is None:
            given = mask_from_map(Volume((first.data + second.data) / 2, first.pixel_size))
        found = masked_fsc(first.data, second.data, given)
        curves = {
            "corrected": found.corrected,
            "unmasked": found.unmasked,
            "masked": found.masked,
            "random phases": found.randomised,
        }
    best = next(iter(curves.values()))
    box = first.size * first.pixel_size
    click.echo(format_table([("1/A", "A", *curves)] + [
        (f"{s / box:.4f}", f"{box / s:.2f}", *(f"{curve[s]:.4f}" for curve in curves.values()))
        for s in range(1, len(best))
    ]))  # fmt: skip
    for threshold, meaning in ((0.143, "between half maps"), (0.5, "against a reference")):
        resolution = resolution_at(best, threshold, first.pixel_size, size=first.size)
        reached = "better than" if bool((best[1:] >= threshold).all()) else "at"
        click.echo(f"FSC {threshold} ({meaning}): {reached} {resolution:.2f} A")
    click.echo(SHARED_REFERENCE)
    if out is not None:
        write_curves(curves, box, out, overwrite=overwrite)
    if plot is not None:
        from ..zoo.figures import save_figure
        from ..zoo.report_figures import LIGHT, draw_curves

        drawn = draw_curves({name: curve.double().numpy() for name, curve in curves.items()}, box, (0.143, 0.5))
        save_figure(drawn(LIGHT), plot)


def _align(first: Volume, second: Volume, path: Path, *, overwrite: bool) -> Volume:
    from ..imaging.map_alignment import align_map
    from ..particles.mrc_writer import write_volume

    found = align_map(first, second)
    mirrored = "mirrored at z = 0, " if found.mirrored else ""
    click.echo(f"A was {mirrored}{moved_by(found.rotation, found.shift)}: {path}")
    write_volume(path, found.aligned.data.numpy(), found.aligned.pixel_size, overwrite=overwrite)
    return found.aligned


def _check_fits(volume: Volume, path: str | Path, first: Volume, name: Path) -> None:
    if len(set(first.data.shape)) > 1:
        raise BadInput(name, " x ".join(map(str, first.data.shape)) + " voxels", expected="a cube")
    if volume.data.shape != first.data.shape:
        boxes = [" x ".join(map(str, v.data.shape)) for v in (first, volume)]
        expected = f"a cube of the same box as {name}, which has {boxes[0]}"
        hint = f"crop or pad it (relion_image_handler --new_box {first.size})"
        raise BadInput(path, f"{boxes[1]} voxels", expected=expected, hint=hint)
    if abs(first.pixel_size / volume.pixel_size - 1) > 0.01:
        found, expected = (f"{v.pixel_size:.4g} A per voxel" for v in (volume, first))
        raise BadInput(path, found, expected=f"{expected} as in {name}", hint="--pixel-size replaces both")


def _load_mask(mask: str, first: Volume, name: Path, pixel_size: float | None) -> Tensor:
    from ..imaging.volumes import Volume

    volume = Volume.load(mask, pixel_size=pixel_size)
    _check_fits(volume, mask, first, name)
    low, high = float(volume.data.min()), float(volume.data.max())
    if low < -_ROUNDING or high > 1 + _ROUNDING or high <= _ROUNDING:
        raise BadInput(mask, f"values from {low:g} to {high:g}", expected="a mask, 0 outside and 1 inside")
    return volume.data.clamp(0, 1)


def write_curves(curves: dict[str, Tensor], box: float, path: Path, *, overwrite: bool) -> None:
    """Write correlations over the shells of a box in Angstrom, as .star or .csv."""
    from ..particles.star import StarBlock, StarFile

    shells = range(1, len(next(iter(curves.values()))))
    columns = {
        "rlnSpectralIndex": [str(s) for s in shells],
        "rlnResolution": [f"{s / box:.6f}" for s in shells],
        "rlnAngstromResolution": [f"{box / s:.6f}" for s in shells],
    }
    columns |= {f"rln{_LABELS[name]}": [f"{curve[s]:.6f}" for s in shells] for name, curve in curves.items()}
    if path.suffix.lower() == ".star":
        StarFile([StarBlock.from_columns("fsc", columns)]).write(path, overwrite=overwrite)
        return
    names = ["shell", "frequency_per_A", "resolution_A", *(name.replace(" ", "_") for name in curves)]
    rows = [names, *map(list, zip(*columns.values(), strict=True))]
    with atomic_write(path, overwrite=overwrite) as file:
        file.write("".join(",".join(row) + "\n" for row in rows).encode())
