"""Poses and a map from images alone, by this and by other programs, of the same images on one thread.

    python -m cryozoo.benchmarks.studies.ab_initio_others [aspire=PYTHON] [cryodrgn=PROGRAM] [cryoai=CHECKOUT]

10,000 images of the 70S ribosome as in the study ``ab_initio``, at SNR 0.1 with CTF and shifts. RELION is taken where
it is installed; PYTHON is one that has ASPIRE, PROGRAM the ``cryodrgn`` of an environment, CHECKOUT one of
github.com/compSPI/cryoAI. All have their published settings, are told of nothing but the images, their CTF and the
molecule's diameter where they ask for it, and are stopped after half an hour, with what they have until then. ASPIRE
finds the poses of class averages, whose truth is that of the image in their middle.

Sides that were measured are not measured again. Prints a table and writes it to ``results/ab_initio_others.json`` and
``.md``.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...zoo.provenance import provenance
from ..runs import markdown_table
from .ab_initio import against, images_of
from .figures import measured_at, measured_before, write_figures
from .timing import Cost, run_command

if TYPE_CHECKING:
    from ...imaging.volumes import Volume
    from ...particles.poses import PoseTable

_TASK, _IMAGES, _LIMIT = ("70S ribosome", 0.1), 10_000, 1800.0
# What the interface of RELION 3.1 makes of "3D initial model", without a GPU.
_SGD = (
    "relion_refine --o relion/run --i blind.star --sgd --denovo_3dref --ctf --K 1 --sym C1 --flatten_solvent "
    "--zero_mask --sgd_ini_iter 50 --sgd_inbetween_iter 200 --sgd_fin_iter 50 --sgd_write_iter 10 "
    "--sgd_ini_resol 35 --sgd_fin_resol 15 --sgd_ini_subset 100 --sgd_fin_subset 500 --dont_combine_weights_via_disc "
    "--preread_images --pool 3 --pad 1 --particle_diameter 300 --oversampling 1 "
    "--healpix_order 1 --offset_range 6 --offset_step 2 --j 1"
)
_CLASS_AVERAGES, _NEIGHBOURS, _JUDGED = 200, 50, 512
_COMMON_LINES = f"""
import mrcfile
import numpy
from aspire.abinitio import CLSync3N
from aspire.denoising import LegacyClassAvgSource
from aspire.reconstruction import MeanEstimator
from aspire.source import OrientedSource, RelionSource

images = RelionSource("blind.star", data_folder=".").phase_flip().cache()
images = images.legacy_normalize_background().cache().legacy_whiten().cache()
averages = LegacyClassAvgSource(images, n_nbor={_NEIGHBOURS})
chosen = averages[:{_CLASS_AVERAGES}].cache()
oriented = OrientedSource(chosen, CLSync3N(chosen))
middle = averages.class_indices[averages.selection_indices[:{_CLASS_AVERAGES}], 0]
numpy.savez("aspire.npz", rotation=oriented.rotations.transpose(0, 2, 1), row=middle)
volume = MeanEstimator(oriented).estimate().asnumpy()[0]
mrcfile.write("aspire.mrc", volume.astype("float32"), voxel_size=images.pixel_size, overwrite=True)
"""


def prepare(folder: Path, images: int) -> tuple[Volume, PoseTable]:
    """Write particles.mrcs and blind.star, where all poses are the same; returns the true map and poses."""
    from ...imaging.simulate_files import write_simulated_stack
    from ...particles.poses import PoseTable
    from ...particles.relion import new_star

    volume, simulator = images_of(*_TASK)
    write_simulated_stack(folder / "particles.mrcs", simulator, images, seed=0)
    truth = PoseTable.load(folder / "particles.star")
    assert truth.particles is not None
    same = np.broadcast_to(np.eye(3), truth.rotation.shape)
    new_star(replace(truth.particles, rotation=same, shift=0 * truth.shift)).write(folder / "blind.star")
    return volume, truth


def ours(folder: Path, limit: float) -> dict[str, Any]:
    """``cryozoo abinitio``."""
    cost = run_command("cryozoo abinitio blind.star -o ours --no-progress", folder, limit=limit)
    return {**_of(cost), "map": "ours/map.mrc", "poses": "ours/poses.star"}


def relion(folder: Path, limit: float) -> dict[str, Any]:
    """RELION's initial model."""
    (folder / "relion").mkdir()
    cost = run_command(_SGD, folder, limit=limit)
    last = max(folder.glob("relion/run_it*_data.star"), default=None)
    files = {} if last is None else {"map": f"relion/{last.name[:-10]}_class001.mrc", "poses": f"relion/{last.name}"}
    return {**_of(cost), **files}


def cryodrgn(folder: Path, limit: float, where: str) -> dict[str, Any]:
    """cryoDRGN's ``abinit`` of one conformation."""
    run_command(f"{where} parse_ctf_star blind.star -o ctf.pkl", folder)
    words = f"{where} abinit particles.mrcs --ctf ctf.pkl -o drgn --zdim 0 --seed 0 --checkpoint 1"
    cost = run_command(f"{words} --max-threads 1 --num-workers 0", folder, limit=limit)
    epochs = sorted(int(path.suffixes[0][1:]) for path in folder.glob("drgn/pose.*.pkl"))
    # Epoch 0 has random poses.
    files = {"map": f"drgn/reconstruct.{epochs[-1]}.mrc", "poses": f"drgn/pose.{epochs[-1]}.pkl"} if epochs[1:] else {}
    return {**_of(cost), **files}


