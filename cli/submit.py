"""``cryozoo submit``: a result enters a store that others read."""

from __future__ import annotations

from pathlib import Path

import click

from .common import verb


@verb("submit", short_help="Enter a result into a leaderboard.")
@click.argument("result", type=click.Path(path_type=Path))
@click.option("--store", "folder", required=True, type=click.Path(path_type=Path), metavar="DIR", help="To enter.")
@click.option("--author", required=True, metavar="NAME", help="Whom to ask, and to thank.")
@click.option("--licence", metavar="SPDX", help="Of the weights.")
@click.option("--weights", metavar="NAME", help="Where they are: hf-hub:owner/repo@<commit>.")
def submit(result: Path, folder: Path, author: str, licence: str | None, weights: str | None) -> None:
    """Copy RESULT, a folder that `cryozoo benchmark` wrote, into the store of a leaderboard.

    Every metric is made again of the predictions first. With --weights, `cryozoo verify` can try them, too.
    """
    from ..benchmarks.store import Store
    from ..benchmarks.submission import submit as enter

    target = enter(result, Store(folder), author=author, licence=licence, weights=weights)
    click.echo(f"{target}: predictions checked; `cryozoo leaderboard --store {folder} -o DIR` shows it")
