"""A row again: trained anew as its result says, and compared."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..particles.errors import BadInput
from .harness import run
from .store import Result


def reproduce(place: Path) -> str:
    """Train what a result says, with as many steps; returns in a line what came of it.

    On the same kind of machine and thread count the predictions are the same bit for bit; elsewhere sums are rounded
    otherwise, and an error differs about as much as with another seed.

    Raises:
        BadInput: there is no result of a training.
    """
    import torch

    torch.set_num_threads(1)
    result = Result.read(place)
    if result.status != "done":
        raise BadInput(place, f"nothing that was trained: {result.status}, {result.reason}")
    task = result.asked
    with tempfile.TemporaryDirectory() as folder:
        again = run(task, result.tried, result.seed, Path(folder), result.recipe["steps"])
    if again.predictions_sha256 == result.predictions_sha256:
        return f"{result.label}, seed {result.seed}: the same predictions, bit for bit"
    then, now = result.metrics[task.metric], again.metrics[task.metric]
    machines = f"{result.provenance['hardware']} then, {again.provenance['hardware']} now"
    return f"{result.label}, seed {result.seed}: {task.metric} {then:.3f} then, {now:.3f} now ({machines})"
