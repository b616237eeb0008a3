"""``cryozoo train``: a recipe in, an encoder and its metrics out."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import click

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
    result = train_by(what, out, device=run.device(), progress=run.progress, restart=restart)
    click.echo(metrics_table(result.metrics))
    click.echo(f"\nthe encoder is in {out / 'model'}; to use it: --encoder local-dir:{out / 'model'}")


def _parse(changes: tuple[str, ...]) -> tuple[dict[str, Any], dict[tuple[str, str], Any]]:
    """``lr=1e-3`` and ``data.snr=0.1`` as fields and fields of fields; values are YAML."""
    import yaml

    fields: dict[str, Any] = {}
    nested: dict[tuple[str, str], Any] = {}
    for change in changes:
        name, equals, text = change.partition("=")
        field, dot, key = name.partition(".")
        if not (equals and field) or (dot and not key):
            raise click.BadParameter(f"{change!r}; expected KEY=VALUE", param_hint="--set")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise click.BadParameter(f"{change!r}: the value is not YAML", param_hint="--set") from None
        if isinstance(value, str):  # YAML 1.1 takes 1e-3 for text
            with suppress(ValueError):
                value = float(value)
        if dot:
            nested[field, key] = value
        else:
            fields[field] = value
    return fields, nested
