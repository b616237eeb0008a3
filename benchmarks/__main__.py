"""``python -m cryozoo.benchmarks --help``: run suites, make their tables, draw what a finished run has learnt."""

from __future__ import annotations

from pathlib import Path

import click

from ..particles.files import atomic_write, write_json
from .pages import pages, with_tables
from .runs import RESULTS, run_suite
from .studies.figures import STUDIES, study_table
from .suites import SUITES
from .tables import ENCODERS, encoder_table, training_table


@click.group()
def main() -> None:
    """Run benchmark suites and make their tables."""


@main.command("list")
def list_suites() -> None:
    """Name the suites, their questions and runs."""
    for name, suite in SUITES.items():
        click.echo(f"{name}: {(suite.__doc__ or '').splitlines()[0]}")
        for run in suite():
            done = "done" if (RESULTS / name / f"{run}.json").exists() else ""
            click.echo(f"  {run} {done}")


@main.command()
@click.argument("suite", type=click.Choice(list(SUITES)))
@click.option("--only", default="*", help="Shell pattern of the runs' names.")
@click.option(
    "--threads", type=click.IntRange(1, 64), default=1, help="Threads of torch; part of what determines a run."
)
def run(suite: str, only: str, threads: int) -> None:
    """Train what has no result yet."""
    import torch

    torch.set_num_threads(threads)
    run_suite(suite, only=only)


@main.command()
@click.argument("name", type=click.Choice([*SUITES, *STUDIES, ENCODERS]))
def table(name: str) -> None:
    """Print the table of a suite, a study or the best encoders, from results alone; write it to results/NAME.md."""
    text = encoder_table() if name == ENCODERS else training_table(name) if name in SUITES else study_table(name)
    _write(RESULTS / f"{name}.md", text)
    click.echo(text)


@main.command()
@click.argument("suite", type=click.Choice(["equivariant_70s", "small_data_70s"]))
def curves(suite: str) -> None:
    """Draw the accuracy of a suite's runs against CPU time, or images to train on: results/SUITE.png."""
    from .curves import write

    write(suite, RESULTS / f"{suite}.png")


@main.command()
@click.argument("run_folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def uncertainty(run_folder: Path) -> None:
    """Print what the confidence of a finished run is worth, and draw results/SUITE-RUN.png."""
    from .studies.uncertainty import write

    for name, value in write(run_folder, RESULTS / f"{run_folder.parent.name}-{run_folder.name}.png").items():
        click.echo(f"{name:20} {value:.4f}")


@main.command()
@click.argument("run_folders", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
def equivariance(run_folders: tuple[Path, ...]) -> None:
    """How far the poses of turned views are from the turned poses: results/equivariance.md and .png."""
    from .studies.equivariance import write

    text = write(run_folders, RESULTS / "equivariance.png")
    _write(RESULTS / "equivariance.md", text)
    click.echo(text)


@main.command()
@click.argument("run_folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def modes(run_folder: Path) -> None:
    """Whether the densities of a finished run show the molecule's symmetry: results/SUITE-RUN.json and .png."""
    from .studies.modes import write

    name = f"{run_folder.parent.name}-{run_folder.name}"
    metrics = write(run_folder, RESULTS / f"{name}.png")
    write_json(RESULTS / f"{name}.json", metrics, overwrite=True)
    click.echo("\n".join(f"{key:24} {value}" for key, value in metrics.items()))


@main.command()
@click.argument("run_folders", nargs=-1, type=click.Path(exists=True, file_okay=False, path_type=Path))
def maps(run_folders: tuple[Path, ...]) -> None:
    """Orientations and maps from the distances that runs of the suite maps learnt: results/maps.md and pictures.

    Without a run the table alone is made again, from the figures that there are.
    """
    from .studies.maps import table, write

    for folder in run_folders:
        name = f"maps-{folder.name}"
        write_json(RESULTS / f"{name}.json", write(folder, RESULTS / f"{name}.png"), overwrite=True)
    text = table(RESULTS)
    _write(RESULTS / "maps.md", text)
    click.echo(text)


@main.command()
@click.argument("store", default=RESULTS.parents[1] / "docs" / "leaderboard", type=click.Path(path_type=Path))
def leaderboard(store: Path) -> None:
    """Write the page of a store into it, results/leaderboard.md, and the best of one task for the README."""
    from .leaderboard import markdown, tables, write_leaderboard
    from .store import Store

    made = tables(Store(store))
    write_leaderboard(made, store)
    _write(RESULTS / "leaderboard.md", "\n".join(f"### {task['title']}\n\n{markdown(task)}" for task in made))
    for task in made:
        if task["name"] == _BEST_OF:
            _write(RESULTS / "leaderboard_best.md", f"{task['title']}:\n\n{markdown(task, _BEST)}")


@main.command("pages")
def fill_pages() -> None:
    """Put the tables into the README and docs/results of this checkout."""
    for path in pages():
        _write(path, with_tables(path.read_text()))


_BEST, _BEST_OF = 5, "70s_snr0.5"  # rows and task of the README


def _write(path: Path, text: str) -> None:
    with atomic_write(path, overwrite=True) as file:
        file.write(text.encode())


if __name__ == "__main__":
    main()
