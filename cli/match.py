"""``cryozoo match``: particles and a map in, poses out, without a network."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import (
    INPUT,
    Number,
    Run,
    check_output,
    check_suffix,
    keep_poses,
    overwrite_option,
    poses_out_option,
    run_options,
    save_poses,
    say_datadir,
    stack_options,
    symmetry_option,
    verb,
)

if TYPE_CHECKING:
    from ..particles.stack import ParticleStack
    from ..zoo.match import MatchedTable
    from ..zoo.predict import PredictionStopped

map_option = click.option(
    "--map", "map_name", required=True, metavar="MAP", help="The map, .mrc; or an atomic model, or phantom:SEED."
)
resolution_option = click.option(
    "--resolution",
    type=Number(0, most=1000),
    metavar="A",
    help="Finest detail.  [default: as far as it helps]",
)


@verb("match", short_help="Poses of particle images against a map.")
@click.argument("particles", type=INPUT)
@map_option
@poses_out_option
@symmetry_option
@click.option("--reach", type=Number(least=0), metavar="A", help="Largest usual shift.  [default: a tenth of the box]")
@resolution_option
@stack_options
@overwrite_option
@run_options
def match(
    particles: Path,
    map_name: str,
    out: Path,
    symmetry: str,
    reach: float | None,
    resolution: float | None,
    opened: dict[str, Any],
    overwrite: bool,
    run: Run,
) -> None:
    """Find the poses of PARTICLES (.star, .cs or .mrcs) against a map by maximum likelihood, whatever they are.

    No network is needed. The confidence that is written is one over the expected angular error in radian.
    """
    check_suffix(out)
    check_output(out, overwrite=overwrite, inputs=[particles, Path(map_name)])
    device = run.device()

    from ..particles.stack import ParticleStack
    from ..zoo.match import match as match_to
    from ..zoo.predict import PredictionStopped

    stack = ParticleStack.open(particles, **opened)
    began = time.perf_counter()
    try:
        poses = match_to(
            stack,
            map_name,
            symmetry=symmetry,
            reach=reach,
            resolution=resolution,
            device=device,
            progress=run.progress,
        )
    except PredictionStopped as stop:
        keep_finished(stop, out)
        raise
    save_matched(poses, stack, out, began, overwrite=overwrite)


def keep_finished(stop: PredictionStopped, out: Path) -> None:
    """Write the poses that were finished beside the output, and say so."""
    if stop.done is not None and (kept := keep_poses(stop.done, out)):
        stop.args = (f"{stop}; they are in {kept}",)


def save_matched(poses: MatchedTable, stack: ParticleStack, out: Path, began: float, *, overwrite: bool) -> None:
    """Write poses that were compared with a map, and print how sure they are."""
    speed = len(poses) / (time.perf_counter() - began)
    save_poses(poses, out, overwrite=overwrite)
    click.echo(f"{len(poses):,} particles, {speed:,.1f} images/s, poses in {out}")
    say_datadir(stack, out)
    error = poses.matches.error
    unsure = int((poses.matches.probability < 0.9).sum())
    click.echo(f"expected angular error: median {math.degrees(error.median()):.2f} degrees")
    if unsure:
        click.echo(f"{unsure:,} particles fit another pose nearly as well")
    click.echo("poses are in the frame of the map, and of its hand")
