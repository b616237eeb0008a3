"""``cryozoo convert``: poses from one program's format to another's."""

from __future__ import annotations

from pathlib import Path

import click

from .common import INPUT, check_output, check_suffix, image_size_option, overwrite_option, pixel_size_option, verb


@verb("convert", short_help="Poses from one program's format to another's.")
@click.argument("source", type=INPUT, metavar="IN")
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT")
@pixel_size_option
@image_size_option
@overwrite_option
def convert(source: Path, out: Path, pixel_size: float | None, image_size: int | None, overwrite: bool) -> None:
    """Convert poses and shifts between .star (RELION), .cs (cryoSPARC), .pkl (cryoDRGN) and .npz.

    cryoDRGN's .pkl has shifts in fractions of the box, so it needs the pixel size and the box.
    """
    check_suffix(source)
    check_suffix(out)
    check_output(out, overwrite=overwrite, inputs=[source])

    from ..particles.poses import PoseTable

    poses = PoseTable.load(source, image_size=image_size, pixel_size=pixel_size)
    poses.save(out, overwrite=overwrite)
    click.echo(f"{len(poses):,} poses in {out}")
