"""``cryozoo evaluate``: predicted poses against true ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...particles.errors import BadInput
from ...particles.files import plain_json
from ._common import INPUT, image_size_option, metrics_table, pixel_size_option, symmetry_option, verb

if TYPE_CHECKING:
    from ...particles.poses import PoseTable


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

    Rows belong together that name the same image; in files that name none, or other ones, those of the same number.
    """
    import torch

    from ...geometry.alignment import align_frames
    from ...geometry.point_groups import point_group
    from ...heads.base import Pose
    from ...particles.poses import PoseTable
    from ..evaluate import pose_metrics

    group = point_group(symmetry)
    guess, true = (PoseTable.load(path, image_size=image_size, pixel_size=pixel_size) for path in (predicted, truth))
    true = _matched(guess, true, predicted, truth)
    rotation, target = torch.tensor(guess.rotation), torch.tensor(true.rotation)
    found = {}
    if align:
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


def _matched(guess: PoseTable, true: PoseTable, predicted: Path, truth: Path) -> PoseTable:
    """The true poses in the order of the predicted ones."""
    wanted, known = _names(guess), _names(true)
    place = {name: row for row, name in enumerate(known or ())}
    missing = [name for name in wanted or () if name not in place]
    if wanted and known and not missing and len(place) == len(known):
        return true if wanted == known else true.subset([place[name] for name in wanted])
    if wanted and known and len(missing) < len(wanted):
        found = f"no row for {missing[0]}" if missing else "an image twice"
        raise BadInput(truth, found, expected=f"one row for every image of {predicted}")
    if len(guess) != len(true):
        raise BadInput(truth, f"{len(true)} poses", expected=f"{len(guess)} as in {predicted}, or the same image names")
    return true


def _names(poses: PoseTable) -> list[str] | None:
    table = poses.particles
    if table is None or table.file is None or table.index is None:
        return None
    pairs = zip(table.index.tolist(), table.file.tolist(), strict=True)
    return [f"{index + 1}@{table.files[file]}" for index, file in pairs]
