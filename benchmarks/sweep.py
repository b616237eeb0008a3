"""Many runs: every design with every seed, as far as the store lacks them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, Protocol

from tqdm import tqdm

from ..particles.errors import BadInput
from ..zoo.parts import PartError
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
    retry: bool = False,
    progress: bool = False,
    report: Callable[[str], object] = lambda line: None,
) -> list[Result]:
    """Do what the store lacks: the first seed of all designs, then the next.

    What cannot be put together is a result, too, and so is what fails: they say why. A design that needs a package
    which is not installed is left out, and reported.

    Args:
        store: what is done already, and where results are put.
        task: what is asked.
        designs: what is tried.
        seeds: of each design.
        engine: where.
        retry: do again what has failed.
        progress: show a bar.
        report: told in lines what is done.

    Returns:
        the results of all designs and seeds, those that were there among them.

    Raises:
        BadInput: the task's data is another one, a design has fields that are of no use, or the store has answers to
            another task of this name.
    """
    task.check_data()
    possible = []
    for design in designs:
        status: Literal["impossible", "failed"] = "impossible"
        try:
            reason = why_impossible(task, design)
        except ImportError as error:
            report(f"{design.label}: left out: {error}")
            continue
        except PartError as error:
            status, reason = "failed", str(error)
        if reason is None:
            possible.append(design)
        elif _kept(store, task, design, 0) is None:
            said = Result(named(task), design.to_dict(), 0, status, reason, provenance=provenance())
            said.write(store.place(task, design, 0))
    runs = [(design, seed) for seed in seeds for design in possible]
    lacking = []
    for design, seed in runs:
        kept = _kept(store, task, design, seed)
        if kept is None or kept.status == "impossible" or (retry and kept.status == "failed"):
            place = store.place(task, design, seed)
            (place / RESULT).unlink(missing_ok=True)  # of what is tried again
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


def _kept(store: Store, task: Task, design: Design, seed: int) -> Result | None:
    """What the store has of a run; an answer to another task of this name is not to be lost."""
    result = store.get(task, design, seed)
    place = store.place(task, design, seed)
    if result is None and (place / RESULT).exists():
        hint = "give the task another name, or take another store"
        raise BadInput(place, f"answers {task.name} as it was before it was changed", hint=hint)
    return result


def summary(result: Result) -> str:
    """A run in a line."""
    name = f"{result.label}, seed {result.seed}"
    if result.status != "done":
        return f"{name}: {result.status}: {result.reason}"
    metric = result.task["metric"]
    steps, seconds = result.cost["steps"], result.cost["cpu_s"]
    return f"{name}: {metric} {result.metrics[metric]:.2f} after {steps:,} steps in {seconds:.0f} CPU s"
