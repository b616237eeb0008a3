"""``cryozoo refine``: particles with poses and a map in, better poses out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from .common import (
    INPUT,
    Run,
    check_output,
    check_suffix,
    overwrite_option,
    poses_out_option,
    run_options,
    stack_options,
    verb,
)
from .match import keep_finished, map_option, resolution_option, save_matched


@verb("refine", short_help="Better poses, from those there are, against a map.")
@click.argument("particles", type=INPUT)
@map_option
@poses_out_option
@click.option("--poses", type=INPUT, metavar="FILE", help="Poses, if not those of the particles' table.")
@resolution_option
@stack_options
@overwrite_option
@run_options
def refine(
    particles: Path,
    map_name: str,
    out: Path,
    poses: Path | None,
    resolution: float | None,
    opened: dict[str, Any],
    overwrite: bool,
    run: Run,
) -> None:
    """Refine the poses of PARTICLES (.star, .cs or .mrcs) against a map by maximum likelihood, from where they are.

    They may be off by some ten degrees and a few pixels; `cryozoo match` looks everywhere.
    """
    inputs = [particles, Path(map_name)] + ([] if poses is None else [poses])
    check_suffix(out)
    check_output(out, overwrite=overwrite, inputs=inputs)
    device = run.device()

    from ..particles.poses import PoseTable
    from ..particles.stack import ParticleStack
    from ..zoo.match import refine as refine_against
    from ..zoo.predict import PredictionStopped

    stack = ParticleStack.open(particles, **opened)
    given = None
    if poses is not None:
        given = PoseTable.load(poses, image_size=stack.image_size, pixel_size=stack.pixel_size)
    began = time.perf_counter()
    try:
        found = refine_against(
            stack,
            map_name,
            poses=given,
            resolution=resolution,
            device=device,
            progress=run.progress,
        )
    except PredictionStopped as stop:
        keep_finished(stop, out)
        raise
    save_matched(found, stack, out, began, overwrite=overwrite)
