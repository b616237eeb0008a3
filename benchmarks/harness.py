"""One run of the benchmark: a design is trained for the task's budget, predicts the test set, and is judged by that.

``python -m cryozoo.benchmarks.harness FOLDER`` does what ``job.json`` in the folder says, in a process of its own, so
that a design that raises, hangs or takes all memory harms no other.
"""

from __future__ import annotations

import json
import resource
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..particles.files import write_json
from ..zoo.provenance import provenance
from .design import Design
from .store import MODEL, Result, held, write_predictions
from .task import Task

JOB, WORK = "job.json", "training"
HELD, STOPPED = 75, 130
"""Exit codes: somebody else does this run; it was asked to stop, and has kept what it did."""
_FIRST, _PILOT = 10, 0.1  # steps, and the share of the budget, by which it is known how many steps it allows
_LATENCY, _REPEATS = 64, 5  # images at a time, and how often


def write_job(folder: Path, task: Task, design: Design, seed: int, steps: int | None = None) -> None:
    """Say what is to be done; ``steps`` where the budget shall not be measured."""
    plain = {"task": named(task), "design": design.to_dict(), "seed": seed, "steps": steps}
    write_json(folder / JOB, plain, overwrite=True)


def read_job(path: Path) -> tuple[Task, Design, int, int | None]:
    """What :func:`write_job` said."""
    job = json.loads(path.read_text())
    plain = job["task"]
    return Task.from_dict(plain, plain.pop("name")), Design.from_dict(job["design"]), job["seed"], job["steps"]


def named(task: Task) -> dict[str, Any]:
    """Plain data of a task, and its name."""
    return {"name": task.name, **task.to_dict()}


def run(task: Task, design: Design, seed: int, folder: Path, steps: int | None = None) -> Result:
    """Train, predict and judge; goes on where the same run was stopped.

    Args:
        task: what is asked.
        design: what is tried.
        seed: of weights and batches.
        folder: where result, predictions and the encoder are left.
        steps: of training; by default as many as the budget allows.

    Raises:
        BadInput: task and design do not go together, or the data is another one.
    """
    from ..training.trainer import train
    from ..zoo.evaluate import predict_batches
    from .judge import judge

    here = provenance()
    task.check_data()
    work = folder / WORK
    if steps is None:
        steps = _begun_with(work, task, design, seed) or affordable_steps(task, design, seed)
    recipe = design.recipe(task, seed, steps)
    began = time.perf_counter()
    trained = train(recipe, work, device="cpu")
    seconds = time.perf_counter() - began
    test = task.test()
    poses = predict_batches(trained.encoder, test.images)
    sha256 = write_predictions(folder, poses)
    cost = {key: trained.metrics[key] for key in ("parameters", "gmacs", "steps", "cpu_s")}
    cost |= {"wall_s": seconds, "ms_per_image": milliseconds(trained.encoder, test.images[:_LATENCY])}
    cost |= {"peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    result = Result(
        task=named(task),
        design=design.to_dict(),
        seed=seed,
        status="done",
        recipe=recipe.to_dict(),
        metrics=judge(task, design, poses, test.pose),
        cost=cost,
        provenance=here,
        history=tuple(trained.history),
        predictions_sha256=sha256,
    )
    shutil.rmtree(folder / MODEL, ignore_errors=True)
    (work / MODEL).rename(folder / MODEL)
    result.write(folder)
    shutil.rmtree(work)
    return result


def affordable_steps(task: Task, design: Design, seed: int) -> int:
    """How many steps the budget allows, by the CPU seconds that some take.

    The first cost more than the others: densities that have learnt nothing yet are wide, and are summed otherwise.
    """
    seconds = _seconds_a_step(task, design, seed, _FIRST)
    pilot = int(_PILOT * task.budget / seconds)
    if pilot > _FIRST:
        seconds = _seconds_a_step(task, design, seed, pilot)
    return max(1, round(task.budget / seconds))


def _seconds_a_step(task: Task, design: Design, seed: int, steps: int) -> float:
    """Of the last of so many steps."""
    from ..training.trainer import train

    recipe = replace(design.recipe(task, seed, steps), validate_every=2 * steps // 3)
    rows = train(recipe, device="cpu").history
    return (rows[-1]["cpu_s"] - rows[0]["cpu_s"]) / (rows[-1]["step"] - rows[0]["step"])


def milliseconds(encoder: Any, images: Any) -> float:
    """For an image, the least of some tries, many images at a time on one thread."""
    from ..zoo.evaluate import predict_batches

    seconds = []
    for _ in range(_REPEATS):
        began = time.process_time()
        predict_batches(encoder, images)
        seconds.append(time.process_time() - began)
    return 1000 * min(seconds) / len(images)


def _begun_with(work: Path, task: Task, design: Design, seed: int) -> int | None:
    """Steps of this training, where it was begun in the folder; what is left of another one is removed."""
    path = work / "recipe.json"
    if not path.exists():
        return None
    begun = json.loads(path.read_text())
    if begun == design.recipe(task, seed, begun["steps"]).to_dict():
        return int(begun["steps"])
    shutil.rmtree(work)
    return None


def main(folder: Path) -> None:
    """Do the job of a folder, on one thread; exits with 0, :data:`HELD` or :data:`STOPPED`."""
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with held(folder) as ours:
            if not ours:
                sys.exit(HELD)
            task, design, seed, steps = read_job(folder / JOB)
            run(task, design, seed, folder, steps)
    except KeyboardInterrupt as stop:
        print(stop)
        sys.exit(STOPPED)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
