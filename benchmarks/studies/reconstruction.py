"""What a reconstruction costs, and how good it is, beside ``relion_reconstruct --ctf`` where RELION is installed.

    python -m cryozoo.benchmarks.studies.reconstruction [SIZE [COUNT]]

Prints one table and writes it to ``results/reconstruction.json`` and ``.md``. Noiseless images of a phantom with shifts
and astigmatic CTF. All sides are whole commands on one thread, taking turns. Ours begins with the import of torch, a
side of its own; ``cryozoo_without_start`` is the call in a process that has done so. RELION makes the map alone, we the
map, both half maps, their FSC and the filter.
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

from ...zoo.provenance import provenance
from .figures import write_figures

# The peak of a child counts from its parent's size, so that the parent must be a small one.
_LAUNCHER = """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def _run(command: list[str], folder: Path) -> tuple[float, ...]:
    """CPU seconds and peak megabytes of a command."""
    launcher = [sys.executable, "-c", _LAUNCHER, *command]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(launcher, cwd=folder, env=one_thread, check=True, capture_output=True, text=True)
    return tuple(map(float, done.stdout.split()))


def measure(size: int = 64, count: int = 2000, rounds: int = 3) -> dict[str, Any]:
    """Reconstruct ``count`` images of ``size`` pixels, ``rounds`` times each way; medians."""
    import torch

    from ...imaging.fsc import fourier_shell_correlation
    from ...imaging.reconstruct import reconstruct
    from ...imaging.simulate import Imaging, Simulator
    from ...imaging.simulate_files import write_simulated_stack
    from ...imaging.volumes import Volume
    from ...particles.stack import ParticleStack

    torch.set_num_threads(1)
    volume = Volume.phantom(size=size, pixel_size=4.0)
    simulator = Simulator(volume, Imaging(shift_sigma=8.0, defocus=(8000.0, 20000.0), astigmatism=1000.0))
    sides = {
        "import_torch": [sys.executable, "-c", "import torch"],
        "cryozoo": [sys.executable, "-m", "cryozoo", "reconstruct", "in.star", "-o", "cryozoo.mrc", "--overwrite"],
        "relion": ["relion_reconstruct", "--i", "in.star", "--o", "relion.mrc", "--ctf"],
    }
    if shutil.which("relion_reconstruct") is None:
        del sides["relion"]
    costs: dict[str, list[tuple[float, ...]]] = {name: [] for name in sides}
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
        maps = {side: Volume.load(folder / f"{side}.mrc").data for side in sides if side != "import_torch"}
    last = int(0.8 * (size // 2))
    for side in sides:
        for unit, values in zip(("cpu_s", "peak_MB"), zip(*costs[side], strict=True), strict=True):
            figures[f"{side}_{unit}"] = statistics.median(values)
    for side, data in maps.items():
        fsc = fourier_shell_correlation(data, volume.data)
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