def aspire(folder: Path, limit: float, where: str) -> dict[str, Any]:
    """ASPIRE's class averages, their orientations by common lines, and the map of them."""
    (folder / "lines.py").write_text(_COMMON_LINES)
    cost = run_command(f"{where} lines.py", folder, limit=limit)
    return {**_of(cost), "map": "aspire.mrc", "poses": "aspire.npz"}


def cryoai(folder: Path, limit: float, where: str) -> dict[str, Any]:
    """The training of cryoAI, a loop here around the step that it takes."""
    import torch

    from ...particles.stack import ParticleStack
    from .cryoai_step import BATCH, batch_of, published

    stack = ParticleStack.open(folder / "blind.star")
    ctf = stack.table.ctf
    assert ctf is not None
    everything = torch.from_numpy(stack.images(np.arange(len(stack)))).float()[:, None]
    everything = (everything - everything.mean()) / everything.std()
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model, step = published(where)
    began, steps = time.process_time(), 0
    while time.process_time() - began < limit:
        rows = torch.randint(len(stack), (BATCH,), generator=generator)
        step(batch_of(everything[rows], ctf[rows]))
        steps += 1
    seconds = time.process_time() - began
    model.eval()
    rotations = []
    with torch.no_grad():
        for rows in torch.arange(_JUDGED).split(BATCH):
            rotations.append(model(batch_of(everything[rows], ctf[rows]))["rotmat"][: len(rows)])
    np.savez(folder / "cryoai.npz", rotation=torch.cat(rotations).double().numpy(), row=np.arange(_JUDGED))
    return {"cpu_s": seconds, "whole": False, "steps": steps, "poses": "cryoai.npz"}


def _of(cost: Cost) -> dict[str, Any]:
    return {"cpu_s": cost.cpu_s, "whole": cost.whole}


def judged(folder: Path, found: dict[str, Any], volume: Volume, truth: PoseTable) -> dict[str, Any]:
    """How far poses and map, where there are any, are from the true ones, in the frame and hand that fit best."""
    import torch

    from ...imaging.volumes import Volume, load_volume
    from ...particles.poses import PoseTable
    from ...particles.row_matching import matched_poses
    from ...zoo.evaluate import aligned_metrics

    size, pixel = volume.size, volume.pixel_size
    figures: dict[str, Any] = {key: value for key, value in found.items() if key not in ("map", "poses")}
    path = folder / found.get("poses", "none")
    if path.exists():
        if path.suffix == ".npz":
            with np.load(path) as file:
                rotation, true = file["rotation"], truth.rotation[file["row"]]
        else:
            poses = PoseTable.load(path, image_size=size, pixel_size=pixel)
            rotation = poses.rotation
            true = matched_poses(truth, poses.particles, len(poses), path).poses.rotation
        metrics = aligned_metrics(torch.from_numpy(rotation).double(), torch.from_numpy(true))
        figures |= {"n": len(rotation), **{key: metrics[key] for key in ("median_deg", "acc_5", "acc_15")}}
    if (path := folder / found.get("map", "none")).exists():
        made = load_volume(str(path), image_size=size, pixel_size=pixel)
        # cryoDRGN and ASPIRE count the CTF's sign the other way round.
        figures["resolution_A"] = min(against(Volume(sign * made.data, made.pixel_size), volume) for sign in (1, -1))
    return figures


def measure(installed: dict[str, str], images: int = _IMAGES, limit: float = _LIMIT) -> dict[str, Any]:
    """All sides that are there."""
    import torch

    torch.set_num_threads(1)
    here = provenance()  # before any result is written, which changes the checkout
    sides: dict[str, Callable[[Path, float], dict[str, Any]]] = {"cryozoo abinitio": ours}
    if shutil.which("relion_refine"):
        sides["RELION, gradient descent"] = relion
    for name, installable, title in (
        ("cryodrgn", cryodrgn, "cryoDRGN abinit (DRGN-AI)"),
        ("aspire", aspire, "ASPIRE, common lines of class averages"),
        ("cryoai", cryoai, "cryoAI"),
    ):
        if name in installed:
            sides[title] = partial(installable, where=installed[name])
    rows = measured_before("ab_initio_others", images=images, limit_s=limit)
    figures: dict[str, Any] = {"images": images, "limit_s": limit, "rows": rows}
    done = {row["side"] for row in rows}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        volume, truth = prepare(folder, images)
        for title, side in sides.items():
            if title not in done:
                rows.append({"side": title, **judged(folder, side(folder, limit), volume, truth), **here})
                write_figures("ab_initio_others", figures)
    return figures


def table(figures: dict[str, Any]) -> str:
    """Markdown."""
    keys = (
        ("median_deg", 1.0, 1),
        ("acc_5", 100.0, 1),
        ("acc_15", 100.0, 1),
        ("resolution_A", 1.0, 1),
        ("cpu_s", 1.0, 0),
    )
    rows = [
        [
            row["side"],
            "no" if row["whole"] else "yes",
            f"{row['n']:,}" if "n" in row else "-",
            *(f"{scale * row[key]:.{digits}f}" if key in row else "-" for key, scale, digits in keys),
        ]
        for row in figures["rows"]
    ]
    header = ["program", "stopped", "poses", "median deg", "% <= 5", "% <= 15", "map to FSC 0.5, A", "CPU s"]
    note = (
        f"{figures['images']:,} images of the 70S ribosome, 64 pixels, SNR {_TASK[1]:g}, defocus 1 to 3 um, shifts of "
        f"10 A, seed 0; one thread each; stopped after {figures['limit_s']:g} CPU seconds, with what there was then. "
        f"{measured_at(figures['rows'])}."
    )
    return f"{markdown_table(header, rows)}\n{note}\n"


if __name__ == "__main__":
    measure(dict(word.split("=", 1) for word in sys.argv[1:]))
