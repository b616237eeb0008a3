"""Running a suite and making its table. A run that has its JSON is not run again; one that was stopped is resumed."""

from __future__ import annotations

import fnmatch
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..geometry.sampling import random_rotations
from ..imaging.cramer_rao import cramer_rao_bound
from ..imaging.simulate import inscribed_circle
from ..particles.files import write_json
from ..training.data import Simulated
from ..training.migrations import migrated
from ..training.recipe import Recipe
from ..training.run import simulated
from ..training.trainer import train
from ..zoo.registry import named_size, split_name
from .suites import SUITES

RESULTS = Path(__file__).parent / "results"


def run_suite(name: str, *, only: str = "*", work: Path = Path("runs"), progress: bool = True) -> None:
    """Train the runs of a suite whose names match, each into ``work/<suite>/<run>``; results go to ``results/``."""
    for run, recipe in SUITES[name]().items():
        target = RESULTS / name / f"{run}.json"
        if target.exists() or not fnmatch.fnmatch(run, only):
            continue
        result = train(recipe, work / name / run, progress=progress)
        target.parent.mkdir(parents=True, exist_ok=True)
        record = {"run": run, "recipe": recipe.to_dict(), "metrics": result.metrics, "history": result.history}
        write_json(target, record)


@dataclass(frozen=True)
class Result:
    """What a run of a suite left.

    Attributes:
        run: its name, a label.
        recipe: what was trained, in today's fields and names.
        metrics: on the test set, with cost and provenance.
        history: one mapping per validation.
    """

    run: str
    recipe: Recipe
    metrics: dict[str, Any]
    history: list[dict[str, float]]

    @property
    def data(self) -> Simulated:
        """What it was trained on."""
        return simulated(self.recipe)


def todays_recipe(plain: Mapping[str, Any]) -> Recipe:
    """A recipe as it was saved, in today's fields, and its backbone by the name of its size."""
    recipe = Recipe.from_dict(migrated(plain)[0])
    backbone, head, _ = split_name(recipe.encoder)
    backbone, left = named_size(backbone, recipe.backbone_args)
    return replace(recipe, encoder=f"{backbone}-{head}", backbone_args=left)


def load_results(name: str) -> list[Result]:
    """The results of a suite, by run name."""
    records = (json.loads(path.read_text()) for path in sorted((RESULTS / name).glob("*.json")))
    return [
        Result(record["run"], todays_recipe(record["recipe"]), record["metrics"], record["history"])
        for record in records
    ]


def bound_median_deg(data: Simulated, size: int, pixel_size: float | None) -> float:
    """Median angular error, in degrees, of an estimator at the Cramer-Rao bound of simulated images of this box."""
    import torch

    simulator = data.simulator(size, pixel_size)
    generator = torch.Generator().manual_seed(0)
    rotation = random_rotations(256, generator=generator)
    ctf = simulator.random_ctf(256, generator)
    bound = cramer_rao_bound(simulator.projector, rotation, simulator.noise_sigma, ctf=ctf, mask=inscribed_circle(size))
    return float(torch.rad2deg(bound.angles()).median())


def spread(values: list[float], digits: int = 2) -> str:
    """``mean (lowest to highest)`` over seeds, or the one value that all of them show."""
    mean, lowest, highest = (f"{f(values):.{digits}f}" for f in (statistics.mean, min, max))
    return mean if lowest == highest else f"{mean} ({lowest} to {highest})"


def middle(values: list[float], digits: int = 2) -> str:
    """The median of values over seeds (lowest to highest); a dash where there are none."""
    if not values:
        return "-"
    median, lowest, highest = (f"{f(values):.{digits}f}" for f in (statistics.median, min, max))
    return median if len(values) == 1 else f"{median} ({lowest} to {highest})"


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, first column left, the others right."""
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"
