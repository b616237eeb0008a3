"""What a reconstruction costs, and how good it is, beside ``relion_reconstruct --ctf`` where RELION is installed.

    python -m cryozoo.benchmarks.reconstruction [SIZE [COUNT]]

Prints one table and writes it to ``results/reconstruction.json`` and ``.md``. Noiseless images of a phantom with shifts
and astigmatic CTF. Both sides are whole commands on one thread, taking turns, hence with the import of torch on our
side; ``cryozoo_without_start`` is the call inside a process that has done so. RELION makes the map alone, we the map,
both half maps, their FSC and the filter.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ..zoo.provenance import provenance
from .timing import write_figures


def _run(command: list[str], folder: Path) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak megabytes of a command."""
    began = time.perf_counter()
    child = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}")
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def measure(size: int = 64, count: int = 2000, rounds: int = 3) -> dict[str, Any]:
    """Reconstruct ``count`` images of ``size`` pixels, ``rounds`` times each way; medians."""
    import torch

    from ..particles.fsc import fourier_shell_correlation
    from ..particles.reconstruct import reconstruct
    from ..particles.simulate import Imaging, Simulator
    from ..particles.simulate_files import write_simulated_stack
    from ..particles.stack import ParticleStack
    from ..particles.volumes import Volume

    torch.set_num_threads(1)
    volume = Volume.phantom(size=size, pixel_size=4.0)
    simulator = Simulator(volume, Imaging(shift_sigma=8.0, defocus=(8000.0, 20000.0), astigmatism=1000.0))
    sides = {
        "cryozoo": [sys.executable, "-m", "cryozoo", "reconstruct", "in.star", "-o", "cryozoo.mrc", "--overwrite"],
        "relion": ["relion_reconstruct", "--i", "in.star", "--o", "relion.mrc", "--ctf"],
    }
    if shutil.which("relion_reconstruct") is None:
        del sides["relion"]
    costs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in sides}
    inside = []
    figures: dict[str, Any] = {"image_size": size, "images": count}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_simulated_stack(folder / "in.mrcs", simulator, count)
        for _ in range(rounds):
            for side, command in sides.items():
                costs[side].append(_run(command, folder))
            began = time.process_time()
            reconstruct(ParticleStack.open(folder / "in.star"))
            inside.append(time.process_time() - began)
        maps = {side: Volume.load(folder / f"{side}.mrc").data for side in sides}
    last = int(0.8 * (size // 2))
    for side in sides:
        for unit, values in zip(("wall_s", "cpu_s", "peak_MB"), zip(*costs[side], strict=True), strict=True):
            figures[f"{side}_{unit}"] = statistics.median(values)
        fsc = fourier_shell_correlation(maps[side], volume.data)
        figures[f"{side}_lowest_fsc_with_truth_to_0.8_nyquist"] = float(fsc[1 : last + 1].min())
    figures["cryozoo_without_start_cpu_s"] = statistics.median(inside)
    if "relion" in sides:
        fsc = fourier_shell_correlation(*maps.values())
        figures["lowest_fsc_between_the_maps_to_0.8_nyquist"] = float(fsc[1 : last + 1].min())
    return figures | provenance()


def main() -> None:
    """Measure, print, write."""
    write_figures("reconstruction", measure(*map(int, sys.argv[1:])))


if __name__ == "__main__":
    main()
