"""Put a trained encoder into the package: python -m cryozoo.zoo.embed FOLDER TAG, for maintainers of a checkout."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ..particles.errors import BadInput
from ..particles.files import atomic_write
from ._model_card import model_card
from .entries import WEIGHTS, get_entry
from .entry import CONFIG, MODEL, Entry
from .pretrained import EMBEDDED, config_bytes, load_pretrained, save_pretrained

LARGEST = 2_000_000
"""Bytes: what every installation carries must stay small; larger weights belong on the Hub."""


_LICENCE = "BSD-3-Clause"
"""Of this package, and of the weights that it carries."""


def embed(
    folder: str | Path, tag: str, *, data_licence: str | None = None, citation: str | None = None, **molecule: str
) -> str:
    """Copy a saved encoder into ``weights/``, in half precision, and return its name, ``<backbone>-<head>.<tag>``.

    Args:
        folder: of the saved encoder.
        tag: names the weights.
        data_licence: of the map or model that was imaged, an SPDX identifier.
        citation: what to cite for it.
        **molecule: fields of :class:`.entry.Molecule` that say in whose frame it answers, other than it was saved with.

    Raises:
        BadInput: the encoder is damaged, too large, or the name is taken (a tag is immutable: choose a new one).
    """
    encoder = load_pretrained(f"local-dir:{folder}")
    entry = encoder.entry
    assert entry is not None
    name = f"{encoder.name}.{tag}"
    with tempfile.TemporaryDirectory() as scratch:
        saved = Path(scratch) / "model"
        known = {**(asdict(entry.molecule) if entry.molecule else {}), **molecule} or None
        save_pretrained(
            encoder, saved, metrics=entry.metrics, recipe=entry.trained_with, tag=tag, molecule=known, half=True
        )
        if (size := (saved / MODEL).stat().st_size) > LARGEST:
            raise BadInput(saved / MODEL, f"{size} bytes", expected=f"at most {LARGEST} for embedded weights")
        licences = {"code": _LICENCE, "weights": _LICENCE, "data": data_licence}
        stated = {"licences": licences, "citation": citation, "source": "embedded"}
        config = {**json.loads((saved / CONFIG).read_text()), **stated}
        contents = {f"{name}{EMBEDDED[path.name]}": path.read_bytes() for path in saved.iterdir()}
        contents[f"{name}.json"] = config_bytes(config)
        card = model_card(Entry.from_config(config, name))
        contents[f"{name}.md"] = card.encode()
        for file, data in contents.items():
            with atomic_write(WEIGHTS / file) as handle:
                handle.write(data)
    return name


def restate(name: str, **fields: Any) -> None:
    """Replace fields of what is known of an embedded encoder; its weights stay."""
    path = WEIGHTS / f"{name}.json"
    config = {**json.loads(path.read_text()), **fields}
    with atomic_write(path, overwrite=True) as handle:
        handle.write(config_bytes(config))
    with atomic_write(WEIGHTS / f"{name}.md", overwrite=True) as handle:
        handle.write(model_card(get_entry(name)).encode())


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.argument("tag")
@click.option("--name", help="Of the molecule, as people call it.")
@click.option("--source", help="Its accession code.")
@click.option("--data-licence", help="Of the map or model: an SPDX identifier.")
@click.option("--citation", help="What to cite for it.")
def main(
    folder: str, tag: str, name: str | None, source: str | None, data_licence: str | None, citation: str | None
) -> None:
    """Embed the encoder in FOLDER under TAG."""
    molecule = {key: value for key, value in (("name", name), ("source", source)) if value}
    click.echo(embed(folder, tag, data_licence=data_licence, citation=citation, **molecule))


if __name__ == "__main__":
    main()
