"""``cryozoo benchmark``: designs are trained for the same time, and judged by the same images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..particles.errors import BadInput
from .common import Number, progress_option, store_option, verb, wants_progress


def _names(value: str | None) -> list[str]:
    return [name for name in (value or "").split(",") if name]


def _pair(text: str) -> tuple[str, Any]:
    from ..particles.yaml_files import parse_yaml

    key, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r}; expected KEY=VALUE", param_hint="--slurm")
    return key, parse_yaml(value, "--slurm")


@verb("benchmark", short_help="Compare designs at a task.")
@click.argument("words", nargs=-1, metavar="[TASK | reproduce RESULT]")
@click.option("--backbones", metavar="A,B", help="As `cryozoo list` has them, and timm_NAME.")
@click.option("--heads", metavar="A,B", help="Rotation heads.")
@click.option("--losses", metavar="A,B", help="What is trained for.")
@click.option("--designs", "file", type=click.Path(path_type=Path), metavar="FILE", help="YAML with a list, `designs`.")
@click.option("--seeds", type=click.IntRange(1, 256), default=1, metavar="N", help="Runs of each design.")
@click.option("--budget", type=Number(0, unit="seconds"), metavar="S", help="CPU seconds.  [default: the task's]")
@store_option
@click.option("--engine", type=click.Choice(["local", "slurm"]), default="local", help="This machine, or a cluster.")
@click.option("--slurm", "asked", multiple=True, metavar="KEY=VALUE", help="Of the cluster, as slurm_partition=gpu.")
@click.option("--retry", is_flag=True, help="Do again what has failed.")
@click.option("--jobs", type=click.IntRange(1, 4096), default=1, metavar="N", help="Runs side by side.")
@progress_option
def benchmark(
    words: tuple[str, ...],
    backbones: str | None,
    heads: str | None,
    losses: str | None,
    file: Path | None,
    seeds: int,
    budget: float | None,
    folder: Path,
    engine: str,
    asked: tuple[str, ...],
    retry: bool,
    jobs: int,
    progress: bool | None,
) -> None:
    """Train every backbone with every head and every loss, all for the same time, and judge them by the same images.

    TASK is one of those that are listed when none is given, or a file of your own. Combinations that cannot be are
    left out, and the result says why; one that fails harms no other. Ctrl-C stops; the same command goes on.

    TASK may be a published comparison, such as forum2023: its designs are run, and its table is written.

    `benchmark reproduce RESULT` trains again what the folder of a result says, and compares.
    """
    from ..benchmarks.design import Design, product
    from ..benchmarks.engines import Local, Slurm
    from ..benchmarks.protocol import Protocol, list_protocols
    from ..benchmarks.store import Store
    from ..benchmarks.sweep import sweep
    from ..benchmarks.task import Task, list_tasks

    if not words:
        for name in list_tasks():
            click.echo(f"{name}: {Task.load(name).title}")
        for name in list_protocols():
            click.echo(f"{name}: {Protocol.load(name).title}, a published comparison")
        return
    if words[0] == "reproduce" and len(words) == 2:
        from ..benchmarks.reproduce import reproduce

        click.echo(reproduce(Path(words[1])))
        return
    if len(words) != 1:
        raise click.UsageError("one task, or reproduce and the folder of a result")
    store = Store(folder)
    options: dict[str, Any] = dict(_pair(text) for text in asked)
    where = Local(jobs) if engine == "local" else Slurm(folder / "slurm", {"slurm_array_parallelism": jobs, **options})
    how: dict[str, Any] = {"retry": retry, "progress": wants_progress(progress), "report": click.echo}
    if words[0] in list_protocols():
        if backbones or heads or losses or file:
            raise click.UsageError(f"{words[0]} has designs of its own; --backbones and the like go with a task")
        protocol = Protocol.load(words[0])
        found = protocol.run(store, range(seeds), where, budget, **how)
        path = protocol.write(store, range(seeds), budget)
        click.echo(f"{path.read_text()}\nin {path}")
        _say_what_came(found, folder)
        return
    task = Task.load(words[0])
    task = task if budget is None else task.within(budget)
    designs = product(_names(backbones), _names(heads), _names(losses))
    if file is not None:
        from ..particles.yaml_files import read_yaml

        plain = read_yaml(file, "the field `designs`, a list", hint=None)
        listed = plain.get("designs")
        if list(plain) != ["designs"] or not isinstance(listed, list):
            raise BadInput(file, f"fields {', '.join(map(str, plain))}", expected="`designs`, a list, alone")
        for number, one in enumerate(listed, 1):
            if not isinstance(one, dict):
                raise BadInput(file, f"{one!r:.60}", where=f"design {number}", expected="names and values")
            designs.append(Design.from_dict(one, f"{file}, design {number}"))
    if not designs:
        raise BadInput(task.name, "no designs", hint="give --backbones, --heads and --losses, or --designs FILE")
    found = sweep(store, task, designs, range(seeds), where, **how)
    _say_what_came(found, folder)


def _say_what_came(found: list[Any], folder: Path) -> None:
    """Counts, and exit code 1 where a run has failed."""
    done, failed = (sum(result.status == status for result in found) for status in ("done", "failed"))
    click.echo(f"{done} done, {failed} failed: {folder}" + (" (--retry does them again)" if failed else ""))
    if failed:
        raise click.exceptions.Exit(1)
