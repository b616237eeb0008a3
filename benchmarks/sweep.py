"""Many runs: every design with every seed, as far as the store lacks them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from ..zoo.provenance import provenance
from .design import Design, why_impossible
from .harness import named, write_job
from .store import RESULT, Result, Store
from .task import Task


class Engine(Protocol):
    """Where runs are done; see ``engines.py``."""

    def run(self, places: Sequence[Path], done: Callable[[Path], object]) -> None:
        """Do the jobs of all folders; ``done`` is told of each."""


def sweep(
    store: Store,
    task: Task,
    designs: Iterable[Design],
    seeds: Iterable[int],
    engine: Engine,
    *,
    progress: bool = False,
    report: Callable[[str], object] = lambda line: None,
) -> list[Result]:
    """Do what the store lacks: the first seed of all designs, then the next.

    What cannot be put together is a result, too, and so is what fails: they say why.

    Returns:
        the results of all designs and seeds, those that were there among them.

    Raises:
        BadInput: the task's data is another one, or a design has fields that are of no use.
        PartError: a part fails at once.
    """
    task.check_data()
    possible = []
    for design in designs:
        reason = why_impossible(task, design)
        if reason is None:
            possible.append(design)
        elif store.get(task, design, 0) is None:
            said = Result(named(task), design.to_dict(), 0, "impossible", reason, provenance=provenance())
            said.write(store.place(task, design, 0))
    runs = [(design, seed) for seed in seeds for design in possible]
    lacking = []
    for design, seed in runs:
        if store.get(task, design, seed) is None:
            place = store.place(task, design, seed)
            (place / RESULT).unlink(missing_ok=True)  # of the task as it was
            place.mkdir(parents=True, exist_ok=True)
            write_job(place, task, design, seed)
            lacking.append(place)
    report(f"{task.name}: {len(runs)} runs of {len(possible)} designs, {len(runs) - len(lacking)} done")
    with tqdm(total=len(lacking), desc=task.name, unit="run", disable=not progress) as bar:

        def done(place: Path) -> None:
            bar.update()
            if (place / RESULT).exists():
                report(summary(Result.read(place)))

        engine.run(lacking, done)
    found = [store.get(task, design, seed) for design, seed in runs]
    return [result for result in found if result is not None]


def summary(result: Result) -> str:
    """A run in a line."""
    name = f"{result.label}, seed {result.seed}"
    if result.status != "done":
        return f"{name}: {result.status}: {result.reason}"
    metric = result.task["metric"]
    steps, seconds = result.cost["steps"], result.cost["cpu_s"]
    return f"{name}: {metric} {result.metrics[metric]:.2f} after {steps:,} steps in {seconds:.0f} CPU s"
