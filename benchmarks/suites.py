"""The suites: what is trained to answer which question. A suite is a function from nothing to named recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..zoo.recipe import Recipe

RIBOSOME = {"volume": "maps/clean70S_ecoli_65.mrc", "shift_sigma": 10.0}
"""E. coli 70S, 5 A per voxel; shifts of 2 pixels standard deviation along x and y, no CTF."""

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


LOSSES: dict[str, tuple[str, dict[str, Any]]] = {
    "l1": ("chordal", {"norm": "l1"}),
    "nll": ("bingham_nll", {}),
}


def _heads_run(head: str, loss: str, snr: float, seed: int, steps: int = 13_000) -> Recipe:
    name, loss_args = LOSSES[loss]
    return Recipe(
        encoder=f"vgg_gem-{head}",
        image_size=64,
        backbone_args=NARROW,
        data={**RIBOSOME, "snr": snr},
        loss=name,
        loss_args=loss_args,
        steps=steps,
        batch_size=64,
        lr=3e-3,
        precision="bf16",
        validate_every=1000,
        seed=seed,
    )


def heads_70s() -> Mapping[str, Recipe]:
    """Which rotation head learns best in 1,800 CPU seconds? Ribosome, 64 px, particles simulated on the fly.

    Every head with the same loss, and those that describe a density also with its likelihood; the best two at a fifth
    of the SNR and with three seeds; one in a third of the time.
    """
    settings = [("qcqp_bingham", "nll"), *((head, "l1") for head in ("sixd_svd", "nined_svd", "sixd_gs"))]
    settings += [("quaternion", "l1"), ("qcqp_bingham", "l1"), ("nined_svd", "nll")]
    runs = {f"{head}-{loss}-snr0.5-seed0": _heads_run(head, loss, 0.5, 0) for head, loss in settings}
    runs["qcqp_bingham-nll-snr0.5-seed0-short"] = _heads_run("qcqp_bingham", "nll", 0.5, 0, steps=4_000)
    for head, loss in (("nined_svd", "nll"), ("qcqp_bingham", "nll")):
        for snr in (0.1, 0.5):
            runs |= {f"{head}-{loss}-snr{snr}-seed{seed}": _heads_run(head, loss, snr, seed) for seed in (0, 1, 2)}
    return runs


def forum_70s() -> Mapping[str, Recipe]:
    """Cryo-forum's protocol, scaled to 1,500 CPU seconds: does its ordering of heads and losses hold?

    5,000 fixed images without shifts at SNR 0.1, half of them for training, dropout 0.3, Adam with L2, one-cycle;
    theirs is 128 px with 20 M parameters and 63,101 pairs in each of 50 epochs (benchmarks/gpu).
    """
    losses = {"regression": ("geodesic", {}), "siamese": ("forum", {"pairs": "all"})}
    return {
        f"{head}-{label}-seed0": Recipe(
            encoder=f"vgg_gem-{head}",
            image_size=64,
            backbone_args={**NARROW, "dropout": 0.3},
            data={"volume": RIBOSOME["volume"], "snr": 0.1, "images": 5000, "split": (0.5, 0.17)},
            shift=False,
            loss=loss,
            loss_args=loss_args,
            optimizer="adam",
            weight_decay=1e-3,
            schedule="onecycle",
            lr=1e-3,
            steps=8_000,
            precision="bf16",
            validate_every=1000,
        )
        for head in ("quaternion", "sixd_gs", "qcqp_bingham")
        for label, (loss, loss_args) in losses.items()
    }


SUITES: dict[str, Callable[[], Mapping[str, Recipe]]] = {
    "heads_70s": heads_70s,
    "forum_70s": forum_70s,
}
