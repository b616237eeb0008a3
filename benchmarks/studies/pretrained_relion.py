"""The encoders of the zoo on images that RELION projected: no line of the simulator that trained them made these.

    python -m cryozoo.benchmarks.studies.pretrained_relion [IMAGES [SNR [TAG ...]]]

Needs RELION. Each encoder's molecule is projected by ``relion_project --ctf`` with the shifts and defocus of its
recipe; poses are predicted, and refined against the map that travels with the weights. Prints one table and writes it
to ``results/pretrained_relion.json`` and ``.md``. On one thread.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from ...zoo.provenance import provenance
from ..runs import markdown_table
from .figures import measured_at, measured_before, write_figures

TAGS = ("ecoli_70s", "beta_galactosidase", "pol_ii", "yeast_80s")
_SHOWN = (("median_deg", 2, 1), ("mean_deg", 2, 1), ("acc_5", 1, 100), ("acc_10", 1, 100))


def run(tag: str, images: int, snr: float) -> dict[str, Any]:
    """One encoder; angles in degrees."""
    import torch

    from ...geometry.pose import Pose
    from ...imaging.volumes import load_volume
    from ...particles.stack import ParticleStack
    from ...training.data import Simulated, data_from_plain
    from ...zoo.evaluate import pose_metrics
    from ...zoo.pretrained import load_pretrained
    from .relion_images import project_by_relion

    encoder = load_pretrained(tag)
    entry = encoder.entry
    assert entry is not None
    data = data_from_plain(entry.data)
    assert isinstance(data, Simulated)
    assert data.imaging.defocus is not None
    volume = load_volume(data.volume, image_size=entry.image_size, pixel_size=entry.pixel_size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generator = torch.Generator().manual_seed(0)
        shift_sigma, defocus = data.imaging.shift_sigma, data.imaging.defocus
        table, bound = project_by_relion(
            folder, volume, images, snr, generator, shift_sigma=shift_sigma, defocus=defocus
        )
        stack = ParticleStack.open(folder / "truth.star")
        true = Pose(torch.from_numpy(table.rotation))
        found = {how: encoder.predict(stack, refine=to) for how, to in (("alone", None), ("refined", "frame"))}
    metrics = {
        how: pose_metrics(Pose(torch.from_numpy(poses.rotation)), true, symmetry=entry.symmetry)
        for how, poses in found.items()
    }
    return {
        "encoder": entry.full_name,
        "molecule": entry.molecule.name if entry.molecule else tag,
        **{how: {key: of[key] for key, _, _ in _SHOWN} for how, of in metrics.items()},
        "bound_median_deg": bound,
        "chance_median_deg": metrics["alone"]["chance_median_deg"],
    }


def measure(images: int = 500, snr: float = 0.1, *tags: str) -> dict[str, Any]:
    """All of them."""
    import torch

    torch.set_num_threads(1)
    here = provenance()  # before any result is written, which changes the checkout
    settings = {"images": images, "snr": snr}
    rows = measured_before("pretrained_relion", **settings)
    figures: dict[str, Any] = {**settings, "rows": rows}
    done = {row["encoder"].partition(".")[2] for row in rows}
    for tag in tags or TAGS:
        if tag not in done:
            rows.append({**run(tag, images, snr), **here})
            write_figures("pretrained_relion", figures)
    return figures


def table(figures: dict[str, Any]) -> str:
    """Markdown."""
    rows = []
    for row in figures["rows"]:
        cells = [f"{scale * row[how][key]:.{digits}f}" for how in ("alone", "refined") for key, digits, scale in _SHOWN]
        rows.append([row["molecule"], *cells, f"{row['bound_median_deg']:.2f}", f"{row['chance_median_deg']:.0f}"])
    accuracy = ["median deg", "mean", "% <= 5", "% <= 10"]
    header = ["molecule", *accuracy, *(f"refined: {word}" for word in accuracy), "bound", "chance"]
    return markdown_table(header, rows) + (
        f"\n{figures['images']} images of each by relion_project at SNR {figures['snr']:g}, seed 0; "
        f"{measured_at(figures['rows'])}.\n"
    )


def main() -> None:
    """Measure, print, write."""
    images, snr, *tags = [*sys.argv[1:], *("500", "0.1")[len(sys.argv[1:3]) :]]
    write_figures("pretrained_relion", measure(int(images), float(snr), *tags))


if __name__ == "__main__":
    main()
