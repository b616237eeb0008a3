"""``cryozoo recover``: particles in, poses out, by an encoder that knows distances only."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...particles.errors import BadInput
from ._common import (
    INPUT,
    PIXEL_SIZE,
    check_output,
    check_suffix,
    choose_device,
    device_option,
    overwrite_option,
    progress_option,
    threads_option,
    verb,
    wants_progress,
)

if TYPE_CHECKING:
    from ..recover import RecoveredPoses

_LITTLE, _BY_CHANCE = 0.2, 12
"""Share of the distances that poses should explain, besides what P poses explain of random numbers, times P."""
_SURE = 4
"""Standard errors by which one reading of the poses must fit better than the other."""


@verb("recover", short_help="Poses from the distances between images.")
@click.argument("particles", type=INPUT)
@click.option(
    "--encoder", "name", required=True, metavar="NAME", help="See `cryozoo list --pretrained`; or local-dir:DIR."
)
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Poses: .star, .cs, .pkl or .npz.")
@click.option("--figure", type=click.Path(path_type=Path), metavar="PNG", help="Draw how far the poses can be trusted.")
@click.option("--copies", type=click.IntRange(2), default=64, metavar="N", help="Images to turn and mirror, too.")
@click.option("--seed", type=click.IntRange(0), default=0, metavar="N", help="Of the search.")
@click.option("--datadir", type=INPUT, metavar="DIR", help="Where the images are, if not beside the table.")
@click.option("--pixel-size", type=PIXEL_SIZE, metavar="A", help="Angstrom per pixel, instead of what the files say.")
@click.option("--batch-size", type=click.IntRange(1, 65536), default=256, metavar="N", help="Images per step.")
@click.option("--skip-bad", is_flag=True, help="Leave out rows whose image is unusable instead of stopping.")
@click.option("--allow-outside", is_flag=True, help="Let image names lead out of the folder of the table.")
@overwrite_option
@device_option
@threads_option
@progress_option
def recover(
    particles: Path,
    name: str,
    out: Path,
    figure: Path | None,
    copies: int,
    seed: int,
    datadir: Path | None,
    pixel_size: float | None,
    batch_size: int,
    skip_bad: bool,
    allow_outside: bool,
    overwrite: bool,
    device: str | None,
    threads: int | None,
    progress: bool | None,
) -> None:
    """Find the poses of PARTICLES (.star, .cs or .mrcs) from the distances between their images.

    For encoders that were trained on distances. The frame is anybody's, and the hand may be the wrong one.
    """
    check_suffix(out)
    for path in filter(None, (out, figure)):
        check_output(path, overwrite=overwrite, inputs=[particles])
    if figure is not None:
        if figure.suffix.lower() != ".png":
            raise BadInput(figure, f"the suffix {figure.suffix!r}", expected="a picture, .png")
        from .figures import pyplot

        pyplot()  # missing, it would be too late when the work is done
    where = choose_device(device, threads)

    from ...particles.stack import ParticleStack
    from ..pretrained import load_pretrained

    opened = {"datadir": datadir, "pixel_size": pixel_size, "skip_bad": skip_bad, "allow_outside": allow_outside}
    stack = ParticleStack.open(particles, **opened)  # type: ignore[arg-type]
    encoder = load_pretrained(name, device=where)
    shown = wants_progress(progress)
    found = encoder.recover(stack, copies=copies, batch_size=batch_size, seed=seed, progress=shown)
    found.poses.save(out, overwrite=overwrite)
    if figure is not None:
        from .figures import recovery_figure, save_figure

        save_figure(recovery_figure(found, title=f"{particles.name}, {encoder.name}"), figure)
    click.echo(f"{len(found.poses):,} particles, poses in {out}")
    click.echo(_trust(found))


def _trust(found: RecoveredPoses) -> str:
    recovery, gauge = found.recovery, found.gauge
    right, other = (math.degrees(angle) for angle in (gauge.residual, gauge.other_residual))
    lines = [
        f"turned and mirrored images agree with them to {right:.1f} degrees ({other:.1f} if they were transposed)",
        "the frame is anybody's, and the hand may be the wrong one: compare the map with its mirror image",
    ]
    if recovery is not None:
        particles = len(recovery.quaternions)
        lines.insert(
            0, f"the poses explain {recovery.explained:.0%} of the distances, which are off by {recovery.noise:.2f} rad"
        )
        if recovery.explained < _LITTLE + _BY_CHANCE / particles:
            lines.append("do not trust these poses: the distances are no distances between orientations")
    if not gauge.preference > _SURE:
        lines.append("do not trust these poses: they may be transposed; more copies tell")
    return "\n".join(lines)
