"""``cryozoo train``: a recipe in, an encoder and its metrics out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..particles.errors import BadInput
from ..particles.yaml_files import parse_yaml, read_yaml
from .common import INPUT, Run, metrics_table, run_options, verb


def _print_template(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    if not asked or ctx.resilient_parsing:
        return
    from ..training.recipe_page import recipe_template

    click.echo(recipe_template(), nl=False)
    ctx.exit()


@verb("train", short_help="Train an encoder by a recipe.")
@click.argument("recipe", type=INPUT)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder for all that is made."
)
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Replace a field, as in data.snr=0.1.")
@click.option(
    "--template",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_template,
    help="Print a recipe to fill in, with every field explained, and stop.",
)
@click.option("--restart", is_flag=True, help="Begin anew although DIR has a checkpoint.")
@run_options
def train(
    recipe: Path,
    out: Path,
    changes: tuple[str, ...],
    restart: bool,
    run: Run,
) -> None:
    """Train an encoder by a RECIPE (YAML or JSON).

    The same command goes on where a stopped run left off, and --set steps=N where one has ended at fewer steps: from
    there with the learning rates of N steps. DIR/model is the best encoder so far, also while the training runs.
    """
    from ..training.recipe import Recipe
    from ..training.trainer import train as train_by

    values = read_yaml(recipe, "a training recipe")
    for change in changes:
        _set(values, change)
    what = Recipe.from_dict(values, source=recipe)
    result = train_by(what, out, device=run.device(), progress=run.progress, restart=restart, report=click.echo)
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
