"""A published comparison at a size of our own: its rows, run like any other design, in a table.

A file of ``protocols/`` has a base ``task`` and ``design``; each row changes what it is about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..particles.errors import BadInput
from ..particles.files import atomic_write
from ..particles.yaml_files import read_yaml
from ..zoo.columns import COLUMNS
from .design import Design
from .runs import markdown_table, middle
from .store import Result, Store
from .sweep import Engine, sweep
from .task import Task

PROTOCOLS = Path(__file__).parent / "protocols"
_CONVERGED = 0.1  # mean squared distance below which poses that were found from images alone have converged
_FIELDS = {"title", "paper", "note", "columns", "task", "design", "tables"}


@dataclass(frozen=True)
class Row:
    """A line of a table."""

    name: str
    task: Task
    design: Design


@dataclass(frozen=True)
class Protocol:
    """A published comparison.

    Attributes:
        name: of its file.
        title: in words.
        paper: where it was published.
        note: what was found, and how it differs here.
        columns: keys of metrics, ``steps`` and ``cpu_s``; ``converged``, the share of seeds that found poses, and
            ``converged_cpu_s``, the time that took.
        tables: titles and rows.
    """

    name: str
    title: str
    paper: str
    note: str
    columns: tuple[str, ...]
    tables: tuple[tuple[str, tuple[Row, ...]], ...]

    @classmethod
    def load(cls, name: str) -> Protocol:
        """The protocol of this name.

        Raises:
            BadInput: fields that are of no use.
        """
        path = PROTOCOLS / f"{name}.yaml"
        plain = read_yaml(path, "a protocol", hint=None)
        plain.pop("networks", None)  # what rows refer to
        if unknown := sorted(plain.keys() ^ _FIELDS):
            raise BadInput(path, f"{unknown[0]} is missing, or no field", expected=", ".join(sorted(_FIELDS)))
        tables = tuple(
            (table["title"], tuple(_row(name, plain, row) for row in table["rows"])) for table in plain["tables"]
        )
        return cls(name, plain["title"], plain["paper"], plain["note"], tuple(plain["columns"]), tables)

    def rows(self) -> list[Row]:
        """Of all tables."""
        return [row for _, rows in self.tables for row in rows]

    def run(
        self, store: Store, seeds: Iterable[int], engine: Engine, budget: float | None = None, **how: Any
    ) -> list[Result]:
        """Do what the store lacks; see :func:`sweep`."""
        designs: dict[str, tuple[Task, dict[str, Design]]] = {}  # rows of several tables may be one design
        for row in self.rows():
            task = row.task if budget is None else row.task.within(budget)
            designs.setdefault(task.name, (task, {}))[1][row.design.label] = row.design
        used = list(seeds)
        return [
            result
            for task, asked in designs.values()
            for result in sweep(store, task, asked.values(), used, engine, **how)
        ]

    def table(self, store: Store, seeds: Iterable[int], budget: float | None = None) -> str:
        """Markdown; over seeds medians (lowest to highest)."""
        parts, used = [f"# {self.title}\n", f"{self.paper}. {self.note}\n"], list(seeds)
        made: list[Result] = []
        for title, rows in self.tables:
            lines = []
            for row in rows:
                task = row.task if budget is None else row.task.within(budget)
                found = [store.get(task, row.design, seed) for seed in used]
                runs = [run for run in found if run is not None]
                done = [run for run in runs if run.status == "done"]
                made += done
                failed = [str(run.reason) for run in runs if run.status != "done"]
                cells = [_cell(done, key, len(runs)) if done else "" for key in self.columns]
                if failed and not done:
                    cells[0] = failed[0]
                lines.append([row.name, *cells, f"{len(done)} of {len(runs)}" if failed else str(len(done))])
            header = ["", *(_HEADINGS.get(key) or COLUMNS[key].heading for key in self.columns), "seeds"]
            parts.append(f"## {title}\n\n{markdown_table(header, lines)}")
        where = sorted({f"{run.made_by}, {run.provenance['hardware']}" for run in made})
        return "\n".join([*parts, f"Commits {'; '.join(where)}.\n"])

    def write(self, store: Store, seeds: Iterable[int], budget: float | None = None) -> Path:
        """Write :meth:`table` into the store; returns the file."""
        path = store.folder / f"{self.name}.md"
        with atomic_write(path, overwrite=True) as file:
            file.write(self.table(store, seeds, budget).encode())
        return path


def list_protocols() -> list[str]:
    """Names of the protocols that are here, sorted."""
    return sorted(path.stem for path in PROTOCOLS.glob("*.yaml"))


def _row(protocol: str, base: Mapping[str, Any], row: Mapping[str, Any]) -> Row:
    source = f"{protocol}, row {row.get('row')}"
    task = Task.from_dict(_changed(base["task"], row.get("task", {})), protocol, source)
    task = replace(task, name=f"{protocol}.{task.digest[:6]}")
    design = Design.from_dict(_changed(base["design"], row.get("design", {})), source)
    return Row(str(row["row"]), task, design)


def _changed(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """With some fields replaced, also of mappings inside."""
    changed = dict(base)
    for key, value in changes.items():
        inner = changed.get(key)
        changed[key] = _changed(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return changed


_HEADINGS = {"converged": "% converged", "converged_cpu_s": "CPU s to MSE < 0.1"}


def _cell(runs: list[Result], key: str, tried: int) -> str:
    """Of runs that were done; one that failed has not converged."""
    if key == "converged":
        return f"{100 * sum(run.metrics['mse'] < _CONVERGED for run in runs) / tried:.1f}"
    if key == "converged_cpu_s":
        first = [next((row["cpu_s"] for row in run.history if row["mse"] < _CONVERGED), None) for run in runs]
        return middle([seconds for seconds in first if seconds is not None], 0)
    column = COLUMNS[key]
    values = [{**run.cost, **run.metrics}.get(key) for run in runs]
    return middle([column.scale * value for value in values if value is not None], column.digits)
