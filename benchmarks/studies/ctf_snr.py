"""What are phase flipping, a range of SNR and junk in training worth, away from where an encoder was trained?

    python -m cryozoo.benchmarks.studies.ctf_snr [FOLDER]

Takes the encoders that ``python -m cryozoo.benchmarks run ctf_70s`` left in FOLDER, by default ``runs/ctf_70s``, to new
images with CTF, from SNR 0.05 to 2, and at SNR 0.1 beside as many of noise alone. Prints one table and writes it to
``results/ctf_snr.json`` and ``.md``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from ...zoo.provenance import provenance
from ..runs import markdown_table, spread
from .figures import write_figures

_SNR = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_KINDS = {
    "none": "SNR 0.1, as they are",
    "phase_flip": "SNR 0.1, phases flipped",
    "robust": "SNR 0.05 to 2 and noise up to 1/k, phases flipped",
    "robust_junk": "the same, and a twentieth of noise alone",
}
_IMAGES = 1000
_JUNK_AT = 0.1


def run(folder: Path) -> dict[str, Any]:
    """The encoder of one run, at every SNR."""
    from dataclasses import replace

    import numpy as np
    import torch

    from ...training.batches import TEST_SEED, OnTheFly, draw
    from ...training.run import FinishedRun
    from ...zoo.evaluate import auroc, evaluate, predict_batches

    finished = FinishedRun.open(folder)
    recipe, data = finished.recipe, finished.simulated
    at = {}
    for snr in _SNR:
        imaging = replace(data.imaging, snr=snr, noise_slope=0.0)
        new = replace(data, imaging=imaging, held_out=_IMAGES)
        opened = new.open(recipe.image_size, recipe.pixel_size, torch.device("cpu"), recipe.seed)
        metrics = evaluate(finished.encoder, opened.test)
        at[f"{snr:g}"] = {key: metrics[key] for key in ("median_deg", "acc_10", "chance_median_deg")}
        if snr == _JUNK_AT:
            assert isinstance(opened, OnTheFly)
            noise = draw(opened.simulator, opened.preprocessing, _IMAGES, TEST_SEED, junk=1.0)
            poses = [predict_batches(finished.encoder, images) for images in (opened.test.images, noise.images)]
            confidence = np.concatenate([pose.confidence for pose in poses if pose.confidence is not None])
            at[f"{snr:g}"]["junk_auroc"] = auroc(confidence, np.arange(2 * _IMAGES) < _IMAGES)
    assert finished.encoder.entry is not None
    return {
        "run": folder.name,
        "seed": recipe.seed,
        "trained_at": finished.encoder.entry.metrics["commit"],
        "at": at,
    }


def measure(folder: Path = Path("runs/ctf_70s")) -> dict[str, Any]:
    """All runs that have ended."""
    found = sorted(path.parent for path in folder.glob("*/result.json"))
    return {"runs": [run(path) for path in found], **provenance()}


def table(figures: dict[str, Any]) -> str:
    """Markdown: median errors in degrees and the share within 10 degrees; over seeds the mean (lowest to highest)."""
    rows = []
    for kind, label in _KINDS.items():
        runs = [found for found in figures["runs"] if re.fullmatch(rf"{kind}-seed\d+", found["run"])]
        cells = [
            f"{spread([r['at'][f'{snr:g}']['median_deg'] for r in runs], 1)}, "
            f"{100 * sum(r['at'][f'{snr:g}']['acc_10'] for r in runs) / len(runs):.0f} %"
            for snr in _SNR
            if runs
        ]
        if runs:
            areas = spread([r["at"][f"{_JUNK_AT:g}"]["junk_auroc"] for r in runs], 3)
            rows.append([label, ", ".join(str(r["seed"]) for r in runs), *cells, areas])
    chance = figures["runs"][0]["at"]["0.1"]["chance_median_deg"]
    trained = ", ".join(sorted({found["trained_at"] for found in figures["runs"]}))
    header = ["trained at", "seeds", *(f"SNR {snr:g}" for snr in _SNR), "AUROC of junk"]
    return markdown_table(header, rows) + (
        f"\nMedian error in degrees, and share within 10 degrees, of {_IMAGES:,} new images in white noise; a guess "
        f"has {chance:.0f}. AUROC of junk: of the confidence, at SNR {_JUNK_AT:g}, as many images of noise alone among "
        f"them; chance is 0.5. Trained at commits {trained}; measured at {figures['commit']}; {figures['hardware']}.\n"
    )


def main() -> None:
    """Measure, print, write."""
    write_figures("ctf_snr", measure(*map(Path, sys.argv[1:])))


if __name__ == "__main__":
    main()
