"""The jobs: name -> recipe. Each answers one question of benchmarks/gpu/README.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from ...imaging.simulate import Imaging
from ...training.data import Simulated
from ...training.recipe import Recipe
from ..suites import maps

IMAGE_PASSES = 50 * 63_101 * 2
"""Cryo-forum's: 50 epochs of 63,101 pairs, two images each (Chung 2023)."""

RIBOSOME = "structures/4v89.npz"
"""E. coli 70S as an atomic model, which any pixel size suits."""


def forum(encoder: str, *, augment: Literal["none", "rotate"] = "none") -> Recipe:
    """Cryo-forum's protocol: 5,000 fixed images, half of them for training, pairs with curriculum, one-cycle Adam."""
    batch_size = 256
    return Recipe(
        encoder=encoder,
        image_size=128,
        pixel_size=2.8,
        data=Simulated(RIBOSOME, Imaging(snr=0.1), images=5000, augment=augment),
        shift=False,
        loss="forum",
        optimizer="adam",
        weight_decay=1e-3,
        schedule="onecycle",
        lr=1e-3,
        batch_size=batch_size,
        steps=IMAGE_PASSES // batch_size,
        validate_every=1000,
    )


def on_the_fly(image_size: int, pixel_size: float) -> Recipe:
    """New particles at every step, the likelihood of the density that the equivariant QCQP-Bingham head describes."""
    return Recipe(
        encoder="d4_vgg_gem-qcqp_bingham",
        image_size=image_size,
        pixel_size=pixel_size,
        backbone_args={"gem_p": 3.0, "stem": "none"},
        data=Simulated(RIBOSOME, Imaging(snr=0.5, shift_sigma=10.0)),
        loss="bingham_nll",
        batch_size=256,
        lr=3e-3,
        steps=100_000,
        validate_every=2000,
    )


def ab_initio(decoder: str) -> Recipe:
    """Poses and a map from 100,000 images alone, with the CTF, shifts and much noise."""
    imaging = Imaging(snr=0.1, shift_sigma=10.0, defocus=(10_000.0, 30_000.0))
    return Recipe(
        encoder="d4_vgg_gem-sixd_svd",
        image_size=128,
        pixel_size=2.8,
        backbone_args={"gem_p": 3.0, "stem": "none"},
        data=Simulated(RIBOSOME, imaging, images=100_000, split=(0.96, 0.02), ctf="phase_flip"),
        loss="reconstruction_l2",
        decoder=decoder,
        optimizer="adam",
        weight_decay=0.0,
        warmup=0.003,
        grad_clip=0.01,
        batch_size=256,
        steps=60_000,
        validate_every=1000,
    )


def distances(run: str) -> Recipe:
    """A run of the suite ``maps`` at 116 pixels, the size of the published one, in batches three times as large."""
    recipe = maps()[run]
    pixel_size = 64 * (recipe.pixel_size or 1.0) / 116
    return replace(recipe, image_size=116, pixel_size=pixel_size, batch_size=192, precision="auto")


JOBS: dict[str, Callable[[], Recipe]] = {
    "forum_vgg_gem": lambda: forum("vgg_gem-qcqp_bingham"),
    "forum_d4": lambda: forum("d4_vgg_gem-qcqp_bingham", augment="rotate"),
    "on_the_fly_64": lambda: on_the_fly(64, 5.6),
    "on_the_fly_128": lambda: on_the_fly(128, 2.8),
    "ab_initio_128": lambda: ab_initio("fouriernet"),
    "ab_initio_grid_128": lambda: ab_initio("hartley_grid"),
    "maps_siamese_cnn": lambda: distances("5a1a-noisy-siamese_cnn"),
    "maps_d4": lambda: distances("5a1a-noisy-d4_new_images"),
}
