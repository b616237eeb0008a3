"""``cryozoo match``: particles and a map in, poses out, without a network."""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import (
    INPUT,
    Number,
    Run,
    check_output,
    check_suffix,
    open_stack,
    overwrite_option,
    poses_out_option,
    run_options,
    save_poses,
    say_datadir,
    shard_option,
    stack_options,
    symmetry_option,
    verb,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..imaging.pose_posterior import Matches
    from ..particles.poses import PoseTable
    from ..particles.stack import ParticleStack
    from ..zoo.match import MatchedTable

map_option = click.option(
    "--map", "map_name", required=True, metavar="MAP", help="The map, .mrc; or an atomic model, or phantom:SEED."
)
resolution_option = click.option(
    "--resolution",
    type=Number(0, most=1000),
    metavar="A",
    help="Finest detail.  [default: as far as it helps]",
)
report_option = click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="HTML",
    help="Write a page that says how good the poses are, with figures, too.",
)


@verb("match", short_help="Poses of particle images against a map.")
@click.argument("particles", type=INPUT)
@map_option
@poses_out_option
@symmetry_option
@click.option("--reach", type=Number(least=0), metavar="A", help="Largest usual shift.  [default: a tenth of the box]")
@resolution_option
@report_option
@shard_option
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
    report: Path | None,
    shard: tuple[int, int] | None,
    opened: dict[str, Any],
    overwrite: bool,
    run: Run,
) -> None:
    """Find the poses of PARTICLES (.star, .cs or .mrcs) against a map by maximum likelihood, whatever they are.

    No network is needed. The confidence that is written is one over the expected angular error in radian. What is
    finished when it is stopped, or fails, is kept beside OUT, and the same command goes on from there.
    """
    check_suffix(out)
    check_output(out, overwrite=overwrite, inputs=[particles, Path(map_name)])
    check_report(report, overwrite=overwrite)
    device = run.device()

    from ..zoo.match import match as match_to

    stack = open_stack(particles, opened, shard)

    def work(**kept: Any) -> MatchedTable:
        return match_to(
            stack,
            map_name,
            symmetry=symmetry,
            reach=reach,
            resolution=resolution,
            device=device,
            progress=run.progress,
            **kept,
        )

    settings = ("match", symmetry, reach, resolution, device.type)
    matched(work, stack, map_name, out, report, settings, overwrite=overwrite)


def check_report(report: Path | None, *, overwrite: bool) -> None:
    """Refuse a report that could not be written in the end, before the work starts."""
    if report is not None:
        from ..zoo.report import check_report

        check_report(report, overwrite=overwrite)
        check_output(report, overwrite=overwrite)


def save_report(report: Path | None, poses: MatchedTable, out: Path, *, overwrite: bool) -> None:
    """Write the report of poses that are in OUT, where one is asked for."""
    if report is not None:
        from ..zoo.report import write_report

        write_report(report, poses, saved=out, overwrite=overwrite)
        click.echo(f"report in {report}")


def matched(
    work: Callable[..., MatchedTable],
    stack: ParticleStack,
    map_name: str,
    out: Path,
    report: Path | None,
    settings: tuple[Any, ...],
    *,
    overwrite: bool,
) -> None:
    """Do work that compares particles with a map, from where it was left, and say how sure the poses are."""
    save = partial(save_poses, out=out, overwrite=overwrite)
    poses, seconds, before = kept(work, stack, out, (*settings, map_identity(map_name)), save)
    speed = (len(poses) - before) / seconds
    click.echo(f"{len(poses):,} particles, {speed:,.1f} images/s, poses in {out}")
    say_datadir(stack, out)
    error, fit = poses.matches.error, poses.fit
    unsure = int((poses.matches.probability < 0.9).sum())
    click.echo(f"expected angular error: median {math.degrees(error.median()):.2f} degrees")
    if unsure:
        click.echo(f"{unsure:,} particles fit another pose nearly as well")
    agreement = f"{fit.agreement:.2f} +- {fit.agreement_error:.2f} (1 for the right map, 0 for another molecule)"
    click.echo(f"agreement of the map's finer half: {agreement}")
    click.echo("poses are in the frame of the map, and of its hand")
    save_report(report, poses, out, overwrite=overwrite)


def kept(
    work: Callable[..., MatchedTable],
    stack: ParticleStack,
    out: Path,
    settings: tuple[Any, ...],
    save: Callable[[MatchedTable], None],
) -> tuple[MatchedTable, float, int]:
    """The poses, how many seconds they took, and how many were finished before; they are kept until they are saved."""
    import torch

    from ..imaging.pose_posterior import Matches
    from ..zoo.unfinished import Unfinished

    unfinished = Unfinished(out, stack, settings, whole=True)
    before, done = len(unfinished), None
    if unfinished.done is not None:
        click.echo(f"{before:,} particles were finished before")
        done = Matches(**{name: torch.from_numpy(values) for name, values in unfinished.done.items()})

    def add(found: Matches) -> None:
        unfinished.add({name: values.numpy() for name, values in vars(found).items()})

    began = time.perf_counter()
    with unfinished.kept_on_failure():
        poses = work(done=done, on_batch=add)
        seconds = time.perf_counter() - began
        save(poses)
    unfinished.remove()
    return poses, seconds, before


def map_identity(name: str) -> Any:
    """By what a map is known to be the same."""
    from ..particles.files import find_data
    from ..zoo.unfinished import as_it_lies

    return name if name.startswith("phantom:") else as_it_lies(find_data(name))


def digest(poses: PoseTable | None) -> str:
    """Of poses that are started from."""
    import hashlib

    return "" if poses is None else hashlib.sha256(poses.rotation.tobytes() + poses.shift.tobytes()).hexdigest()
