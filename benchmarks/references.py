"""What stands beside every table: guessing, maximum likelihood against the true map, and what noise allows at best."""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from typing import Any

from ..geometry.point_groups import chance_level, point_group
from ..particles.files import make_folder, write_json
from ..particles.strict_json import strict_json
from ..training.batches import TEST_SEED
from ..training.data import Simulated
from ..zoo.provenance import provenance
from .runs import bound_median_deg
from .store import Store
from .task import Task

_FILE = "references.json"


def references(store: Store, task: Task) -> dict[str, Any]:
    """Medians in degrees; measured once, and kept in the store. Of tasks of other metrics there is nothing.

    Returns:
        ``chance``; and of simulated particles ``bound``, of an estimator at the Cramer-Rao bound against the true map,
        and ``match`` with ``match_ms``, of :func:`~cryozoo.match` against it, and its CPU milliseconds an image.
    """
    path = store.folder / task.name / _FILE
    if path.exists():
        kept = strict_json(path.read_bytes(), path)
        if kept.get("task") == task.digest:
            return kept
    figures: dict[str, Any] = {"task": task.digest}
    data, in_degrees = task.judging, task.metric == "median_deg"
    if in_degrees:
        figures["chance"] = math.degrees(chance_level(point_group(data.symmetry)).median)
    if in_degrees and isinstance(data, Simulated) and data.imaging.snr is not None:  # without noise nothing is a limit
        figures["bound"] = bound_median_deg(data, task.image_size, task.pixel_size)
        figures |= _matched(task, data)
    figures |= provenance()
    write_json(make_folder(path.parent) / _FILE, figures, overwrite=True)
    return figures


def _matched(task: Task, data: Simulated) -> dict[str, float]:
    import torch

    from ..geometry.pose import Pose
    from ..imaging.simulate_files import write_simulated_stack
    from ..imaging.volumes import load_volume
    from ..particles.stack import ParticleStack
    from ..zoo.evaluate import pose_metrics
    from ..zoo.match import match

    torch.set_num_threads(1)
    volume = load_volume(data.volume, image_size=task.image_size, pixel_size=task.pixel_size)
    simulator = data.simulator(task.image_size, task.pixel_size)
    count = data.held_out if data.images is None else len(task.test())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "test.mrcs"
        write_simulated_stack(path, simulator, count, seed=TEST_SEED)
        stack = ParticleStack.open(path.with_suffix(".star"))
        truth = stack.poses
        assert truth is not None
        began = time.process_time()
        found = match(stack, volume, symmetry=data.symmetry)
        seconds = time.process_time() - began
    poses = Pose(torch.from_numpy(found.rotation)), Pose(torch.from_numpy(truth.rotation))
    median = pose_metrics(*poses, symmetry=data.symmetry)["median_deg"]
    return {"match": median, "match_ms": 1000 * seconds / count}
