"""The leaderboard: results of a store as one page, which needs no other file and no network."""

from __future__ import annotations

import hashlib
import json
import statistics
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..geometry.point_groups import point_group, symmetric_distance
from ..geometry.pose import Pose
from ..particles.errors import BadInput, BadInputWarning
from ..particles.files import atomic_write, make_folder, plain_json
from ..zoo.columns import COLUMNS
from ..zoo.registry import split_name
from .badge import badge
from .judge import judge
from .ranking import ranking
from .references import references
from .runs import markdown_table
from .store import SPENT, Result, Store
from .submission import granted_levels, level_of
from .task import Task, list_tasks

_TEMPLATE = Path(__file__).with_suffix(".html")
_DATA = "/*DATA*/"
_BINS = np.geomspace(0.5, 180, 33)  # degrees, of the histograms of errors
_KEPT = (1.0, 0.9, 0.75, 0.5, 0.25)  # shares of the most confident
_SHOWN = ("acc_5", "acc_15", "mean_deg", "shift_rmse_A", "spearman", "auroc_5deg", "mean_deg_kept_75")


class _Run(NamedTuple):
    """A result, and of one that is done its predictions and what they are judged to be."""

    result: Result
    poses: Pose | None
    metrics: dict[str, Any]


def write_leaderboard(tasks: Sequence[dict[str, Any]], out: Path) -> Path:
    """Write ``index.html`` for :func:`tables`, and a badge for each row in ``badges/``; returns the page."""
    for task in tasks:
        for row in [row for row in task["rows"] if row["values"]]:
            picture = make_folder(out / "badges" / task["name"]) / f"{row['file']}.svg"
            with atomic_write(picture, overwrite=True) as file:
                file.write(badge(task, row).encode())
    text = json.dumps(plain_json(tasks), ensure_ascii=True).replace("<", "\\u003c")
    path = make_folder(out) / "index.html"
    with atomic_write(path, overwrite=True) as file:
        file.write(_TEMPLATE.read_text().replace(_DATA, text).encode())
    return path


def tables(store: Store) -> list[dict[str, Any]]:
    """What the page shows, a mapping for each task; every metric is made again of predictions and the task's truth.

    Raises:
        BadInput: there is no result.

    Warns:
        BadInputWarning: a result cannot be read, answers another task of the same name, or was made of other
            predictions; or the data of a task is not here.
    """
    by_task: dict[str, list[Result]] = {}
    digests: dict[str, str] = {name: Task.load(name).digest for name in list_tasks()}
    for result in store.results():
        task = result.asked
        if digests.setdefault(task.name, task.digest) == task.digest:
            by_task.setdefault(task.name, []).append(result)
        else:
            message = f"left out: {result.folder} answers another task of the name {task.name}"
            warnings.warn(BadInputWarning(message), stacklevel=2)
    if not by_task:
        raise BadInput(store.folder, "no results", hint="make some: cryozoo benchmark TASK ... --store")
    made = []
    for name, results in sorted(by_task.items()):
        try:
            made.append(_table(store, results))
        except BadInput as error:  # such as a map that is not on this machine
            warnings.warn(BadInputWarning(f"left out: the task {name}: {error}"), stacklevel=2)
    return made


def markdown(task: dict[str, Any], best: int | None = None) -> str:
    """The rows of a task that were done, to be read without the page; or the ``best`` of them, in few columns."""
    digits, heading = task["digits"], f"{task['heading']} (95 %)"
    bound = task["references"].get("bound")
    lines = []
    for row in [row for row in task["rows"] if row["values"]][:best]:
        metrics, cost = row["metrics"], row["cost"]
        between = f" ({row['low']:.{digits}f} to {row['high']:.{digits}f})" if "low" in row else ""
        lines.append(
            {
                "place": str(row.get("place", "")),
                "backbone": row["backbone"],
                "head": row["head"],
                "loss": row["loss"],
                heading: f"{row['value']:.{digits}f}{between}",
                "x bound": f"{row['value'] / bound:.1f}" if bound else "",
                "% <= 5": _mean(metrics, "acc_5"),
                "shift A": _mean(metrics, "shift_rmse_A"),
                "M parameters": f"{cost['parameters'] / 1e6:.2f}",
                "ms an image": f"{cost['ms_per_image']:.2f}",
                "steps": f"{cost['steps']:,.0f}",
                "seeds": str(len(row["seeds"])),
            }
        )
    header = list(lines[0]) if lines else []
    header = header if best is None else [*header[:6], "seeds"]
    beside = {
        "bound": "the bound allows",
        "match": "maximum likelihood against the true map has",
        "chance": "guessing has",
    }
    known = [f"{words} {task['references'][key]:.2f}" for key, words in beside.items() if key in task["references"]]
    note = (
        f"{task['images']:,} images that were never trained on, {task['budget']:,.0f} CPU seconds of training on one "
        f"thread; a place is shared by what a paired bootstrap cannot tell apart. "
        + (f"Of the median, {', '.join(known)} degrees. " if known else "")
        + f"Commits {', '.join(task['commits'])}; {', '.join(task['hardware'])}."
    )
    return f"{markdown_table(header, [[line[name] for name in header] for line in lines])}\n{note}\n"


