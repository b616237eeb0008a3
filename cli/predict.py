"""``cryozoo predict``: particles in, poses out."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..particles.errors import BadInput
from .common import (
    INPUT,
    Run,
    batch_size_option,
    check_output,
    check_suffix,
    encoder_option,
    has_flips,
    load_encoder,
    overwrite_option,
    poses_out_option,
    run_options,
    save_poses,
    say_datadir,
    stack_options,
    verb,
)
from .match import keep_finished

if TYPE_CHECKING:
    from ..particles.poses import PoseTable
    from ..particles.stack import ParticleStack
    from ..zoo.encoder import PoseEncoder


@verb("predict", short_help="Poses of particle images.")
@click.argument("particles", type=INPUT)
@encoder_option
@poses_out_option
@batch_size_option
@click.option("--refine", "map_name", metavar="MAP", help="Then refine the poses against this map of the molecule.")
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
    overwrite: bool,
    run: Run,
) -> None:
    """Predict the poses of PARTICLES (.star, .cs or .mrcs) and write them with all else the table says.

    What is finished when it is stopped, or fails, is kept beside OUT, and the same command goes on from there.
    """
    check_suffix(out)
    check_output(out, overwrite=overwrite, inputs=[particles])
    device = run.device()

    from ..particles.stack import ParticleStack
    from ..zoo.unfinished import Unfinished

    stack = ParticleStack.open(particles, **opened)
    encoder = load_encoder(name, device)
    unfinished = Unfinished(out, encoder, stack, batch_size)
    before = unfinished.done
    tables = [] if before is None else [before]
    if before is not None:
        click.echo(f"{len(before):,} particles were finished before")
    began = time.perf_counter()
    try:
        poses = encoder.predict(
            stack, batch_size=batch_size, progress=run.progress, done=before, on_batch=tables.append
        )
    except BaseException as error:
        if tables:
            with suppress(BadInput, OSError):  # nothing may hide the error itself
                kept = unfinished.keep(tables)
                error.add_note(f"{sum(map(len, tables)):,} finished ones are kept in {kept}; the same command goes on")
        raise
    if map_name is not None:
        poses = _refined(stack, map_name, poses, out, run)
    speed = (len(poses) - (0 if before is None else len(before))) / (time.perf_counter() - began)
    save_poses(poses, out, overwrite=overwrite)
    unfinished.remove()
    click.echo(f"{len(poses):,} particles, {speed:,.0f} images/s, poses in {out}")
    say_datadir(stack, out)
    click.echo(_frame(encoder))


def _refined(stack: ParticleStack, map_name: str, poses: PoseTable, out: Path, run: Run) -> PoseTable:
    from ..zoo.match import refine
    from ..zoo.predict import PredictionStopped

    try:
        return refine(stack, map_name, poses=poses, device=run.device(), progress=run.progress)
    except PredictionStopped as stop:
        keep_finished(stop, out)
        raise


def _frame(encoder: PoseEncoder) -> str:
    entry = encoder.entry
    assert entry is not None
    if entry.learnt_distances:
        side = "" if has_flips(encoder) else ", and so is the camera's side, which `cryozoo recover` finds"
        return f"the encoder learnt distances only: the frame is arbitrary, and so is the hand{side}"
    of = entry.molecule.name if entry.molecule else "the molecule that the encoder was trained on"
    return f"poses are in the frame of {of}; for another molecule they mean nothing"
