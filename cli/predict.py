"""``cryozoo predict``: particles in, poses out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import (
    INPUT,
    Run,
    batch_size_option,
    check_output,
    check_suffix,
    encoder_option,
    has_flips,
    keep_poses,
    load_encoder,
    overwrite_option,
    poses_out_option,
    run_options,
    save_poses,
    stack_options,
    verb,
)

if TYPE_CHECKING:
    from ..zoo.encoder import PoseEncoder


@verb("predict", short_help="Poses of particle images.")
@click.argument("particles", type=INPUT)
@encoder_option
@poses_out_option
@batch_size_option
@stack_options
@overwrite_option
@run_options
def predict(
    particles: Path,
    name: str,
    out: Path,
    opened: dict[str, Any],
    batch_size: int,
    overwrite: bool,
    run: Run,
) -> None:
    """Predict the poses of PARTICLES (.star, .cs or .mrcs) and write them with all else the table says.

    Ctrl-C keeps what is finished beside OUT.
    """
    check_suffix(out)
    check_output(out, overwrite=overwrite, inputs=[particles])
    device = run.device()

    from ..particles.stack import ParticleStack
    from ..zoo.predict import PredictionStopped

    stack = ParticleStack.open(particles, **opened)
    encoder = load_encoder(name, device)
    began = time.perf_counter()
    try:
        poses = encoder.predict(stack, batch_size=batch_size, progress=run.progress)
    except PredictionStopped as stop:
        if stop.done is not None and (kept := keep_poses(stop.done, out)):
            stop.args = (f"{stop}; they are in {kept}",)
        raise
    seconds = time.perf_counter() - began
    save_poses(poses, out, overwrite=overwrite)
    click.echo(f"{len(poses):,} particles, {len(poses) / seconds:,.0f} images/s, poses in {out}")
    click.echo(_frame(encoder))


def _frame(encoder: PoseEncoder) -> str:
    entry = encoder.entry
    assert entry is not None
    if entry.learnt_distances:
        side = "" if has_flips(encoder) else ", and so is the camera's side, which `cryozoo recover` finds"
        return f"the encoder learnt distances only: the frame is anybody's, the hand too{side}"
    of = entry.molecule.name if entry.molecule else "the molecule that the encoder was trained on"
    return f"poses are in the frame of {of}; for another molecule they mean nothing"
