"""``cryozoo leaderboard``: results of a benchmark as a page."""

from __future__ import annotations

from pathlib import Path

import click

from .common import store_option, verb


@verb("leaderboard", short_help="Results of a benchmark as a page.")
@store_option
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Gets index.html and badges."
)
def leaderboard(folder: Path, out: Path) -> None:
    """Write a page with all tasks and designs of a store: tables to sort and filter, pictures, a view of each design.

    The page is one file, needs no network, and can be put on any web server as it is. All metrics are made again of the
    predictions. What noise allows, and maximum likelihood against the true map, are measured once for each task. A
    badge for each design shows its place.
    """
    from ..benchmarks.leaderboard import tables, write_leaderboard
    from ..benchmarks.store import Store

    click.echo(write_leaderboard(tables(Store(folder)), out))
