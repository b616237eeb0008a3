"""``cryozoo evaluate``: predicted poses against true ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..particles.errors import BadInput
from ..particles.files import plain_json
from .common import INPUT, image_size_option, metrics_table, pixel_size_option, symmetry_option, verb

if TYPE_CHECKING:
    from ..particles.poses import PoseTable

_FEWEST_TO_ALIGN = 10


@verb("evaluate", short_help="Predicted poses against true ones.")
@click.argument("predicted", type=INPUT)
@click.argument("truth", type=INPUT)
@symmetry_option
@click.option("--align", is_flag=True, help="First find the rotation of the frame, and the hand, that fit best.")
@pixel_size_option
@image_size_option
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as JSON.")
def evaluate(
    predicted: Path,
    truth: Path,
    symmetry: str,
    align: bool,
    pixel_size: float | None,
    image_size: int | None,
    as_json: bool,
) -> None:
    """Compare PREDICTED poses with the TRUTH (each .star, .cs, .pkl or .npz).

    Rows belong together that name the same particle: by its image, its uid or its place on the micrograph; in files
    that name none, those of the same number.
    """
    import torch

    from ..geometry.alignment import align_frames
    from ..geometry.point_groups import point_group
    from ..geometry.pose import Pose
    from ..particles.row_matching import matched_poses
    from ..zoo.evaluate import pose_metrics

    group = point_group(symmetry)
    guess, true = _load_both(predicted, truth, image_size, pixel_size)
    matched = matched_poses(true, guess.particles, len(guess), predicted)
    true, guess = matched.poses, guess.subset(matched.rows)
    rotation, target = torch.tensor(guess.rotation), torch.tensor(true.rotation)
    found = {}
    if align:
        if len(guess) < _FEWEST_TO_ALIGN:
            expected = f"at least {_FEWEST_TO_ALIGN}: some frame fits a few poses, whatever they are"
            raise BadInput(predicted, f"{len(guess)} poses", expected=expected, hint="leave --align away")
        alignment = align_frames(rotation, target, group=group)
        rotation = alignment.aligned
        found = {"mirrored": alignment.mirrored, "mse": alignment.mse, "medse": alignment.medse}
    confidence = None if guess.confidence is None else torch.tensor(guess.confidence)
    pose = Pose(rotation, torch.tensor(guess.shift), confidence)
    metrics = pose_metrics(pose, Pose(target, torch.tensor(true.shift)), symmetry=symmetry)
    if as_json:
        click.echo(json.dumps(plain_json({**metrics, **found}), indent=2))
        return
    click.echo(metrics_table(metrics))
    if align:
        hand = "the mirrored hand fits better" if found["mirrored"] else "the hand is right"
        click.echo(f"\nframes aligned: {hand}; mean squared error {found['mse']:.4g}, median {found['medse']:.4g}")


def _load_both(
    first: Path, second: Path, image_size: int | None, pixel_size: float | None
) -> tuple[PoseTable, PoseTable]:
    """Two tables of the same images: what one does not say of their box, the other may."""
    from ..particles.poses import PoseTable

    def load(path: Path, other: PoseTable | None = None) -> PoseTable:
        size, pixel = (other.image_size, other.pixel_size) if other is not None else (None, None)
        return PoseTable.load(path, image_size=image_size or size, pixel_size=pixel_size or pixel)

    try:
        found = load(first)
    except BadInput:  # perhaps for want of the box
        other = load(second)
        return load(first, other), other
    return found, load(second, found)
