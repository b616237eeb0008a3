"""How near maximum likelihood against the map comes to the physical limit, and what it costs.

    python -m cryozoo.benchmarks.studies.matching [IMAGES [SEEDS]]

Images of four maps in noise, with and without CTF, shifted by a thirtieth of the box (standard deviation). Nothing is
given but images, CTF and map: the noise is estimated from the first 256 images. Prints one table and writes it to
``results/matching.json`` and ``.md``. On one thread.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

from ...zoo.provenance import provenance
from ..runs import markdown_table, spread
from .figures import write_figures

# Name -> file, symmetry, pixel size of 64 pixels.
MAPS = {
    "70S ribosome": ("maps/clean70S_ecoli_65.mrc", "C1", 5.0),
    "beta-galactosidase": ("structures/5a1a.npz", "D2", 4.0),
    "IleRS and tRNA": ("structures/1ffy.npz", "C1", 3.0),
    "importin": ("structures/1qgk.npz", "C1", 2.5),
}
TASKS = [(snr, ctf) for snr in (0.5, 0.1, 0.05) for ctf in (False, True)]
_SIZE, _BATCH, _NOISE, _BOUND = 64, 64, 256, 256
_DEFOCUS = (10_000.0, 30_000.0)


def run(name: str, snr: float, with_ctf: bool, images: int, seed: int) -> dict[str, Any]:
    """Match the images of one task, and refine them from poses that are off by 3 degrees and a pixel; angles in deg."""
    import torch

    from ...geometry.point_groups import point_group, symmetric_distance
    from ...geometry.rotations import rotvec_to_matrix
    from ...imaging.cramer_rao import cramer_rao_bound
    from ...imaging.match import Matcher
    from ...imaging.simulate import Imaging, Simulator
    from ...imaging.volumes import load_volume

    file, symmetry, pixel = MAPS[name]
    volume, group = load_volume(file, image_size=_SIZE, pixel_size=pixel), point_group(symmetry)
    imaging = Imaging(snr=snr, shift_sigma=_SIZE * pixel / 30, defocus=_DEFOCUS if with_ctf else None)
    simulator = Simulator(volume, imaging, image_size=_SIZE, pixel_size=pixel)
    generator = torch.Generator().manual_seed(seed)
    batch = simulator(images, generator)
    rotation, shift = batch.pose.rotation, batch.pose.shift
    assert rotation is not None
    assert shift is not None
    matcher = Matcher(volume, _SIZE, pixel, group=None if len(group) == 1 else group.float())
    noise, _ = matcher.estimate_noise(batch[:_NOISE].images[:, 0], batch[:_NOISE].ctf)
    off = rotvec_to_matrix(0.05 * torch.randn(images, 3, generator=generator)) @ rotation.float()
    start = off, shift + pixel * torch.randn(images, 2, generator=generator)

    def timed(refining: bool) -> tuple[Any, Any, Any, float]:
        began = time.process_time()
        found = []
        for first in range(0, images, _BATCH):
            part = batch[first : first + _BATCH]
            poses = (start[0][first : first + _BATCH], start[1][first : first + _BATCH]) if refining else None
            found.append(matcher(part.images[:, 0], part.ctf, noise, poses))
        seconds = time.process_time() - began
        poses_found = torch.cat([f.rotation for f in found]).double()
        error = symmetric_distance(poses_found, rotation.double(), group).rad2deg()
        expected = torch.cat([f.error for f in found]).rad2deg()
        return error, expected, torch.cat([f.probability for f in found]), 1e3 * seconds / images

    error, expected, probability, cost = timed(False)
    refined, _, _, cost_of_refining = timed(True)
    few = batch[:_BOUND]
    bound = cramer_rao_bound(
        simulator.projector, rotation[:_BOUND], simulator.noise_sigma, shift=shift[:_BOUND], ctf=few.ctf
    )
    limit = bound.angles().rad2deg()
    near = error < 10
    return {
        "median_deg": float(error.median()),
        "mean_deg": float(error.mean()),
        "bound_median_deg": float(limit.median()),
        "bound_mean_deg": float(limit.mean()),
        "within_5": float((error <= 5).double().mean()),
        "within_15": float((error <= 15).double().mean()),
        "probability": float(probability.mean()),
        "expected_over_found": float((expected[near].square().mean() / error[near].square().mean()).sqrt()),
        "ms": cost,
        "refined_median_deg": float(refined.median()),
        "refined_mean_deg": float(refined.mean()),
        "refined_ms": cost_of_refining,
    }


def measure(images: int = 2000, seeds: int = 3) -> dict[str, Any]:
    """All tasks."""
    import torch

    torch.set_num_threads(1)
    rows = []
    for name in MAPS:
        for snr, ctf in TASKS:
            found = [run(name, snr, ctf, images, seed) for seed in range(seeds)]
            rows.append({"map": name, "snr": snr, "ctf": ctf, "seeds": found})
            print(table({"rows": rows[-1:], "images": images}), file=sys.stderr, flush=True)
    return {"rows": rows, "images": images, **provenance()}


def table(figures: dict[str, Any]) -> str:
    """Markdown; over seeds the mean (lowest to highest)."""

    def cell(row: dict[str, Any], key: str, digits: int = 2, over: str | None = None, scale: float = 1.0) -> str:
        return spread([scale * s[key] / (s[over] if over else 1) for s in row["seeds"]], digits)

    rows = [
        [
            row["map"],
            f"{row['snr']:g}",
            "1 to 3 um" if row["ctf"] else "none",
            cell(row, "median_deg"),
            f"{statistics.mean(s['bound_median_deg'] for s in row['seeds']):.2f}",
            cell(row, "median_deg", over="bound_median_deg"),
            cell(row, "mean_deg", over="bound_mean_deg"),
            cell(row, "within_5", 1, scale=100),
            cell(row, "within_15", 1, scale=100),
            cell(row, "probability", 3),
            cell(row, "expected_over_found"),
            cell(row, "ms", 1),
            cell(row, "refined_median_deg", over="bound_median_deg"),
            cell(row, "refined_ms", 1),
        ]
        for row in figures["rows"]
    ]
    header = ["map", "SNR", "CTF", "median deg", "bound", "median / bound", "mean / bound", "% <= 5", "% <= 15"]
    header += ["mean probability", "error, expected / found", "ms", "refined: median / bound", "ms refined"]
    return markdown_table(header, rows) + (
        f"\n{figures['images']:,} images of {_SIZE} pixels for each seed. Expected / found: root mean square of the "
        "expected angular errors over that of those found, of images within 10 degrees. ms: CPU time of an image.\n"
    )


def main() -> None:
    """Measure, print, write."""
    write_figures("matching", measure(*map(int, sys.argv[1:])))


if __name__ == "__main__":
    main()
