"""``cryozoo recover``: particles in, poses out, by an encoder that knows distances only."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import (
    INPUT,
    Run,
    batch_size_option,
    check_output,
    check_picture,
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

if TYPE_CHECKING:
    from ..zoo.recover import RecoveredPoses

_LITTLE, _BY_CHANCE = 0.2, 10
"""Share of the distances that poses should explain, besides what P poses explain of random numbers, times P."""
_ANYWHERE = 60
"""Degrees; poses that have nothing to do with each other are further apart, whatever the camera."""
_SURE = 4
"""Standard errors by which one reading of the poses must fit better than the other."""


@verb("recover", short_help="Poses from the distances between images.")
@click.argument("particles", type=INPUT)
@encoder_option
@poses_out_option
@click.option("--figure", type=click.Path(path_type=Path), metavar="PNG", help="Draw how far the poses can be trusted.")
@click.option("--copies", type=click.IntRange(2), default=64, metavar="N", help="Images to turn and mirror, too.")
@click.option("--seed", type=click.IntRange(0), default=0, metavar="N", help="Of the search.")
@batch_size_option
@stack_options
@overwrite_option
@run_options
def recover(
    particles: Path,
    name: str,
    out: Path,
    figure: Path | None,
    copies: int,
    seed: int,
    opened: dict[str, Any],
    batch_size: int,
    overwrite: bool,
    run: Run,
) -> None:
    """Find the poses of PARTICLES (.star, .cs or .mrcs) from the distances between their images.

    For encoders that were trained on distances. The frame is arbitrary, and the hand may be the wrong one.
    """
    check_suffix(out)
    for path in filter(None, (out, figure)):
        check_output(path, overwrite=overwrite, inputs=[particles])
    check_picture(figure)
    device = run.device()

    from ..particles.stack import ParticleStack

    stack = ParticleStack.open(particles, **opened)
    encoder = load_encoder(name, device)
    found = encoder.recover(stack, copies=copies, batch_size=batch_size, seed=seed, progress=run.progress)
    save_poses(found.poses, out, overwrite=overwrite)
    if figure is not None:
        from ..zoo.figures import recovery_figure, save_figure

        save_figure(recovery_figure(found, title=f"{particles.name}, {encoder.name}"), figure)
    click.echo(f"{len(found.poses):,} particles, poses in {out}")
    say_datadir(stack, out)
    click.echo(_trust(found, by_construction=has_flips(encoder) and found.recovery is None))


def _trust(found: RecoveredPoses, *, by_construction: bool) -> str:
    recovery, gauge = found.recovery, found.gauge
    right, other = (math.degrees(angle) for angle in (gauge.residual, gauge.other_residual))
    lines = [
        "poses of turned and mirrored images agree with them, as always with an equivariant encoder, right or wrong"
        if by_construction
        else f"turned and mirrored images agree with them to {right:.1f} degrees ({other:.1f} if they were transposed)",
        "the frame is arbitrary, and the hand may be the wrong one: compare the map with its mirror image",
    ]
    if recovery is not None:
        particles = len(recovery.quaternions)
        lines.insert(
            0, f"the poses explain {recovery.explained:.0%} of the distances, which are off by {recovery.noise:.2f} rad"
        )
        if recovery.explained < _LITTLE + _BY_CHANCE / particles:
            lines.append("do not trust these poses: they are not distances between orientations")
        elif not recovery.converged:
            lines.append("the search did not come to rest: some poses may be far off; try another --seed")
    if right > _ANYWHERE:
        lines.append("do not trust these poses: those of turned and mirrored images are anywhere")
    elif not gauge.preference > _SURE:
        lines.append("do not trust these poses: they may be transposed; more copies tell")
    return "\n".join(lines)
