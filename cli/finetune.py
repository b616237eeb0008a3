"""``cryozoo finetune``: the backbone of one encoder, a fresh last layer, and another molecule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..particles.files import check_folder
from .common import Run, load_encoder, verb
from .train import train_by, training_options


@verb("finetune", short_help="Train an encoder for a map, from the backbone of another.")
@click.option("--from", "name", required=True, metavar="NAME", help="Whose backbone; or a folder that `train` wrote.")
@click.option("--map", "map_name", metavar="MAP", required=True, help="Of the molecule.")
@click.option("--head", metavar="HEAD", help="Another rotation head than that of NAME; then --set the loss, too.")
@click.option("--freeze", is_flag=True, help="Leave the backbone as it is.")
@training_options
def finetune(
    name: str,
    map_name: str,
    particles: Path | None,
    symmetry: str,
    head: str | None,
    freeze: bool,
    opened: dict[str, Any],
    out: Path,
    changes: tuple[str, ...],
    restart: bool,
    run: Run,
) -> None:
    """Train an encoder for the molecule of a map, beginning with the backbone of NAME, in half of the steps.

    As `train --map`: the recipe is made for the molecule, and for images like the particles. The last layer is fresh:
    poses of another molecule mean something else.
    """
    check_folder(out)
    start = load_encoder(name)

    from ..training.from_map import recipe_from_map

    made = recipe_from_map(map_name, particles, symmetry=symmetry, progress=run.progress, **opened)
    backbone, own_head = start.name.split("-")
    values = {
        **made.to_dict(),
        "encoder": f"{backbone}-{head or own_head}",
        "backbone_args": start.config["backbone_args"],
        "head_args": {} if head else start.config["head_args"],
        "init": f"local-dir:{Path(name).resolve()}" if Path(name).is_dir() else name,
        "init_part": "backbone",
        "backbone_lr": 0.0 if freeze else 1.0,
        "steps": made.steps // 2,
    }
    train_by(values, f"the recipe made for {map_name}", changes, out, restart, run)
