"""Where runs are done: side by side on this machine, or as jobs of a cluster; each in a process of its own."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from .harness import HELD, JOB, STOPPED, named, read_job
from .store import RESULT, Result
from .task import Task

_LOG = "log.txt"
COMMAND = [sys.executable, "-m", "cryozoo.benchmarks.harness"]
_PATIENCE, START = 5.0, 900.0  # budgets, and seconds besides, after which a run hangs
_LAST_WORDS, _SAID = 2000, 300  # bytes of a log, letters of a reason


def attempt(place: Path, begun: Callable[[subprocess.Popen[bytes]], object] = lambda process: None) -> None:
    """Do the job of a folder in a process of its own; a failure is a result, too.

    Nothing is done where there is a result, or where somebody else is at it. ``begun`` is told of the process.
    """
    if (place / RESULT).exists():
        return
    task, design, seed, _ = read_job(place / JOB)
    limit = _limit(task)
    with (place / _LOG).open("wb") as log:
        command = [*COMMAND, str(place)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        environment.pop("TORCHELASTIC_RUN_ID", None)  # of a torchrun that is none of a design's business
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        begun(process)
        try:
            code = process.wait(limit)
            reason = _reason(code, (place / _LOG).read_bytes())
        except subprocess.TimeoutExpired:
            process.kill()
            code, reason = process.wait(), f"it was not done after {limit:,.0f} s"
    if code not in (HELD, STOPPED) and not (place / RESULT).exists():
        Result(named(task), design.to_dict(), seed, "failed", reason).write(place)


def _limit(task: Task) -> float:
    """Seconds after which a run hangs."""
    return _PATIENCE * task.budget + START


def _reason(code: int, log: bytes) -> str:
    if code < 0:
        return f"killed by signal {-code}" + (": was memory short?" if code == -9 else "")
    lines = log[-_LAST_WORDS:].decode(errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), f"exit code {code}")
    return " ".join(last.split())[:_SAID]


@dataclass
class Local:
    """This machine.

    Args:
        jobs: runs side by side, each on one thread.
    """

    jobs: int = 1
    _running: set[Any] = field(default_factory=set, init=False)
    _lock: Lock = field(default_factory=Lock, init=False)

    def run(self, places: Sequence[Path], done: Callable[[Path], object]) -> None:
        """Do the jobs of all folders; ``done`` is told of each. Ctrl-C stops all of them, which can go on later."""
        stopping = False

        def one(place: Path) -> Path:
            process: Any = None

            def begun(started: subprocess.Popen[bytes]) -> None:
                nonlocal process
                process = started
                with self._lock:
                    self._running.add(process)

            if not stopping:
                attempt(place, begun)
            with self._lock:
                self._running.discard(process)
            return place

        with ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(one, place) for place in places]
            try:
                for future in as_completed(futures):
                    done(future.result())
            except BaseException:
                stopping = True
                with self._lock:
                    for process in self._running:
                        process.terminate()
                raise


@dataclass
class Slurm:
    """A cluster, by submitit: an array of jobs, one for each run, which is queued again when it loses its node.

    Args:
        folder: for submitit's own files.
        options: of submitit's executor, such as ``slurm_partition``.
        cluster: "slurm", or "local" for processes on this machine.
    """

    folder: Path
    options: dict[str, Any] = field(default_factory=dict)
    cluster: str = "slurm"

    def run(self, places: Sequence[Path], done: Callable[[Path], object]) -> None:
        """Queue the jobs of all folders, and wait for them; ``done`` is told of each."""
        try:
            import submitit
        except ImportError:
            raise ImportError("jobs of a cluster need submitit: pip install 'cryozoo[bench]'") from None
        executor = submitit.AutoExecutor(self.folder, cluster=self.cluster)
        # submitit's own limit is five minutes.
        longest = max((_limit(read_job(place / JOB)[0]) for place in places), default=START)
        asked = {"cpus_per_task": 1, "name": "cryozoo", "timeout_min": math.ceil(longest / 60), **self.options}
        executor.update_parameters(**asked)
        waiting = dict(zip(executor.map_array(Attempt(), [p.resolve() for p in places]), places, strict=True))
        while waiting:
            for job in [job for job in waiting if job.done()]:
                place = waiting.pop(job)
                if (error := job.exception()) is not None and not (place / RESULT).exists():
                    task, design, seed, _ = read_job(place / JOB)
                    reason = " ".join(str(error).split())[-_SAID:] or "its job ended without a word"
                    Result(named(task), design.to_dict(), seed, "failed", reason).write(place)
                done(place)
            time.sleep(1.0)


class Attempt:
    """What a job of the cluster calls; submitit queues it again, with the same folder, when the job is preempted."""

    def __call__(self, place: Path) -> None:
        """Do the job of a folder."""
        attempt(place)

    def checkpoint(self, place: Path) -> Any:
        """The same job once more; the training goes on from its checkpoint."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, place)
