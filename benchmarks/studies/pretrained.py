"""What the encoders of the zoo can do: every one that is embedded, over a range of noise, alone and refined.

    python -m cryozoo.benchmarks.studies.pretrained [IMAGES]

New particles of each encoder's molecule, with the shifts and CTF of its recipe and white noise, in files. Their poses
are predicted, and refined against the map that travels with the weights. Prints one table and writes it to
``results/pretrained.json`` and ``.md``, and what was found to entries and cards; an encoder that was measured is not
measured again. On one thread.
"""

from __future__ import annotations

import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...zoo.embed import restate
from ...zoo.entries import get_entry, list_encoders
from ...zoo.entry import FRAME
from ...zoo.provenance import provenance
from ..runs import markdown_table
from .figures import measured_at, measured_before, write_figures

SNR = (1.0, 0.5, 0.1, 0.05)
_BOUND = 256  # particles of which the bound is computed
_SEED = 1_000_000  # of the particles
_SHOWN = ("median_deg", "mean_deg", "acc_5", "acc_10", "chance_median_deg")


def run(name: str, images: int) -> dict[str, Any]:
    """One encoder at every SNR; angles in degrees, times in milliseconds of the CPU for one image."""
    from dataclasses import replace

    import numpy as np
    import torch

    from ...geometry.pose import Pose
    from ...imaging.cramer_rao import cramer_rao_bound
    from ...imaging.simulate_files import write_simulated_stack
    from ...particles.poses import PoseTable
    from ...particles.stack import ParticleStack
    from ...training.batches import draw
    from ...training.data import Simulated, data_from_plain
    from ...zoo.evaluate import auroc, pose_metrics, predict_batches
    from ...zoo.match import refine
    from ...zoo.pretrained import load_pretrained

    encoder = load_pretrained(name)
    entry = encoder.entry
    assert entry is not None
    data = data_from_plain(entry.data)
    assert isinstance(data, Simulated)

    def judged(poses: PoseTable, true: PoseTable) -> dict[str, float]:
        found, expected = (Pose(torch.from_numpy(p.rotation), torch.from_numpy(p.shift)) for p in (poses, true))
        metrics = pose_metrics(found, expected, symmetry=entry.symmetry)
        return {key: metrics[key] for key in _SHOWN}

    at = {}
    for snr in SNR:
        imaging = replace(data.imaging, snr=snr, noise_slope=0.0)
        simulator = replace(data, imaging=imaging).simulator(entry.image_size, entry.pixel_size)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "particles.mrcs"
            write_simulated_stack(path, simulator, images, seed=_SEED)
            stack = ParticleStack.open(path.with_suffix(".star"))
            true = stack.poses
            assert true is not None
            times = [time.process_time()]
            poses = encoder.predict(stack)
            times.append(time.process_time())
            refined = refine(stack, encoder.own_map(), poses=poses, symmetry=entry.symmetry)
            times.append(time.process_time())
        few = slice(_BOUND)
        bound = cramer_rao_bound(
            simulator.projector,
            torch.from_numpy(true.rotation[few]).float(),
            simulator.noise_sigma,
            shift=torch.from_numpy(true.shift[few]).float(),
            ctf=stack.table.ctf and stack.table.ctf[few],
        )
        # Images of noise alone, as the network sees them: does its confidence tell?
        junk = draw(simulator, encoder.preprocessing, images, seed=_SEED, junk=1.0)
        unsure = predict_batches(encoder, junk.images).confidence
        assert unsure is not None
        assert poses.confidence is not None
        confidence = np.concatenate([poses.confidence, unsure.double().numpy()])
        ms = [1e3 * (after - before) / images for before, after in pairwise(times)]
        at[f"{snr:g}"] = {
            "alone": {**judged(poses, true), "ms": ms[0]},
            "refined": {**judged(refined, true), "ms": ms[0] + ms[1]},
            "junk_auroc": auroc(confidence, np.arange(2 * images) < images),
            "bound_median_deg": float(bound.angles().rad2deg().median()),
        }
    return {"encoder": name, "trained_at": entry.metrics["commit"], "at": at}


def measure(images: int = 1000) -> dict[str, Any]:
    """All embedded encoders of real molecules."""
    import torch

    torch.set_num_threads(1)
    here = provenance()  # before any result is written, which changes the checkout
    rows = measured_before("pretrained", images=images)
    figures: dict[str, Any] = {"rows": rows, "images": images, "seed": _SEED}
    done = {row["encoder"] for row in rows}
    for name in list_encoders(pretrained=True):
        if name not in done and FRAME in get_entry(name).files:
            rows.append({**run(name, images), **here})
            write_figures("pretrained", figures)
            over_noise = {"at": rows[-1]["at"], "images": images, "seed": _SEED, **here}
            restate(name, metrics={**get_entry(name).metrics, "over_noise": over_noise})
    return figures


def table(figures: dict[str, Any]) -> str:
    """Markdown."""
    rows = []
    for row in sorted(figures["rows"], key=lambda row: row["at"]["0.1"]["alone"]["median_deg"]):
        molecule = get_entry(row["encoder"]).molecule
        for snr, found in row["at"].items():
            cells = [
                cell
                for how in ("alone", "refined")
                for cell in (
                    f"{found[how]['median_deg']:.2f}",
                    f"{found[how]['mean_deg']:.2f}",
                    f"{100 * found[how]['acc_5']:.1f}",
                    f"{100 * found[how]['acc_10']:.1f}",
                    f"{found[how]['ms']:.0f}",
                )
            ]
            last = f"{found['bound_median_deg']:.2f}", f"{found['alone']['chance_median_deg']:.0f}"
            junk = f"{found['junk_auroc']:.3f}"
            rows.append([molecule.name if molecule else row["encoder"], snr, *cells, *last, junk])
    accuracy = ["median deg", "mean", "% <= 5", "% <= 10", "ms"]
    header = [
        "molecule",
        "SNR",
        *accuracy,
        *(f"refined: {word}" for word in accuracy),
        "bound",
        "chance",
        "AUROC of noise",
    ]
    trained = ", ".join(sorted({row["trained_at"] for row in figures["rows"]}))
    return markdown_table(header, rows) + (
        f"\n{figures['images']:,} new particles for each row, seed {figures['seed']}, with white noise; shifts and CTF "
        "as in training. Refined: against the map that travels with the weights; ms with the prediction. Bound: median "
        "of the Cramer-Rao bound. AUROC of noise: the confidence of particles against that of images without any. "
        f"Trained at commits {trained}; measured at {measured_at(figures['rows'])}.\n"
    )


def main() -> None:
    """Measure, print, write."""
    write_figures("pretrained", measure(*map(int, sys.argv[1:])))


if __name__ == "__main__":
    main()
