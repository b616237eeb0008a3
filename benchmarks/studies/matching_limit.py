"""Why matching ends above the Cramer-Rao bound in strong noise: what the best of all estimates would reach.

    python -m cryozoo.benchmarks.studies.matching_limit [IMAGES [POSES]]

An image tells of its pose no more than the posterior. Of all estimates that know nothing of shifts and amplitude
beforehand, the median of the posterior has the least mean error, and the posterior itself says how large that is. Here
it stands as poses drawn around the modes that were found, weighed by their likelihood with the true map, CTF and noise.
Where it says as much as was found, and the estimate too stays above the bound, nobody reaches the bound; where it says
less, modes were missed. Prints one table and writes it to ``results/matching_limit.json`` and ``.md``. On one thread.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ...zoo.provenance import provenance
from ..runs import markdown_table
from .figures import measured_at, measured_before, write_figures
from .matching import MAPS
from .matching_noise import KINDS, NAMES, task

if TYPE_CHECKING:
    from torch import Tensor

    from ...imaging.pose_posterior import Drawn

TASKS = [(name, "white", ctf) for ctf in (True, False) for name in MAPS]
TASKS += [(name, kind, True) for name in NAMES for kind in KINDS[1:]]
_BATCH = 16
_ROUNDS = 50


def median_pose(drawn: Drawn) -> tuple[Tensor, Tensor]:
    """The rotations (B, 3, 3) from which poses are the least angle away on average, and this angle (B,), in radian.

    Weiszfeld's steps from the most probable mode, in the plane that touches the rotations there.
    """
    import torch

    from ...geometry.rotations import rotvec_to_matrix

    mode = drawn.probability.argmax(1)
    turn = drawn.turn[torch.arange(len(mode)), :, mode]
    centre = torch.zeros_like(turn[:, 0])
    for _ in range(_ROUNDS):
        weight = drawn.weight / (turn - centre[:, None]).norm(dim=-1).clamp_min(1e-5)
        centre = (weight[..., None] * turn).sum(1) / weight.sum(1, keepdim=True)
    expected = (drawn.weight * (turn - centre[:, None]).norm(dim=-1)).sum(1)
    # A mode is where one of its poses is, less the turn from the mode to there.
    first = rotvec_to_matrix(turn[:, 0]).mT @ drawn.rotation[:, 0]
    return rotvec_to_matrix(centre) @ first, expected


def run(name: str, kind: str, with_ctf: bool, images: int, poses: int) -> dict[str, Any]:
    """One task; angles in degrees."""
    import torch

    of = task(name, kind, images, 0, with_ctf=with_ctf)
    matched = of.apart(of.matcher(of.images, of.ctf, of.noise).rotation)
    best = []
    for first in range(0, images, _BATCH):
        rows = slice(first, first + _BATCH)
        drawn = of.matcher.posterior(of.images[rows], of.ctf and of.ctf[rows], of.noise, poses)
        best.append(median_pose(drawn))
    error = of.apart(torch.cat([rotation for rotation, _ in best]))
    expected = torch.cat([angle for _, angle in best]).rad2deg()
    return {
        "map": name,
        "noise": kind,
        "ctf": with_ctf,
        "bound_median_deg": float(of.limit.median()),
        "bound_mean_deg": float(of.limit.mean()),
        "matched_median_deg": float(matched.median()),
        "matched_mean_deg": float(matched.mean()),
        "best_median_deg": float(error.median()),
        "best_mean_deg": float(error.mean()),
        "expected_mean_deg": float(expected.mean()),
        "standard_error_deg": float((error - expected).std() / images**0.5),
    }


def measure(images: int = 500, poses: int = 128) -> dict[str, Any]:
    """All tasks."""
    import torch

    torch.set_num_threads(1)
    here = provenance()  # before any result is written, which changes the checkout
    rows = measured_before("matching_limit", images=images, poses=poses)
    figures: dict[str, Any] = {"rows": rows, "images": images, "poses": poses}
    done = {(row["map"], row["noise"], row["ctf"]) for row in rows}
    for of in TASKS:
        if of not in done:
            rows.append({**run(*of, images, poses), **here})
            write_figures("matching_limit", figures)
    return figures


def table(figures: dict[str, Any]) -> str:
    """Markdown."""
    rows = [
        [
            f"{row['map']}, {row['noise']}" + ("" if row["ctf"] else ", no CTF"),
            f"{row['bound_mean_deg']:.2f}",
            f"{row['matched_median_deg'] / row['bound_median_deg']:.2f}",
            f"{row['best_median_deg'] / row['bound_median_deg']:.2f}",
            f"{row['matched_mean_deg'] / row['bound_mean_deg']:.2f}",
            f"{row['best_mean_deg'] / row['bound_mean_deg']:.2f}",
            f"{row['expected_mean_deg'] / row['bound_mean_deg']:.2f} "
            f"+- {row['standard_error_deg'] / row['bound_mean_deg']:.2f}",
        ]
        for row in figures["rows"]
    ]
    header = ["map, noise", "bound (mean), deg", "median / bound: match", "posterior's median"]
    header += ["mean / bound: match", "posterior's median", "said by the posterior"]
    return markdown_table(header, rows) + (
        f"\n{figures['images']:,} images of 64 pixels at SNR 0.1, defocus 1 to 3 um, seed 0; {figures['poses']} poses "
        f"around each mode; {measured_at(figures['rows'])}.\n"
    )


def main() -> None:
    """Measure, print, write."""
    write_figures("matching_limit", measure(*map(int, sys.argv[1:])))


if __name__ == "__main__":
    main()
