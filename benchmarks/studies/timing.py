"""Speed, measured side by side in one run; and what whole commands cost."""

from __future__ import annotations

import math
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_POLL = 0.05  # s


def take_turns(
    sides: Mapping[str, Callable[[], object]], *, repeats: int = 9, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Seconds of each side, one per round, the first round left out.

    Taking turns, all sides suffer alike from whatever else the machine does. The default clock counts CPU time.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats + 1):
        for name, side in sides.items():
            began = clock()
            side()
            seconds[name].append(clock() - began)
    return {name: values[1:] for name, values in seconds.items()}


def median_ratio(numerator: list[float], denominator: list[float]) -> float:
    """Median over the rounds of one side's seconds over another's."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


@dataclass(frozen=True)
class Cost:
    """Of a command, the start of the program included.

    Attributes:
        wall_s: seconds.
        cpu_s: seconds of the processor.
        peak_gb: the most memory it had.
        whole: it was not stopped.
    """

    wall_s: float
    cpu_s: float
    peak_gb: float
    whole: bool = True


def run_command(
    words: str, folder: Path, *, watch: Callable[[int], object] = lambda process: None, limit: float = math.inf
) -> Cost:
    """Run a command, as in a shell, in a folder on one thread; ``cryozoo`` is this one.

    ``watch`` is called with the number of its process again and again. After ``limit`` CPU seconds it is stopped.

    Raises:
        CalledProcessError: it failed.
    """
    command = shlex.split(words)
    if command[0] == "cryozoo":
        command = [sys.executable, "-m", *command, "--threads", "1"]
    before, began, peak = os.times(), time.perf_counter(), 0.0
    child = subprocess.Popen(command, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    whole = True
    while child.poll() is None:
        watch(child.pid)
        if whole and _cpu_seconds(child.pid) > limit:
            whole = False
            child.kill()
        # The highest so far; what wait4 tells begins with the memory of the parent.
        with suppress(OSError):
            status = Path(f"/proc/{child.pid}/status").read_text()
            peak = max([peak, *(float(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))])
        time.sleep(_POLL)
    if child.returncode and whole:
        raise subprocess.CalledProcessError(child.returncode, command)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(time.perf_counter() - began, cpu, peak / 2**20, whole)


def _cpu_seconds(process: int) -> float:
    """Of a process, without its children; 0 when it has ended."""
    with suppress(OSError):
        user, system = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return 0.0
