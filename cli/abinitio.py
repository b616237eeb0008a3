"""``cryozoo abinitio``: particles in, poses and a map out, with nothing else known."""

from __future__ import annotations

import shutil
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from ..particles.errors import BadInput
from .common import (
    INPUT,
    Number,
    Run,
    check_output,
    overwrite_option,
    run_options,
    say_datadir,
    stack_options,
    symmetry_option,
    verb,
)

_MAP, _HALVES, _START = "map.mrc", ("map_half1.mrc", "map_half2.mrc"), "start.mrc"
_POSES, _CLEAN = "poses.star", "without_junk.star"
_FSC, _REPORT, _PICTURE, _UNFINISHED = "fsc.csv", "report.html", "progress.png", "unfinished"


@verb("abinitio", short_help="Poses and a map from images alone.")
@click.argument("particles", type=INPUT)
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder for maps and poses."
)
@symmetry_option
@click.option(
    "--diameter", type=Number(0, most=1e5), metavar="A", help="Of the molecule.  [default: as the images show it]"
)
@click.option("--starts", type=click.IntRange(1, 100), default=2, metavar="N", help="Random starts.")
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, metavar="N", help="Of all random numbers.")
@stack_options
@overwrite_option
@run_options
def abinitio(
    particles: Path,
    out: Path,
    symmetry: str,
    diameter: float | None,
    starts: int,
    seed: int,
    opened: dict[str, Any],
    overwrite: bool,
    run: Run,
) -> None:
    """Find poses of PARTICLES (.star or .cs) and their map from the images alone.

    A coarse map comes from random starts, of which the best is kept; from there the poses of two half-sets are
    refined, each against its own map. Frame and hand are arbitrary. DIR gets map.mrc, the half maps, the coarse map
    start.mrc, poses.star, fsc.csv and report.html, and where images look like no particles, the others alone in
    without_junk.star; while it works, progress.png shows the map of the moment. When it is
    stopped, the same command goes on.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in (_MAP, *_HALVES, _START, _POSES, _CLEAN, _FSC):
        check_output(out / name, overwrite=overwrite, inputs=[particles])
    from ..zoo.report import check_report

    draws = find_spec("matplotlib") is not None
    if draws:
        check_report(out / _REPORT, overwrite=overwrite)
    else:
        click.echo("no report and no pictures: they need matplotlib, pip install 'cryozoo[bench]'")
    device = run.device()

    import numpy as np

    from ..particles.mrc_writer import write_volume
    from ..particles.stack import ParticleStack
    from ..zoo.ab_initio import abinitio as find
    from ..zoo.ab_initio_report import save_progress, write_ab_initio_report
    from .fsc import write_curves

    stack = ParticleStack.open(particles, **opened)
    if stack.star is None:
        raise BadInput(particles, "no STAR file", expected="a table of particles, .star")
    found = find(
        stack,
        symmetry=symmetry,
        diameter=diameter,
        starts=starts,
        seed=seed,
        device=device,
        progress=run.progress,
        say=click.echo,
        show=partial(save_progress, out / _PICTURE) if draws else None,
        keep=out / _UNFINISHED,
    )
    made = found.reconstruction
    volumes = dict(zip((_MAP, *_HALVES, _START), (made.map, *made.half_maps, found.start), strict=True))
    for name, volume in volumes.items():
        write_volume(out / name, volume.data.cpu().numpy(), volume.pixel_size, overwrite=overwrite)
    found.poses.save(out / _POSES, overwrite=overwrite)
    best = out / _POSES
    (out / _CLEAN).unlink(missing_ok=True)  # of an earlier run
    if found.junk.any():
        best = out / _CLEAN
        found.poses.subset(np.flatnonzero(~found.junk)).save(best)
    say_datadir(stack, out / _POSES)
    box = made.map.size * made.map.pixel_size
    write_curves({"unmasked": made.fsc}, box, out / _FSC, overwrite=overwrite)
    if draws:
        write_ab_initio_report(out / _REPORT, found, saved=best, overwrite=overwrite)
    click.echo(f"{len(found.poses):,} particles, half maps that agree to {made.resolution:.1f} A: {out}")
    shutil.rmtree(out / _UNFINISHED, ignore_errors=True)
    for doubt in found.doubts:
        click.echo(f"note: {doubt}")
    click.echo("the frame is arbitrary, and the hand may be the wrong one: compare the map with its mirror image")
