"""``cryozoo predict``: particles in, poses out."""

from __future__ import annotations

import time
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..particles.errors import BadInput, BadInputWarning
from .common import (
    INPUT,
    Run,
    batch_size_option,
    check_output,
    check_suffix,
    encoder_option,
    has_flips,
    load_encoder,
    open_stack,
    overwrite_option,
    poses_out_option,
    run_options,
    save_poses,
    say_datadir,
    shard_option,
    stack_options,
    verb,
)
from .match import check_report, digest, kept, map_identity, report_option, save_report

if TYPE_CHECKING:
    from ..particles.poses import PoseTable
    from ..particles.stack import ParticleStack
    from ..zoo.encoder import PoseEncoder
    from ..zoo.match import MatchedTable
    from ..zoo.unfinished import Columns


@verb("predict", short_help="Poses of particle images.")
@click.argument("particles", type=INPUT)
@encoder_option
@poses_out_option
@batch_size_option
@click.option(
    "--refine",
    "map_name",
    metavar="MAP",
    help="Then refine the poses against this map of the molecule; frame is the encoder's own.",
)
@click.option("--no-check", is_flag=True, help="Do not ask whether the images are of the encoder's molecule.")
@report_option
@shard_option
@stack_options
@overwrite_option
@run_options
def predict(
    particles: Path,
    name: str,
    out: Path,
    opened: dict[str, Any],
    batch_size: int,
    map_name: str | None,
    no_check: bool,
    report: Path | None,
    shard: tuple[int, int] | None,
    overwrite: bool,
    run: Run,
) -> None:
    """Predict the poses of PARTICLES (.star, .cs or .mrcs) and write them with all else the table says.

    What is finished when it is stopped, or fails, is kept beside OUT, and the same command goes on from there.
    """
    if report is not None and map_name is None:
        raise click.UsageError("--report is of poses that were compared with a map: it needs --refine MAP")
    check_suffix(out)
    check_output(out, overwrite=overwrite, inputs=[particles])
    check_report(report, overwrite=overwrite)
    device = run.device()

    from ..zoo.encoder import FRAME_MAP
    from ..zoo.entry import MODEL
    from ..zoo.unfinished import Unfinished

    stack = open_stack(particles, opened, shard)
    encoder = load_encoder(name, device)
    assert encoder.entry is not None
    if map_name == FRAME_MAP:
        encoder.own_map()  # is there one, before anything else is done
    settings = (encoder.config, encoder.entry.files[MODEL].sha256, batch_size, device.type)
    unfinished = Unfinished(out, stack, settings)
    before = len(unfinished)
    if before:
        click.echo(f"{before:,} particles were finished before")
    elif map_name is None and not no_check:
        _check(encoder, stack)

    def add(poses: PoseTable) -> None:
        columns = {name: getattr(poses, name) for name in ("rotation", "shift", "confidence")}
        unfinished.add({name: values for name, values in columns.items() if values is not None})

    began = time.perf_counter()
    with unfinished.kept_on_failure():
        poses = encoder.predict(
            stack,
            batch_size=batch_size,
            progress=run.progress,
            done=_table(unfinished.done),
            on_batch=add,
        )
        speed = (len(poses) - before) / (time.perf_counter() - began)
        if map_name is not None:
            unfinished.keep()
            poses = refined = _refined(stack, map_name, poses, encoder, out, overwrite, run)
    if map_name is None:
        save_poses(poses, out, overwrite=overwrite)
    unfinished.remove()
    click.echo(f"{len(poses):,} particles, {speed:,.0f} images/s, poses in {out}")
    say_datadir(stack, out)
    click.echo(_frame(encoder))
    if map_name is not None:
        save_report(report, refined, out, overwrite=overwrite)


def _check(encoder: PoseEncoder, stack: ParticleStack) -> None:
    """Say whether the images are of the molecule that the encoder knows; refining says so itself."""
    from ..zoo.match_checks import FEWEST

    if encoder.frame_map is None or len(stack) < FEWEST:
        return
    try:
        fit = encoder.agreement(stack)
    except BadInput as error:
        warnings.warn(BadInputWarning(f"the images cannot be of the encoder's molecule: {error}"), stacklevel=1)
        return
    click.echo(
        f"{fit.images} images agree with {_molecule(encoder)} to {fit.agreement:.2f} +- {fit.agreement_error:.2f} "
        "(1: the same, 0: another molecule)"
    )


def _refined(
    stack: ParticleStack,
    map_name: str,
    poses: PoseTable,
    encoder: PoseEncoder,
    out: Path,
    overwrite: bool,
    run: Run,
) -> MatchedTable:
    from ..zoo.encoder import FRAME_MAP
    from ..zoo.entry import FRAME
    from ..zoo.match import refine

    assert encoder.entry is not None
    symmetry = encoder.entry.symmetry
    own = map_name == FRAME_MAP
    identity = encoder.entry.files[FRAME].sha256 if own else map_identity(map_name)

    def work(**kept: Any) -> MatchedTable:
        return refine(
            stack,
            encoder.own_map() if own else map_name,
            poses=poses,
            symmetry=symmetry,
            device=run.device(),
            progress=run.progress,
            **kept,
        )

    save = partial(save_poses, out=out, overwrite=overwrite)
    beside = out.with_name(f"{out.stem}.refined{out.suffix}")
    refined, seconds, before = kept(
        work, stack, beside, ("refine", digest(poses), symmetry, run.device().type, identity), save
    )
    click.echo(f"refined at {(len(poses) - before) / seconds:,.0f} images/s")
    return refined


def _table(columns: Columns | None) -> PoseTable | None:
    from ..particles.poses import PoseTable

    return None if columns is None else PoseTable(columns["rotation"], columns.get("shift"), columns.get("confidence"))


def _frame(encoder: PoseEncoder) -> str:
    entry = encoder.entry
    assert entry is not None
    if entry.learnt_distances:
        side = "" if has_flips(encoder) else ", and so is the camera's side, which `cryozoo recover` finds"
        return f"the encoder learnt distances only: the frame is arbitrary, and so is the hand{side}"
    return f"poses are in the frame of {_molecule(encoder)}; for another molecule they mean nothing"


def _molecule(encoder: PoseEncoder) -> str:
    entry = encoder.entry
    return entry.molecule.name if entry and entry.molecule else "the molecule that the encoder was trained on"