def _mean(metrics: dict[str, list[float]], key: str) -> str:
    """Over seeds; empty where no seed has it."""
    column = COLUMNS[key]
    return f"{column.scale * statistics.mean(values):.{column.digits}f}" if (values := metrics.get(key)) else ""


def _table(store: Store, results: Sequence[Result]) -> dict[str, Any]:
    task = results[0].asked
    truth, granted = task.test().pose, granted_levels(store)
    designs: dict[str, list[_Run]] = {}
    for result in results:
        try:
            poses = result.predictions() if result.status == "done" else None
            metrics = {} if poses is None else judge(task, result.tried, poses, truth)
        except BadInput as error:
            warnings.warn(BadInputWarning(f"left out: {error}"), stacklevel=3)
            continue
        # Nobody's seeds change what others have measured.
        name = result.label if result.author is None else f"{result.label} by {result.author}"
        designs.setdefault(name, []).append(_Run(result, poses, metrics))
    errors: dict[str, list[NDArray[np.float64]]] = {}
    rows = []
    for label, runs in designs.items():
        if task.metric == "median_deg" and (predicted := [run.poses for run in runs if run.poses is not None]):
            errors[label] = [_errors(task, poses, truth) for poses in predicted]
        rows.append(_row(store, task, label, runs, errors.get(label, []), granted))
    places = {rank.name: rank for rank in ranking(errors)}
    for row in rows:
        if (rank := places.get(row["label"])) is not None:
            row |= {"place": rank.place, "low": rank.low, "high": rank.high}
    rows.sort(key=lambda row: (row["value"] is None, row["value"] or 0.0, row["label"]))
    done = [run.result for runs in designs.values() for run in runs if run.poses is not None]
    return {
        "name": task.name,
        "title": task.title,
        "budget": task.budget,
        "metric": task.metric,
        "heading": COLUMNS[task.metric].label,
        "digits": COLUMNS[task.metric].digits,
        "images": len(truth.rotation) if truth.rotation is not None else 0,
        "columns": {key: [COLUMNS[key].heading, COLUMNS[key].digits, COLUMNS[key].scale] for key in _SHOWN},
        "references": references(store, task),
        "hardware": sorted({str(result.provenance["hardware"]) for result in done}),
        "commits": sorted({result.made_by for result in done}),
        "bins": [round(float(edge), 3) for edge in _BINS],
        "kept": list(_KEPT),
        "task": task.to_dict(),
        "rows": rows,
    }


def _row(
    store: Store,
    task: Task,
    label: str,
    runs: Sequence[_Run],
    errors: Sequence[NDArray[np.float64]],
    granted: dict[str, Any],
) -> dict[str, Any]:
    """A design: all its seeds together."""
    first = runs[0].result
    design = first.tried
    backbone, head, _ = split_name(design.encoder)
    done = [run.result for run in runs if run.poses is not None]
    metrics = [run.metrics for run in runs if run.poses is not None]
    values = [float(metric[task.metric]) for metric in metrics]
    arguments = {key: value for key, value in design.to_dict().items() if key not in ("encoder", "loss")}
    folder = store.place(task, design, first.seed).parent
    return {
        "label": label,
        "file": _file_name(first),
        "backbone": backbone,
        "head": head,
        "loss": design.loss,
        "arguments": json.dumps(arguments) if arguments else "",
        "status": "done" if done else first.status,
        "reason": next((run.result.reason for run in runs if run.result.reason), None),
        "seeds": [run.seed for run in done],
        "values": values,
        "value": statistics.mean(values) if values else None,
        "metrics": {key: [m[key] for m in metrics if key in m] for key in _SHOWN},
        "cost": {key: statistics.mean(run.cost[key] for run in done) for key in SPENT} if done else {},
        "curve": [[row["cpu_s"], row.get(task.metric)] for row in done[0].history] if done else [],
        "histogram": np.histogram(np.concatenate(errors), _BINS)[0].tolist() if errors else [],
        "confident": _most_confident([run.poses for run in runs if run.poses is not None], errors),
        "made": [{key: run.provenance.get(key) for key in ("commit", "hardware", "torch", "cryozoo")} for run in done],
        "authors": sorted({run.author for run in done if run.author}),
        "levels": sorted({level_of(run, granted) for run in done}),
        "predictions": [[f"seed{run.seed}", run.predictions_sha256] for run in done],
        "folder": folder.relative_to(store.folder).as_posix(),
    }


def _file_name(result: Result) -> str:
    """Of the design; an author's name is a stranger's, and no part of a path."""
    author = result.author or ""
    return result.label + (f"+{hashlib.sha256(author.encode()).hexdigest()[:6]}" if author else "")


def _errors(task: Task, predicted: Pose, truth: Pose) -> NDArray[np.float64]:
    assert predicted.rotation is not None
    assert truth.rotation is not None
    group = point_group(task.judging.symmetry)
    return np.degrees(symmetric_distance(predicted.rotation.double(), truth.rotation.double(), group).numpy())


def _most_confident(predictions: Sequence[Pose], errors: Sequence[NDArray[np.float64]]) -> list[float]:
    """Median error of the most confident images of the first seed; empty where there is no confidence."""
    if not errors or predictions[0].confidence is None:
        return []
    order = np.argsort(-predictions[0].confidence.numpy(), kind="stable")
    return [float(np.median(errors[0][order[: max(1, round(share * len(order)))]])) for share in _KEPT]
