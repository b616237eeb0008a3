"""What is lost when weights are rounded to float16, as embedded ones are: encoders of finished runs, before and after.

    python -m cryozoo.benchmarks.studies.half_precision RUN ...

Both predict the poses of the test set of the run. Prints one table and writes it to ``results/half_precision.json`` and
``.md``; runs that were measured are not measured again. On one thread.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from ...zoo.provenance import provenance
from ..runs import markdown_table
from .figures import measured_at, measured_before, write_figures


def run(folder: Path) -> dict[str, Any]:
    """One encoder; angles in degrees, sizes in bytes."""
    import numpy as np

    from ...geometry.distances import geodesic_distance
    from ...training.run import FinishedRun
    from ...zoo.entry import MODEL
    from ...zoo.evaluate import pose_metrics, predict_batches
    from ...zoo.pretrained import load_pretrained, save_pretrained

    finished = FinishedRun.open(folder)
    test, symmetry = finished.data().test, finished.recipe.data.symmetry
    with tempfile.TemporaryDirectory() as scratch:
        save_pretrained(finished.encoder, f"{scratch}/half", half=True)
        encoders = {"float32": finished.encoder, "float16": load_pretrained(f"local-dir:{scratch}/half")}
        files = {"float32": folder / "model" / MODEL, "float16": Path(scratch, "half", MODEL)}
        size = {name: path.stat().st_size for name, path in files.items()}
    poses = {name: predict_batches(encoder, test.images) for name, encoder in encoders.items()}
    first, second = (pose.rotation for pose in poses.values())
    assert first is not None
    assert second is not None
    apart = np.rad2deg(geodesic_distance(first.double(), second.double()).numpy())
    return {
        "run": folder.name,
        "median_deg": {
            name: pose_metrics(pose, test.pose, symmetry=symmetry)["median_deg"] for name, pose in poses.items()
        },
        "apart_deg": {"median": float(np.median(apart)), "99 %": float(np.quantile(apart, 0.99))},
        "bytes": size,
        "images": len(test),
    }


def measure(*folders: str) -> dict[str, Any]:
    """All of them."""
    import torch

    torch.set_num_threads(1)
    here = provenance()  # before any result is written, which changes the checkout
    rows = measured_before("half_precision")
    for folder in map(Path, folders):
        if folder.name not in {row["run"] for row in rows}:
            rows.append({**run(folder), **here})
            write_figures("half_precision", {"rows": rows})
    return {"rows": rows}


def table(figures: dict[str, Any]) -> str:
    """Markdown."""
    rows = [
        [
            row["run"],
            *(f"{row['median_deg'][name]:.3f}" for name in ("float32", "float16")),
            *(f"{row['apart_deg'][share]:.3f}" for share in ("median", "99 %")),
            *(f"{row['bytes'][name] / 1000:.0f}" for name in ("float32", "float16")),
        ]
        for row in figures["rows"]
    ]
    header = ["encoder", "float32: median deg", "float16: median deg", "poses apart, median deg", "99 %", "kB", "kB"]
    return (
        markdown_table(header, rows)
        + f"\nOf the {figures['rows'][0]['images']:,} test images; "
        + (f"{measured_at(figures['rows'])}.\n")
    )


def main() -> None:
    """Measure, print, write."""
    write_figures("half_precision", measure(*sys.argv[1:]))


if __name__ == "__main__":
    main()
