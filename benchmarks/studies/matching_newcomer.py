"""The whole way of a newcomer: a map and particles in, a trained encoder and refined poses out, by commands alone.

    python -m cryozoo.benchmarks.studies.matching_newcomer [PARTICLES]

Of three maps, particles are simulated: half of them for the recipe to be like, half to be posed. ``train --map`` makes
a recipe and trains by it; ``predict`` and ``predict --refine`` use its encoder, the latter also that of its first
validation; ``match`` needs none. All are whole commands on one thread, timed in CPU seconds. Prints one table and
writes it to ``results/matching_newcomer.json`` and ``.md``.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from ...zoo.provenance import provenance
from ..runs import markdown_table
from .figures import measured_at, measured_before, write_figures
from .timing import run_command

# Name -> file, symmetry, pixels, Angstrom per pixel, SNR, defocus.
_TASKS: dict[str, tuple[str, str, int, float, float, tuple[float, float] | None]] = {
    "70S ribosome": ("maps/clean70S_ecoli_65.mrc", "C1", 64, 5.0, 0.5, None),
    "beta-galactosidase": ("structures/5a1a.npz", "D2", 96, 2.7, 0.1, (10_000.0, 30_000.0)),
    "IleRS and tRNA": ("structures/1ffy.npz", "C1", 80, 2.4, 0.2, (10_000.0, 30_000.0)),
}
_BOUND = 256


def _prepare(folder: Path, task: str, particles: int) -> tuple[str, float]:
    """Write like.star and particles.star with their images; the map's path, and the bound's median in degrees."""
    import torch

    from ...imaging.cramer_rao import cramer_rao_bound
    from ...imaging.simulate import Imaging, Simulator
    from ...imaging.simulate_files import write_simulated_stack
    from ...imaging.volumes import load_volume
    from ...particles.files import find_data

    file, _, size, pixel, snr, defocus = _TASKS[task]
    volume = load_volume(file, image_size=size, pixel_size=pixel)
    # A share of the box, as particles are picked.
    imaging = Imaging(snr=snr, shift_sigma=size * pixel / 40, defocus=defocus, astigmatism=300.0 if defocus else 0.0)
    simulator = Simulator(volume, imaging, image_size=size, pixel_size=pixel)
    for seed, name in enumerate(("like", "particles")):
        write_simulated_stack(folder / f"{name}.mrcs", simulator, particles, seed=seed)
    few = simulator(_BOUND, torch.Generator().manual_seed(2))
    assert few.pose.rotation is not None
    bound = cramer_rao_bound(
        simulator.projector, few.pose.rotation, simulator.noise_sigma, shift=few.pose.shift, ctf=few.ctf
    )
    return str(find_data(file)), float(bound.angles().rad2deg().median())


class _First:
    """Copies the first encoder that a training writes, and remembers what it had cost until then.

    Attributes:
        cpu_s: seconds of the processor; None before there is one.
    """

    def __init__(self, model: Path) -> None:
        self._model = model
        self.cpu_s: float | None = None

    def __call__(self, process: int) -> None:
        if self.cpu_s is None and (self._model / "model.safetensors").exists():
            user, system = map(int, Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[11:13])
            self.cpu_s = (user + system) / os.sysconf("SC_CLK_TCK")
            shutil.copytree(self._model, self._model.with_name("first"))


def run(task: str, particles: int, steps: int | None = None) -> dict[str, Any]:
    """One map; of ``steps`` where not of as many as the recipe says."""
    import json

    import torch

    from ...geometry.point_groups import point_group, symmetric_distance
    from ...particles.poses import PoseTable

    symmetry = _TASKS[task][1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        map_name, bound = _prepare(folder, task, particles)
        map_name = shlex.quote(map_name)
        words = f"cryozoo train --map {map_name} --particles like.star --symmetry {symmetry} --out run"
        words += "" if steps is None else f" --set steps={steps} --set validate_every={steps // 2}"
        first = _First(folder / "run" / "model")
        trained = run_command(words, folder, watch=first).cpu_s
        recipe = json.loads((folder / "run" / "recipe.json").read_text())
        recipe["data"]["volume"] = _TASKS[task][0]
        row: dict[str, Any] = {"map": task, "bound_median_deg": bound, "train_s": trained, "first_s": first.cpu_s}
        row |= {"steps": recipe["steps"], "pixels": recipe["image_size"], "recipe": recipe}
        truth = torch.from_numpy(PoseTable.load(folder / "particles.star").rotation)
        predict = "cryozoo predict particles.star --encoder"
        sides = {
            "predict": f"{predict} run/model",
            "refined": f"{predict} run/model --refine {map_name}",
            "first_refined": f"{predict} run/first --refine {map_name}",
            "matched": f"cryozoo match particles.star --map {map_name} --symmetry {symmetry}",
        }
        for side, words in sides.items():
            seconds = run_command(f"{words} -o {side}.star", folder).cpu_s
            found = torch.from_numpy(PoseTable.load(folder / f"{side}.star").rotation)
            error = symmetric_distance(found, truth, point_group(symmetry)).rad2deg()
            row[side] = {
                "s": seconds,
                "median_deg": float(error.median()),
                "mean_deg": float(error.mean()),
                "within_5": float((error <= 5).double().mean()),
            }
    return row


def measure(particles: int = 1000) -> dict[str, Any]:
    """All maps, each a quarter of an hour; it is written when it is done, and what is there is not measured again."""
    here = {**provenance(), "threads": 1}  # before any result is written, which changes the checkout
    rows = measured_before("matching_newcomer", particles=particles)
    figures: dict[str, Any] = {"rows": rows, "particles": particles, "seed": 0}
    for task in _TASKS:
        if task not in {row["map"] for row in rows}:
            rows.append({**run(task, particles), **here})
            write_figures("matching_newcomer", figures)
    return figures


def table(figures: dict[str, Any]) -> str:
    """Markdown: medians in degrees with the share within 5 degrees, and CPU seconds."""
    rows = []
    for row in figures["rows"]:
        sides = [row[side] for side in ("predict", "first_refined", "refined", "matched")]
        _, _, size, _, snr, defocus = _TASKS[row["map"]]
        rows.append(
            [
                f"{row['map']}, {size} pixels, SNR {snr:g}, {'CTF' if defocus else 'no CTF'}",
                f"{row['bound_median_deg']:.2f}",
                f"{row['first_s'] / 60:.1f}",
                f"{row['train_s'] / 60:.1f}",
                *(f"{side['median_deg']:.2f}, {100 * side['within_5']:.1f}" for side in sides),
                *(f"{side['s']:.0f}" for side in sides if side is not row["first_refined"]),
            ]
        )
    header = ["particles", "bound deg", "minutes to the first encoder", "minutes in all", "predict: deg, % <= 5"]
    header += ["first encoder, refined", "predict --refine", "match", "s: predict", "predict --refine", "match"]
    return markdown_table(header, rows) + (
        f"\n{figures['particles']:,} particles that the recipe was made like, and as many that were posed, all new to "
        "the training, whose images are simulated. Minutes and seconds of the CPU, with the start of the programs; "
        f"{measured_at(figures['rows'])}.\n"
    )


def main() -> None:
    """Measure, print, write."""
    write_figures("matching_newcomer", measure(*map(int, sys.argv[1:])))


if __name__ == "__main__":
    main()
