"""``cryozoo align-symmetry``: the axes of a symmetric map where RELION has them."""

from __future__ import annotations

import warnings
from pathlib import Path

import click

from ..particles.errors import BadInput, BadInputWarning
from .common import PIXEL_SIZE, Symmetry, check_map, check_output, moved_by, overwrite_option, verb

_SYMMETRIC = 0.9  # correlation below which mates are none


@verb("align-symmetry", short_help="Turn a symmetric map to RELION's axes.")
@click.argument("name", metavar="MAP")
@click.option(
    "--symmetry", required=True, type=Symmetry(), metavar="GROUP", help="Its point group: C6, D3, T, O, I2 ..."
)
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), metavar="MAP", help="The turned map, .mrc."
)
@click.option("--size", type=click.IntRange(8, 4096), metavar="L", help="Box in voxels of an atomic model.")
@click.option("--pixel-size", type=PIXEL_SIZE, metavar="A", help="Angstrom per voxel of an atomic model.")
@overwrite_option
def align_symmetry(
    name: str, symmetry: str, out: Path, size: int | None, pixel_size: float | None, overwrite: bool
) -> None:
    """Turn MAP, or an atomic model, so that its symmetry axes lie where RELION has them and cross at its origin.

    Poses, training and matching with --symmetry take such maps.
    """
    check_map(out)
    check_output(out, overwrite=overwrite, inputs=[Path(name)])

    from ..imaging import symmetry_axes
    from ..imaging.volumes import Volume, is_atomic
    from ..particles.files import find_data
    from ..particles.mrc_writer import write_volume

    if is_atomic(name) and (size is None or pixel_size is None):
        raise BadInput(name, "an atomic model", expected="--size and --pixel-size of the map to make from it")
    volume = Volume.load(find_data(name), size=size, pixel_size=pixel_size)
    try:
        found = symmetry_axes.align_symmetry(volume, symmetry)
    except ValueError as error:
        raise BadInput(name, str(error)) from None
    write_volume(out, found.aligned.data.numpy(), found.aligned.pixel_size, overwrite=overwrite)
    alike = f"its mates correlate to {found.correlation:.3f}"
    click.echo(f"{moved_by(found.rotation, found.shift)}; {alike}: {out}")
    if found.correlation < _SYMMETRIC:
        warnings.warn(BadInputWarning(f"{name}: seems not to be {symmetry}: {alike}"), stacklevel=2)
