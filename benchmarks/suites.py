"""The suites: what is trained to answer which question. A suite is a function from nothing to named recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..zoo.recipe import Recipe

RIBOSOME = {"volume": "maps/clean70S_ecoli_65.mrc", "shift_sigma": 10.0}
"""E. coli 70S, 5 A per voxel; shifts of 2 pixels standard deviation along x and y, no CTF."""

HEADS = ("quaternion", "sixd_gs", "sixd_svd", "nined_svd", "qcqp_bingham")

NARROW: dict[str, Any] = {
    "stem": "none",
    "channels": [16, 32, 64, 128, 256],
    "depths": [1, 1, 2, 2, 2],
    "kernels": [5, 3, 3, 3, 3],
    "gem_p": 3.0,
    "activation": "relu",
    "dropout": 0.0,
}
"""vgg_gem with 1.2 M parameters: no filter stem, ReLU and bf16, which is what a CPU runs fastest."""


def _heads_run(head: str, snr: float, seed: int, steps: int = 13_000, **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "encoder": f"vgg_gem-{head}",
        "image_size": 64,
        "backbone_args": NARROW,
        "data": {**RIBOSOME, "snr": snr},
        "loss": "chordal",
        "loss_args": {"norm": "l1"},
        "steps": steps,
        "batch_size": 64,
        "lr": 3e-3,
        "precision": "bf16",
        "validate_every": 1000,
        "seed": seed,
        **changes,
    }
    return Recipe(**values)


def heads_70s() -> Mapping[str, Recipe]:
    """Which rotation head learns best in 15 minutes on two cores? Ribosome, 64 px, particles simulated on the fly."""
    return {f"{head}-snr0.5-seed0": _heads_run(head, 0.5, 0) for head in HEADS}


SUITES: dict[str, Callable[[], Mapping[str, Recipe]]] = {"heads_70s": heads_70s}
