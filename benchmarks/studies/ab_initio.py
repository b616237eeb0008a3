"""The whole way from images to poses and a map, with nothing else known: how near to the limit, how surely, how soon.

    python -m cryozoo.benchmarks.studies.ab_initio [SEEDS]

What ``cryozoo abinitio`` does, on 10,000 images of 64 pixels with CTF and shifts of 10 A. Poses are compared with the
true ones after an alignment of frame and hand, and with the bound of the likelihood against the true map; the map with
the true one, beside the map that the true poses give. Each seed has other images and other random starts. A run has
found the poses when their median error is within 1.2 of the bound.

Runs that were measured are not measured again. Prints a table and writes it to ``results/ab_initio.json`` and ``.md``.
On one thread.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...zoo.provenance import provenance
from ..runs import markdown_table, middle
from .figures import measured_at, measured_before, write_figures
from .matching import DEFOCUS, MAPS

if TYPE_CHECKING:
    from ...imaging.simulate import Simulator
    from ...imaging.volumes import Volume

# Map, the symmetry that is told, SNR.
TASKS = [
    (name, symmetry, snr)
    for snr in (0.1, 0.05)
    for name, symmetry in (
        ("70S ribosome", "C1"),
        ("beta-galactosidase", "D2"),
        ("beta-galactosidase", "C1"),
        ("IleRS and tRNA", "C1"),
    )
]
_SIZE, _IMAGES, _BOUND, _SHIFT = 64, 10_000, 256, 10.0
_FOUND = 1.2  # median error over the bound


def images_of(name: str, snr: float) -> tuple[Volume, Simulator]:
    """A map, and what makes images of it."""
    from ...imaging.simulate import Imaging, Simulator
    from ...imaging.volumes import load_volume

    file, _, pixel = MAPS[name]
    volume = load_volume(file, image_size=_SIZE, pixel_size=pixel)
    imaging = Imaging(snr=snr, shift_sigma=_SHIFT, defocus=DEFOCUS)
    return volume, Simulator(volume, imaging, image_size=_SIZE, pixel_size=pixel)


def run(name: str, symmetry: str, snr: float, seed: int, images: int = _IMAGES) -> dict[str, Any]:
    """One run; angles in degrees, resolutions in Angstrom."""
    import torch

    from ...imaging.cramer_rao import cramer_rao_bound
    from ...imaging.reconstruct import reconstruct
    from ...imaging.simulate_files import write_simulated_stack
    from ...particles.errors import BadInput
    from ...particles.stack import ParticleStack
    from ...zoo.ab_initio import abinitio
    from ...zoo.evaluate import aligned_metrics

    volume, simulator = images_of(name, snr)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "particles.mrcs"
        write_simulated_stack(path, simulator, images, seed=seed)
        stack = ParticleStack.open(path.with_suffix(".star"))
        true = stack.poses
        assert true is not None
        rotation, shift = torch.from_numpy(true.rotation).float(), torch.from_numpy(true.shift).float()
        few = slice(_BOUND)
        ctf = stack.table.ctf and stack.table.ctf[few]
        sigma = simulator.noise_sigma
        bound = cramer_rao_bound(simulator.projector, rotation[few], sigma, shift=shift[few], ctf=ctf)
        limit = {"bound_median_deg": float(bound.angles().rad2deg().median())}
        began = time.process_time()
        try:
            found = abinitio(stack, symmetry=symmetry, seed=seed)
        except BadInput as error:
            return limit | {"refused": str(error).partition(": ")[2], "cpu_s": time.process_time() - began}
        seconds = time.process_time() - began
        judged = aligned_metrics(torch.from_numpy(found.poses.rotation), rotation.double(), symmetry=MAPS[name][1])
        at_best = reconstruct(stack, true, symmetry=symmetry)
    return {
        **limit,
        "cpu_s": seconds,
        **{key: judged[key] for key in ("median_deg", "mean_deg", "acc_5")},
        "resolution_A": against(found.reconstruction.map, volume),
        "best_resolution_A": against(at_best.map, volume),
        "half_maps_A": found.reconstruction.resolution,
        "doubts": list(found.doubts),
    }


def against(made: Volume, true: Volume) -> float:
    """Angstrom where a map correlates with the true one to 0.5, laid over it with either hand."""
    from ...imaging.fourier import crop_or_zero_pad
    from ...imaging.fsc import fourier_shell_correlation, resolution_at
    from ...imaging.map_alignment import align_map
    from ...imaging.volumes import Volume

    box = round(made.size * made.pixel_size / true.pixel_size)
    reference = Volume(crop_or_zero_pad(true.data, box), true.pixel_size).coarsen(made.size)
    curve = fourier_shell_correlation(align_map(made, reference).aligned.data, reference.data)
    return float(resolution_at(curve, 0.5, made.pixel_size, size=made.size))


def measure(seeds: int = 5) -> dict[str, Any]:
    """All of it: the first seed of all tasks, then the next."""
    import torch

    torch.set_num_threads(1)
    here = provenance()  # before any result is written, which changes the checkout
    rows = measured_before("ab_initio", images=_IMAGES)
    figures: dict[str, Any] = {"images": _IMAGES, "rows": rows}
    done = {(row["map"], row["symmetry"], row["snr"], row["seed"]) for row in rows}
    for seed in range(seeds):
        for task in TASKS:
            if (*task, seed) not in done:
                named = dict(zip(("map", "symmetry", "snr"), task, strict=True))
                rows.append({**named, "seed": seed, **run(*task, seed), **here})
                write_figures("ab_initio", figures)
    return figures


def table(figures: dict[str, Any]) -> str:
    """Markdown; over seeds the median (lowest to highest)."""

    def cell(runs: list[dict[str, Any]], key: str, digits: int, over: str | None = None, scale: float = 1.0) -> str:
        return middle([scale * run[key] / (run[over] if over else 1) for run in runs if key in run], digits)

    rows = []
    for task in TASKS:
        runs = [row for row in figures["rows"] if (row["map"], row["symmetry"], row["snr"]) == task]
        if not runs:
            continue
        found = sum("refused" not in r and r["median_deg"] <= _FOUND * r["bound_median_deg"] for r in runs)
        refused = sum("refused" in r for r in runs)
        rows.append(
            [
                task[0],
                task[1],
                f"{task[2]:g}",
                f"{found} of {len(runs)}" + (f", {refused} refused" if refused else ""),
                cell(runs, "median_deg", 2),
                cell(runs, "bound_median_deg", 2),
                cell(runs, "median_deg", 2, over="bound_median_deg"),
                cell(runs, "acc_5", 1, scale=100),
                cell(runs, "resolution_A", 1),
                cell(runs, "best_resolution_A", 1),
                cell(runs, "half_maps_A", 1),
                cell(runs, "cpu_s", 0),
            ]
        )
    header = ["map", "told", "SNR", "found", "median deg", "bound", "median / bound", "% <= 5", "map to FSC 0.5, A"]
    header += ["from true poses", "half maps to 0.143, A", "CPU s"]
    note = (
        f"{figures['images']:,} images of {_SIZE} pixels, defocus 1 to 3 um, shifts of {_SHIFT:g} A; two random "
        f"starts; over seeds medians (lowest to highest); {measured_at(figures['rows'])}."
    )
    return f"{markdown_table(header, rows)}\n{note}\n"


if __name__ == "__main__":
    measure(*map(int, sys.argv[1:2]))
