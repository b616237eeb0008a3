"""``cryozoo publish``: a trained encoder to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

import click

from .common import format_table, verb


@verb("publish", short_help="Put a trained encoder on the Hugging Face Hub.")
@click.argument("name")
@click.option("--to", "repository", required=True, metavar="OWNER/REPO", help="Made where there is none.")
@click.option("--private", is_flag=True, help="Make the repository private, where it is made.")
@click.option("--dry-run", is_flag=True, help="Show what would be published, and stop.")
def publish(name: str, repository: str, private: bool, dry_run: bool) -> None:
    """Publish the encoder NAME, or that in a folder, with its card and map.

    All files come in one commit, and are loaded from there and compared. The same encoder again changes nothing.
    """
    from ..zoo.entry import CARD
    from ..zoo.publish import publish as publish_to
    from ..zoo.publish import repository_files

    name = f"local-dir:{name}" if Path(name).is_dir() else name
    if dry_run:
        files = repository_files(name, repository)
        click.echo(format_table([(file, f"{len(data):,} bytes") for file, data in sorted(files.items())]))
        click.echo(f"\n{files[CARD].decode()}")
        return
    published = publish_to(name, repository, private=private)
    click.echo(f"{published.source}{'' if published.changed else ' has it already'}")
