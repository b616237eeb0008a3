"""``cryozoo verify``: whether a saved encoder, or a result of the benchmark, is what it says."""

from __future__ import annotations

from pathlib import Path

import click

from .common import load_encoder, verb


@verb("verify", short_help="Whether an encoder or a result is what it says.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "--store",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Note there what came of results; the page of that store shows it.",
)
def verify(names: tuple[str, ...], folder: Path | None) -> None:
    """Check saved encoders: sizes and sha256 of their files, their weights, and the outputs stored with them.

    NAME is a pretrained encoder, a folder that `train` or save_pretrained wrote, or hf-hub:owner/repo@<commit>. Of the
    folder of a benchmark's result every metric is made again of its predictions, and where its weights can be had, some
    predictions of these.
    """
    for name in names:
        if (Path(name) / "result.json").exists() and (Path(name) / "predictions.npz").exists():
            from ..benchmarks.store import Store
            from ..benchmarks.submission import grant, verify_result

            level = verify_result(Path(name)) if folder is None else grant(Store(folder), Path(name))
            click.echo(f"{name}: {level}")
            continue
        entry = load_encoder(name).entry
        assert entry is not None
        files = ", ".join(f"{file} {facts.sha256[:12]}" for file, facts in entry.files.items())
        click.echo(f"{name}: whole, and it repeats its stored outputs ({files}, {entry.parameters:,} parameters)")
