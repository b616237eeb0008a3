"""Does an encoder tell whether images are of the molecule that it knows?

    python -m cryozoo.benchmarks.studies.strangers [STACKS]

Every embedded encoder of a real molecule is given small stacks of all molecules in ``weights/recipes``, at SNR 0.1 with
CTF and shifts. Its poses of the others are no better than chance, as it must be; how well images agree with the map
that travels with the weights (``encoder.agreement``) should tell. A stack whose images cannot hold the encoder's
molecule agrees not at all. Prints one table and writes it to ``results/strangers.json`` and ``.md``. On one thread.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from ...zoo.entries import WEIGHTS, get_entry, list_encoders
from ...zoo.entry import FRAME
from ...zoo.provenance import provenance
from ..runs import markdown_table
from .figures import measured_at, measured_before, write_figures

_SNR = 0.1
_IMAGES = 24  # of a stack


def run(name: str, stacks: int) -> dict[str, Any]:
    """One encoder, and stacks of every molecule; angles in degrees."""
    from dataclasses import replace

    import torch

    from ...geometry.pose import Pose
    from ...imaging.simulate_files import write_simulated_stack
    from ...particles.errors import BadInput, BadInputWarning
    from ...particles.stack import ParticleStack
    from ...training.data import Simulated
    from ...training.recipe import Recipe
    from ...zoo.evaluate import pose_metrics
    from ...zoo.pretrained import load_pretrained

    encoder = load_pretrained(name)
    found: dict[str, Any] = {}
    for path in sorted((WEIGHTS / "recipes").glob("*.yaml")):
        recipe = Recipe.load(path)
        assert isinstance(recipe.data, Simulated)
        if recipe.data.volume.startswith("phantom:"):
            continue
        imaging = replace(recipe.data.imaging, snr=_SNR, noise_slope=0.0)
        simulator = replace(recipe.data, imaging=imaging).simulator(recipe.image_size, recipe.pixel_size)
        agreement, errors = [], []
        for seed in range(stacks):
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                warnings.simplefilter("ignore", BadInputWarning)
                images = Path(folder) / "particles.mrcs"
                write_simulated_stack(images, simulator, _IMAGES, seed=seed)
                stack = ParticleStack.open(images.with_suffix(".star"))
                true, poses = stack.poses, encoder.predict(stack)
                assert true is not None
                rotations = (Pose(torch.from_numpy(table.rotation)) for table in (poses, true))
                errors.append(pose_metrics(*rotations, symmetry=recipe.data.symmetry)["median_deg"])
                try:
                    agreement.append(encoder.agreement(stack, images=_IMAGES).agreement)
                except BadInput:  # the molecule is larger than the images
                    agreement.append(0.0)
        found[path.stem.partition(".")[2]] = {"agreement": agreement, "median_deg": errors}
    return {"encoder": name, "of": found}


def measure(stacks: int = 3) -> dict[str, Any]:
    """All embedded encoders of real molecules."""
    import torch

    torch.set_num_threads(1)
    here = provenance()  # before any result is written, which changes the checkout
    rows = measured_before("strangers", stacks=stacks)
    figures: dict[str, Any] = {"rows": rows, "stacks": stacks}
    done = {row["encoder"] for row in rows}
    for name in list_encoders(pretrained=True):
        if name not in done and FRAME in get_entry(name).files:
            rows.append({**run(name, stacks), **here})
            write_figures("strangers", figures)
    return figures


def table(figures: dict[str, Any]) -> str:
    """Markdown."""
    import numpy as np

    from ...zoo.evaluate import auroc

    def area_of(judged: list[tuple[float, bool]]) -> str:
        score, own = zip(*judged, strict=True)
        area = auroc(np.array(score), np.array(own))
        return "-" if area is None else f"{area:.3f}"

    lines: list[list[str]] = []
    pooled: list[tuple[float, bool]] = []
    for row in figures["rows"]:
        tag = row["encoder"].partition(".")[2]
        own, others = row["of"][tag], {name: of for name, of in row["of"].items() if name != tag}
        judged = [(value, name == tag) for name, of in row["of"].items() for value in of["agreement"]]
        area, pooled = area_of(judged), pooled + judged
        nearest = max(others, key=lambda name: max(others[name]["agreement"]))
        wrong = [value for of in others.values() for value in of["median_deg"]]
        lines.append(
            [
                tag,
                f"{min(own['agreement']):.2f} to {max(own['agreement']):.2f}",
                f"{max(others[nearest]['agreement']):.2f} ({nearest})",
                area,
                f"{np.mean(own['median_deg']):.1f}",
                f"{np.mean(wrong):.0f} ({min(wrong):.0f} to {max(wrong):.0f})",
            ]
        )
    header = ["encoder", "agreement with its own molecule", "most of a stranger", "AUROC"]
    header += ["median deg, its own", "strangers: mean (lowest to highest)"]
    return markdown_table(header, lines) + (
        f"\n{figures['stacks']} x {_IMAGES} images of every molecule, at SNR {_SNR:g} with CTF; AUROC of the "
        f"agreement for stacks of the encoder's own molecule, {area_of(pooled)} for all {len(pooled)} together, chance "
        f"is 0.5; {measured_at(figures['rows'])}.\n"
    )


def main() -> None:
    """Measure, print, write."""
    write_figures("strangers", measure(*map(int, sys.argv[1:])))


if __name__ == "__main__":
    main()
