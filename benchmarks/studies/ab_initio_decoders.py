"""Poses and a map from images alone, with one decoder or another: do both get there, and at what cost?

    python -m cryozoo.benchmarks.studies.ab_initio_decoders [STEPS [SEEDS]]

The 70S ribosome without noise as in the study ``ab_initio_networks``, a D4 encoder with the L2 loss, for so many steps
with an explicit grid and with FourierNet, whose learning rate is a tenth of the encoder's where that of the grid is
twenty times as high. A run has converged when the mean squared distance between predicted and true rotations of
held-out images, after alignment of frame and hand, is below 0.1.

Runs that were measured are not measured again. Prints a table and writes it to ``results/ab_initio_decoders.json`` and
``.md``. On one thread.
"""

from __future__ import annotations

import sys
from typing import Any

from ...zoo.provenance import provenance
from ..runs import markdown_table, middle
from .ab_initio_networks import learning, recipe_of, resolution
from .figures import measured_at, measured_before, write_figures

_TASK = ("70S ribosome", None, 0.0)
DECODERS = {"hartley_grid": 20.0, "fouriernet": 0.1}
"""Learning rate over that of the encoder."""


def run(decoder: str, seed: int, steps: int) -> dict[str, Any]:
    """One run."""
    from ...training.trainer import train

    learnt_by = {"steps": steps, "decoder": decoder, "decoder_lr": DECODERS[decoder]}
    result = train(recipe_of(_TASK, "D4", "reconstruction_l2", seed, **learnt_by), device="cpu")
    volume = result.encoder.frame_map
    assert volume is not None
    return learning(result.history, result.metrics) | {"resolution_A": resolution(_TASK, volume)}


def measure(steps: int = 3000, seeds: int = 1) -> dict[str, Any]:
    """All of it."""
    import torch

    torch.set_num_threads(1)
    here = provenance()  # before any result is written, which changes the checkout
    rows = measured_before("ab_initio_decoders", steps=steps)
    figures: dict[str, Any] = {"steps": steps, "rows": rows}
    done = {(row["decoder"], row["seed"]) for row in rows}
    for seed in range(seeds):
        for decoder in DECODERS:
            if (decoder, seed) not in done:
                rows.append({"decoder": decoder, "seed": seed, **run(decoder, seed, steps), **here})
                write_figures("ab_initio_decoders", figures)
    return figures


def table(figures: dict[str, Any]) -> str:
    """Markdown; medians over seeds (lowest to highest)."""
    keys: tuple[tuple[str, int], ...] = (("converged_step", 0), ("converged_cpu_s", 0), ("cpu_s", 0))
    keys += (("mse", 3), ("medse", 3), ("median_deg", 1), ("resolution_A", 1))
    rows = []
    for decoder in DECODERS:
        runs = [row for row in figures["rows"] if row["decoder"] == decoder]
        cells = [[row[key] for row in runs if row[key] is not None] for key, _ in keys]
        shown = [middle(cell, digits) for cell, (_, digits) in zip(cells, keys, strict=True)]
        rows.append([decoder, f"{len(cells[0])} of {len(runs)}", *shown])
    header = ["decoder", "converged", "after steps", "after CPU s", "CPU s in all", "MSE", "MedSE", "median deg"]
    note = (
        f"32 pixels, 10,000 images of the 70S ribosome without noise, a D4 encoder, L2, {figures['steps']:,} steps of "
        f"64; {measured_at(figures['rows'])}."
    )
    return f"{markdown_table([*header, 'map to FSC 0.5, A'], rows)}\n{note}\n"


if __name__ == "__main__":
    measure(*map(int, sys.argv[1:3]))
