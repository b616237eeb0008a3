"""How near maximum likelihood against the map comes to the physical limit, and what it costs.

    python -m cryozoo.benchmarks.studies.matching [IMAGES [SEEDS]]

Images of four maps in noise, with and without CTF, shifted by a thirtieth of the box (standard deviation). Nothing is
given but images, CTF and map: the noise is estimated from the first 256 images. Also counted: how often the best mode
is that of the true pose, for what its probability says, and how large errors are, for what is expected. Prints tables
and writes them to ``results/matching.json`` and ``.md``. On one thread.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

from ...zoo.provenance import provenance
from ..runs import markdown_table, spread
from .figures import measured_at, measured_before, write_figures

if TYPE_CHECKING:
    from torch import Tensor

# Name -> file, symmetry, pixel size of 64 pixels.
MAPS = {
    "70S ribosome": ("maps/clean70S_ecoli_65.mrc", "C1", 5.0),
    "beta-galactosidase": ("structures/5a1a.npz", "D2", 4.0),
    "IleRS and tRNA": ("structures/1ffy.npz", "C1", 3.0),
    "importin": ("structures/1qgk.npz", "C1", 2.5),
}
TASKS = [(name, snr, ctf) for ctf in (True, False) for name in MAPS for snr in (0.5, 0.1, 0.05)]
_SIZE, _BATCH, _NOISE, _BOUND = 64, 64, 256, 256
DEFOCUS = (10_000.0, 30_000.0)
_PROBABILITIES = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.01)
_ERRORS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0, 20.0, 180.1)  # degrees
_ONE_MODE = 2.0  # degrees between poses that belong to it


def run(name: str, snr: float, with_ctf: bool, images: int, seed: int) -> dict[str, Any]:
    """Match the images of one task, and refine them from poses that are off by 3 degrees and a pixel; angles in deg."""
    import torch

    from ...geometry.point_groups import point_group, symmetric_distance
    from ...geometry.rotations import rotvec_to_matrix
    from ...imaging.cramer_rao import cramer_rao_bound
    from ...imaging.match import Matcher
    from ...imaging.pose_posterior import Matches
    from ...imaging.simulate import Imaging, Simulator
    from ...imaging.volumes import load_volume

    file, symmetry, pixel = MAPS[name]
    volume, group = load_volume(file, image_size=_SIZE, pixel_size=pixel), point_group(symmetry)
    imaging = Imaging(snr=snr, shift_sigma=_SIZE * pixel / 30, defocus=DEFOCUS if with_ctf else None)
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

    def timed(start: tuple[Tensor, Tensor] | None) -> tuple[Matches, float]:
        began = time.process_time()
        found = []
        for first in range(0, images, _BATCH):
            rows = slice(first, first + _BATCH)
            poses = None if start is None else (start[0][rows], start[1][rows])
            found.append(matcher(batch[rows].images[:, 0], batch[rows].ctf, noise, poses))
        seconds = time.process_time() - began
        joined = {name: torch.cat([getattr(f, name) for f in found]) for name in vars(found[0])}
        return Matches(**joined), 1e3 * seconds / images

    def apart(a: Tensor, b: Tensor) -> Tensor:
        return symmetric_distance(a.double(), b.double(), group).rad2deg()

    found, cost = timed(None)
    refined_table, cost_of_refining = timed(start)
    best, _ = timed((rotation, shift))  # the mode of the true pose: no search can find a nearer one
    error, refined = apart(found.rotation, rotation), apart(refined_table.rotation, rotation)
    expected, probability = found.error.double().rad2deg(), found.probability.double()
    right = apart(found.rotation, best.rotation) < _ONE_MODE
    few = batch[:_BOUND]
    bound = cramer_rao_bound(
        simulator.projector, rotation[:_BOUND], simulator.noise_sigma, shift=shift[:_BOUND], ctf=few.ctf
    )
    limit = bound.angles().rad2deg()
    of_truth = apart(best.rotation, rotation)
    return {
        "median_deg": float(error.median()),
        "mean_deg": float(error.mean()),
        "bound_median_deg": float(limit.median()),
        "bound_mean_deg": float(limit.mean()),
        "within_5": float((error <= 5).double().mean()),
        "within_15": float((error <= 15).double().mean()),
        "of_truth_median_deg": float(of_truth.median()),
        "of_truth_mean_deg": float(of_truth.mean()),
        "probabilities": _binned(probability, right.double(), probability, _PROBABILITIES),
        "errors": _binned(expected, error.square(), expected.square(), _ERRORS),
        "ms": cost,
        "refined_median_deg": float(refined.median()),
        "refined_mean_deg": float(refined.mean()),
        "refined_ms": cost_of_refining,
    }


def _binned(values: Tensor, found: Tensor, expected: Tensor, edges: tuple[float, ...]) -> list[list[float]]:
    """For values between neighbouring edges: how many, and the sums of what was found and expected there."""
    import torch

    place = torch.bucketize(values, torch.tensor(edges[1:-1], dtype=values.dtype), right=True)
    sums = [torch.bincount(place, w, minlength=len(edges) - 1) for w in (torch.ones_like(values), found, expected)]
    return torch.stack(sums, 1).tolist()


def measure(images: int = 2000, seeds: int = 3) -> dict[str, Any]:
    """All tasks, in hours; each is written when it is done, and those that are there are not measured again."""
    import torch

    torch.set_num_threads(1)
    here = provenance()  # before any result is written, which changes the checkout
    rows = [row for row in measured_before("matching", images=images) if len(row["seeds"]) == seeds]
    figures: dict[str, Any] = {"rows": rows, "images": images}
    done = {(row["map"], row["snr"], row["ctf"]) for row in rows}
    for name, snr, ctf in TASKS:
        if (name, snr, ctf) not in done:
            found = [run(name, snr, ctf, images, seed) for seed in range(seeds)]
            rows.append({"map": name, "snr": snr, "ctf": ctf, "seeds": found, **here})
            write_figures("matching", figures)
    return figures


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
            cell(row, "of_truth_mean_deg", over="bound_mean_deg"),
            cell(row, "within_5", 1, scale=100),
            cell(row, "within_15", 1, scale=100),
            cell(row, "ms", 1),
            cell(row, "refined_median_deg", over="bound_median_deg"),
            cell(row, "refined_ms", 1),
        ]
        for row in sorted(figures["rows"], key=lambda row: TASKS.index((row["map"], row["snr"], row["ctf"])))
    ]
    header = ["map", "SNR", "CTF", "median deg", "bound", "median / bound", "mean / bound", "mean of the true mode"]
    header += ["% <= 5", "% <= 15", "ms", "refined: median / bound", "ms refined"]
    return markdown_table(header, rows) + (
        f"\n{figures['images']:,} images of {_SIZE} pixels for each seed. Mean of the true mode: of the poses that are "
        "reached from the true ones, over the bound; no search can do better. ms: CPU time of an image; "
        f"{measured_at(figures['rows'])}.\n"
        f"\n{_calibration(figures['rows'])}"
    )


def _calibration(rows: list[dict[str, Any]]) -> str:
    """Of all tasks together, and of those at an SNR of at least 0.1: what was expected beside what was found."""
    lines, gaps = [], []
    for least in (0.1, 0.0):
        seeds = [s for row in rows if row["snr"] >= least for s in row["seeds"]]
        if not seeds:
            continue
        counts = [
            [sum(c) for c in zip(*bins, strict=True)] for bins in zip(*(s["probabilities"] for s in seeds), strict=True)
        ]
        total = sum(n for n, _, _ in counts)
        gap = sum(abs(found - expected) for _, found, expected in counts) / total
        gaps.append(f"{gap:.3f}" + (f" at SNR >= {least:g}" if least else " of all"))
    for name, edges, root in (("probability of the mode", _PROBABILITIES, 1.0), ("error in degrees", _ERRORS, 0.5)):
        key = "probabilities" if root == 1 else "errors"
        bins = zip(*(s[key] for row in rows for s in row["seeds"]), strict=True)
        for low, high, cells in zip(edges, edges[1:], bins, strict=False):
            n, found, expected = (sum(c) for c in zip(*cells, strict=True))
            if n:
                shown = [(value / n) ** root for value in (expected, found)]
                ratio = f"{shown[0] / shown[1]:.2f}" if shown[1] else "-"
                lines.append(
                    [f"{name}, {low:g} to {min(high, 180 if root < 1 else 1):g}", f"{n:,.0f}"]
                    + [f"{v:.2f}" for v in shown]
                    + [ratio]
                )
    header = ["said of an image", "images", "expected", "found", "expected / found"]
    return markdown_table(header, lines) + (
        "\nOf probabilities, the mean and the share of images whose best mode is that of the true pose; of errors, "
        f"root mean squares. Expected calibration error of the probabilities: {', '.join(gaps)}.\n"
    )


def main() -> None:
    """Measure, print, write."""
    write_figures("matching", measure(*map(int, sys.argv[1:])))


if __name__ == "__main__":
    main()
