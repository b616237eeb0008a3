"""``cryozoo train``: a recipe in, an encoder and its metrics out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..particles.errors import BadInput
from ..particles.files import check_folder
from ..particles.yaml_files import parse_yaml, read_yaml
from .common import INPUT, F, Run, metrics_table, run_options, stack_options, symmetry_option, verb


def _print_template(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    if not asked or ctx.resilient_parsing:
        return
    from ..training.recipe_page import recipe_template

    click.echo(recipe_template(), nl=False)
    ctx.exit()


def training_options(function: F) -> F:
    """Options of whatever trains: for which particles, where to, and what is changed of the recipe."""
    decorated: Any = run_options(stack_options(function))
    for option in (
        click.option("--restart", is_flag=True, help="Begin anew although DIR has a checkpoint."),
        click.option(
            "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Replace a field, as in data.snr=0.1."
        ),
        click.option(
            "--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder for all that is made."
        ),
        symmetry_option,
        click.option(
            "--particles",
            type=INPUT,
            help="Some of the images that the encoder is for, to which --map's are made like.",
        ),
    ):
        decorated = option(decorated)
    return decorated


@verb("train", short_help="Train an encoder by a recipe, or for a map.")
@click.argument("recipe", type=INPUT, required=False)
@click.option("--map", "map_name", metavar="MAP", help="Make the recipe, for the molecule of this map.")
@click.option(
    "--template",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_template,
    help="Print a recipe to fill in, with every field explained, and stop.",
)
@training_options
def train(
    recipe: Path | None,
    map_name: str | None,
    particles: Path | None,
    symmetry: str,
    opened: dict[str, Any],
    out: Path,
    changes: tuple[str, ...],
    restart: bool,
    run: Run,
) -> None:
    """Train an encoder by a RECIPE (YAML or JSON), or with --map for the molecule of a map.

    The same command goes on where a stopped run left off, and --set steps=N where one has ended at fewer steps: from
    there with the learning rates of N steps. DIR/model is the best encoder so far, also while the training runs, and
    DIR/recipe.json the recipe. --symmetry, and options of particles, are for --map alone.
    """
    if (recipe is None) == (map_name is None):
        raise click.UsageError("a RECIPE or --map, one of the two")
    if map_name is None and (particles is not None or symmetry != "C1" or any(opened.values())):
        raise click.UsageError("--particles, what they are like, and --symmetry go with --map; a recipe has its own")
    check_folder(out)

    from ..training.from_map import recipe_from_map

    if recipe is not None:
        values, source = read_yaml(recipe, "a training recipe"), str(recipe)
    else:
        assert map_name is not None
        made = recipe_from_map(map_name, particles, symmetry=symmetry, progress=run.progress, **opened)
        values, source = made.to_dict(), f"the recipe made for {map_name}"
    train_by(values, source, changes, out, restart, run)
    if map_name is not None:
        click.echo(f"cryozoo predict PARTICLES --encoder local-dir:{out / 'model'} --refine {map_name} -o poses.star")


def train_by(values: dict[str, Any], source: str, changes: tuple[str, ...], out: Path, restart: bool, run: Run) -> None:
    """Train by the plain data of a recipe, changed by ``--set``, and say what came of it."""
    from ..training.processes import rank
    from ..training.recipe import Recipe
    from ..training.trainer import train

    for change in changes:
        _set(values, change)
    what = Recipe.from_dict(values, source=source)
    result = train(what, out, device=run.device(), progress=run.progress, restart=restart, report=click.echo)
    if rank():
        return
    click.echo(metrics_table(result.metrics))
    click.echo(f"\nthe encoder is in {out / 'model'}; to use it: --encoder local-dir:{out / 'model'}")


def _set(values: dict[str, Any], change: str) -> None:
    """Put ``lr=1e-3`` or ``data.snr=0.1`` into the plain data of a recipe; the value is YAML."""
    name, equals, text = change.partition("=")
    field, dot, key = name.partition(".")
    if not (equals and field) or (dot and not key):
        raise click.BadParameter(f"{change!r}; expected KEY=VALUE", param_hint="--set")
    try:
        value = parse_yaml(text, "--set")
    except BadInput:
        raise click.BadParameter(f"{change!r}: the value is not YAML", param_hint="--set") from None
    if not dot:
        values[field] = value
        return
    inner = values.setdefault(field, {}) if field.endswith("_args") else values.get(field)
    if not isinstance(inner, dict):
        raise click.BadParameter(f"{field} has no fields of its own", param_hint="--set")
    inner[key] = value
