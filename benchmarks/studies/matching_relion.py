"""Poses of RELION's own projections against their map: ``match`` and ``refine`` beside RELION's searches.

    python -m cryozoo.benchmarks.studies.matching_relion [IMAGES [SNR]]

Needs RELION. The 70S map is projected by ``relion_project --ctf`` with shifts, white noise is added, the images are
normalised as RELION wants them, and all start from the same poses, off by 3 degrees about each axis and by 4 Angstrom.
RELION's local search has three iterations at HEALPix order 4 and one at order 5, its search of all orientations one, at
orders 2 and 3, which its oversampling makes half as coarse; shifts are sought around the given ones. All sides are
whole commands on one thread. Prints one table and writes it to ``results/matching_relion.json`` and ``.md``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from ...zoo.provenance import provenance
from ..runs import markdown_table
from .figures import write_figures
from .timing import run_command

_SIZE, _PIXEL = 64, 5.0
_SEARCH = (
    "relion_refine --i rough.star --ref map.mrc --firstiter_cc --ini_high 12 --ctf --tau2_fudge 4 --flatten_solvent "
    "--zero_mask --particle_diameter 300 --oversampling 1 --offset_range 6 --norm --scale --K 1 --pad 2 "
    f"--angpix {_PIXEL} --dont_check_norm --j 1"
)
_COMMANDS = {
    "cryozoo refine": "cryozoo refine rough.star --map map.mrc -o refined.star",
    "cryozoo match": "cryozoo match rough.star --map map.mrc -o matched.star",
    "RELION, local, order 4": f"{_SEARCH} --sigma_ang 3 --healpix_order 4 --offset_step 2 --iter 3 --o order4/r",
    "RELION, local, order 5": f"{_SEARCH} --sigma_ang 3 --healpix_order 5 --offset_step 1 --iter 1 --o order5/r",
    "RELION, all, order 2": f"{_SEARCH} --healpix_order 2 --offset_step 2 --iter 1 --o order2/r",
    "RELION, all, order 3": f"{_SEARCH} --healpix_order 3 --offset_step 2 --iter 1 --o order3/r",
}
_OUTPUTS = ("refined.star", "matched.star", "order4/r_it003_data.star") + tuple(
    f"order{order}/r_it001_data.star" for order in (5, 2, 3)
)


def prepare(folder: Path, images: int, snr: float) -> float:
    """Write map.mrc, truth.star, rough.star and their images; the bound's median in degrees."""
    import torch

    from ...geometry.rotations import rotvec_to_matrix
    from ...imaging.fourier import crop_or_zero_pad
    from ...imaging.volumes import Volume, load_volume
    from ...particles.relion import new_star
    from ...particles.table import ParticleTable
    from .relion_images import project_by_relion

    file = load_volume("maps/clean70S_ecoli_65.mrc", image_size=_SIZE, pixel_size=None)
    generator = torch.Generator().manual_seed(0)
    volume = Volume(crop_or_zero_pad(file.data, _SIZE), file.pixel_size)
    table, bound = project_by_relion(folder, volume, images, snr, generator)
    assert table.rotation is not None
    assert table.shift is not None
    turned = rotvec_to_matrix(0.0524 * torch.randn(images, 3, generator=generator)).double().numpy() @ table.rotation
    moved = table.shift + 4 * torch.randn(images, 2, generator=generator).double().numpy()
    new_star(ParticleTable(**{**vars(table), "rotation": turned, "shift": moved})).write(folder / "rough.star")
    return bound


def measure(images: int = 200, snr: float = 0.1) -> dict[str, Any]:
    """Errors of all sides, and CPU milliseconds of an image, the start of the program included."""
    import numpy as np

    from ...particles.poses import PoseTable
    from ...particles.row_matching import matched_poses

    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for output in _OUTPUTS:
            (folder / output).parent.mkdir(exist_ok=True)
        bound = prepare(folder, images, snr)
        truth = PoseTable.load(folder / "truth.star")
        costs = {side: run_command(command, folder).cpu_s for side, command in _COMMANDS.items()}
        for side, file in zip(["start", *costs], ["rough.star", *_OUTPUTS], strict=True):
            poses = PoseTable.load(folder / file, pixel_size=_PIXEL)
            true = matched_poses(truth, poses.particles, len(poses), file).poses
            trace = np.einsum("nij,nij->n", true.rotation, poses.rotation)
            error = np.rad2deg(np.arccos(np.clip((trace - 1) / 2, -1, 1)))
            rows.append(
                {
                    "side": side,
                    "median_deg": float(np.median(error)),
                    "mean_deg": float(error.mean()),
                    "within_5": float((error <= 5).mean()),
                    "shift_rmse_A": float(np.sqrt(np.square(true.shift - poses.shift).mean())),
                    "ms": 1e3 * costs.get(side, 0.0) / images,
                }
            )
    return {"rows": rows, "bound_median_deg": bound, "images": images, "snr": snr, "seed": 0, **provenance()}


def table(figures: dict[str, Any]) -> str:
    """Markdown."""
    keys = (("median_deg", "{:.2f}"), ("mean_deg", "{:.2f}"), ("within_5", "{:.1%}"), ("shift_rmse_A", "{:.2f}"))
    rows = [
        [row["side"], *(shown.format(row[key]) for key, shown in keys), f"{row['ms']:.0f}" if row["ms"] else "-"]
        for row in figures["rows"]
    ]
    header = ["poses", "median deg", "mean deg", "within 5 deg", "shift A", "CPU ms an image"]
    return markdown_table(header, rows) + (
        f"\n{figures['images']} images at SNR {figures['snr']:g}, defocus 1 to 3 um; the bound's median is "
        f"{figures['bound_median_deg']:.2f} degrees. Commit {figures['commit']}; {figures['hardware']}.\n"
    )


def main() -> None:
    """Measure, print, write."""
    arguments = sys.argv[1:]
    write_figures("matching_relion", measure(*map(int, arguments[:1]), *map(float, arguments[1:])))


if __name__ == "__main__":
    main()
