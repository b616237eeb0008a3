"""``cryozoo verify``: whether a saved encoder is whole and computes what it did when it was saved."""

from __future__ import annotations

import click

from .common import load_encoder, verb


@verb("verify", short_help="Whether a saved encoder is whole.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def verify(names: tuple[str, ...]) -> None:
    """Check saved encoders: sizes and sha256 of their files, their weights, and the outputs stored with them.

    NAME is a pretrained encoder, a folder that `train` or save_pretrained wrote, or hf-hub:owner/repo@<commit>.
    """
    for name in names:
        entry = load_encoder(name).entry
        assert entry is not None
        files = ", ".join(f"{file} {facts.sha256[:12]}" for file, facts in entry.files.items())
        click.echo(f"{name}: whole, and it repeats its stored outputs ({files}, {entry.parameters:,} parameters)")
