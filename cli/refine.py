"""``cryozoo refine``: particles with poses and a map in, better poses out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import (
    INPUT,
    Run,
    check_output,
    check_suffix,
    open_stack,
    overwrite_option,
    poses_out_option,
    run_options,
    shard_option,
    stack_options,
    symmetry_option,
    verb,
)
from .match import check_report, digest, map_option, matched, report_option, resolution_option

if TYPE_CHECKING:
    from ..zoo.match import MatchedTable


@verb("refine", short_help="Better poses, from those there are, against a map.")
@click.argument("particles", type=INPUT)
@map_option
@poses_out_option
@click.option("--poses", type=INPUT, metavar="FILE", help="Poses, if not those of the particles' table.")
@symmetry_option
@resolution_option
@report_option
@shard_option
@stack_options
@overwrite_option
@run_options
def refine(
    particles: Path,
    map_name: str,
    out: Path,
    poses: Path | None,
    symmetry: str,
    resolution: float | None,
    report: Path | None,
    shard: tuple[int, int] | None,
    opened: dict[str, Any],
    overwrite: bool,
    run: Run,
) -> None:
    """Refine the poses of PARTICLES (.star, .cs or .mrcs) against a map by maximum likelihood, from where they are.

    They may be off by some ten degrees and a few pixels. Images that then fit much worse than most are looked for
    everywhere, as `cryozoo match` does. What is finished when it is stopped, or fails, is kept beside OUT, and the same
    command goes on from there.
    """
    inputs = [particles, Path(map_name)] + ([] if poses is None else [poses])
    check_suffix(out)
    check_output(out, overwrite=overwrite, inputs=inputs)
    check_report(report, overwrite=overwrite)
    device = run.device()

    from ..particles.poses import PoseTable
    from ..zoo.match import refine as refine_against

    stack = open_stack(particles, opened, shard)
    given = None
    if poses is not None:
        given = PoseTable.load(poses, image_size=stack.image_size, pixel_size=stack.pixel_size)

    def work(**kept: Any) -> MatchedTable:
        return refine_against(
            stack,
            map_name,
            poses=given,
            symmetry=symmetry,
            resolution=resolution,
            device=device,
            progress=run.progress,
            **kept,
        )

    settings = ("refine", digest(given or stack.poses), symmetry, resolution, device.type)
    matched(work, stack, map_name, out, report, settings, overwrite=overwrite)
