"""``cryozoo train``: a recipe in, an encoder and its metrics out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..particles.errors import BadInput
from ..particles.yaml_files import parse_yaml
from .common import INPUT, Run, metrics_table, run_options, verb


@verb("train", short_help="Train an encoder by a recipe.")
@click.argument("recipe", type=INPUT)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder for all that is made."
)
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Replace a field, as in data.snr=0.1.")
@click.option("--restart", is_flag=True, help="Begin anew although DIR has a checkpoint.")
@run_options
def train(
    recipe: Path,
    out: Path,
    changes: tuple[str, ...],
    restart: bool,
    run: Run,
) -> None:
    """Train an encoder by a RECIPE (YAML or JSON). The same command goes on where a stopped run left off."""
    from ..training.recipe import Recipe
    from ..training.trainer import train as train_by

    fields, nested = _parse(changes)
    what = Recipe.load(recipe, **fields)
    if nested:
        values = what.to_dict()
        for (field, key), value in nested.items():
            if not isinstance(values.get(field), dict):
                raise click.BadParameter(f"{field} has no fields of its own", param_hint="--set")
            values[field][key] = value
        what = Recipe.from_dict(values, source=recipe)
    device = run.device()
    try:
        result = train_by(what, out, device=device, progress=run.progress, restart=restart)
    except BadInput:
        raise
    except ValueError as error:  # an argument of a part, of the imaging or of the data that cannot be
        raise BadInput(recipe, str(error)) from error
    click.echo(metrics_table(result.metrics))
    click.echo(f"\nthe encoder is in {out / 'model'}; to use it: --encoder local-dir:{out / 'model'}")


def _parse(changes: tuple[str, ...]) -> tuple[dict[str, Any], dict[tuple[str, str], Any]]:
    """``lr=1e-3`` and ``data.snr=0.1`` as fields and fields of fields; values are YAML."""
    fields: dict[str, Any] = {}
    nested: dict[tuple[str, str], Any] = {}
    for change in changes:
        name, equals, text = change.partition("=")
        field, dot, key = name.partition(".")
        if not (equals and field) or (dot and not key):
            raise click.BadParameter(f"{change!r}; expected KEY=VALUE", param_hint="--set")
        try:
            value = parse_yaml(text, change)
        except BadInput as error:
            raise click.BadParameter(str(error), param_hint="--set") from None
        if dot:
            nested[field, key] = value
        else:
            fields[field] = value
    return fields, nested
