"""Where training images and poses come from: simulated on the fly, a fixed simulated set, or particles on disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..heads.base import Pose
from ..particles.errors import BadInput
from ..particles.simulate import Imaging, Simulator
from ..particles.volumes import Volume
from .augment import augment_d4, augment_rotate
from .preprocessing import Preprocessing

VALIDATION_SEED, TEST_SEED, FIXED_SEED = 2**40 + 1, 2**40 + 2, 2**40 + 3
"""Seeds of the held-out and fixed simulated sets; a training step's seed stays below 2^40."""


@dataclass(frozen=True)
class Batch:
    """Preprocessed images (B, 1, L, L) and their poses."""

    images: Tensor
    target: Pose

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor | slice) -> Batch:
        pose = self.target
        rotation = None if pose.rotation is None else pose.rotation[index]
        return Batch(self.images[index], Pose(rotation, None if pose.shift is None else pose.shift[index]))


class OnTheFly:
    """New simulated particles at every step; validation and test sets are simulated from seeds of their own.

    Args:
        simulator: draws particles.
        preprocessing: of the encoder.
        held_out: size of the validation set and of the test set.
    """

    def __init__(self, simulator: Simulator, preprocessing: Preprocessing, *, held_out: int = 2048) -> None:
        self.simulator = simulator
        self.preprocessing = preprocessing
        self.validation = self._draw(held_out, VALIDATION_SEED)
        self.test = self._draw(held_out, TEST_SEED)

    def batch(self, step: int, size: int) -> Batch:
        """The particles of a step, drawn from torch's global generator."""
        return self._draw(size)

    def _draw(self, n: int, seed: int | None = None) -> Batch:
        device = self.simulator.projector.frequency.device
        generator = None if seed is None else torch.Generator(device).manual_seed(seed)
        chunks = []
        for start in range(0, n, 256):
            particles = self.simulator(min(256, n - start), generator)
            images = self.preprocessing(particles.images, self.simulator.projector.pixel_size)
            chunks.append(Batch(images, Pose(particles.rotation, particles.shift)))
        return _join(chunks)


class FixedSet:
    """A fixed set of preprocessed images, split once by the seed 0; every epoch is a new permutation.

    Args:
        particles: all images and poses.
        split: shares of training and validation; the rest is the test.
        augment: ``none``, ``d4`` or ``rotate``, on training images only.
    """

    def __init__(self, particles: Batch, *, split: tuple[float, float] = (0.5, 0.17), augment: str = "none") -> None:
        n = len(particles)
        train, validation = round(split[0] * n), round(split[1] * n)
        if min(train, validation, n - train - validation) < 1:
            raise ValueError(f"{n} particles split {split} leave an empty set; give more particles or other shares")
        order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
        self.train = particles[order[:train]]
        self.validation = particles[order[train : train + validation]]
        self.test = particles[order[train + validation :]]
        self.augment = augment
        self._epoch = (-1, order)

    def batch(self, step: int, size: int) -> Batch:
        """The batch of a step; the last incomplete one of an epoch is filled from the next permutation's start."""
        n = len(self.train)
        position = torch.arange(step * size, (step + 1) * size)
        index = torch.cat(
            [self._permutation(int(e))[position[position // n == e] % n] for e in (position // n).unique()]
        )
        batch = self.train[index]
        if self.augment == "none":
            return batch
        return Batch(*(augment_d4 if self.augment == "d4" else augment_rotate)(batch.images, batch.target))

    def _permutation(self, epoch: int) -> Tensor:
        if self._epoch[0] != epoch:
            generator = torch.Generator().manual_seed(FIXED_SEED + epoch)
            self._epoch = (epoch, torch.randperm(len(self.train), generator=generator))
        return self._epoch[1]


TrainingData = OnTheFly | FixedSet


def find_data(name: str | Path) -> Path:
    """A local file: as given, or below one of the folders of the environment variable ``CRYOZOO_DATA``."""
    folders = [Path(), *(Path(f) for f in os.environ.get("CRYOZOO_DATA", "").split(os.pathsep) if f)]
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    searched = ", ".join(str(f) for f in folders[1:]) or "CRYOZOO_DATA is not set"
    raise BadInput(name, "no such file", hint=f"give a path, or set CRYOZOO_DATA (searched: {searched})")


def load_volume(name: str, *, image_size: int, pixel_size: float | None) -> Volume:
    """``phantom:SEED``, or a map or atomic model found by :func:`find_data`."""
    if name.startswith("phantom:"):
        return Volume.phantom(size=image_size, pixel_size=pixel_size or 5.0, seed=int(name.removeprefix("phantom:")))
    return Volume.load(find_data(name), size=image_size, pixel_size=pixel_size if _is_atomic(name) else None)


def _is_atomic(name: str) -> bool:
    return not name.lower().endswith((".mrc", ".map", ".ccp4"))


def open_data(
    spec: Mapping[str, Any], *, image_size: int, pixel_size: float | None, augment: str, device: torch.device
) -> tuple[TrainingData, Preprocessing]:
    """Make the training data of a recipe and the preprocessing that goes with it."""
    spec = dict(spec)
    spec.pop("symmetry", None)
    split = tuple(spec.pop("split", (0.5, 0.17)))
    if "particles" in spec:
        return _open_particles(spec, image_size, pixel_size, split, augment, device)
    name, images, held_out = spec.pop("volume", None), spec.pop("images", None), spec.pop("held_out", 2048)
    if name is None:
        raise BadInput("recipe", "data names neither 'volume' nor 'particles'")
    volume = load_volume(name, image_size=image_size, pixel_size=pixel_size)
    pixel_size = pixel_size or volume.pixel_size
    simulator = Simulator(volume, Imaging.from_dict(spec), image_size=image_size, pixel_size=pixel_size).to(device)
    preprocessing = Preprocessing(image_size, pixel_size)
    if images is None:
        return OnTheFly(simulator, preprocessing, held_out=held_out), preprocessing
    drawn = OnTheFly(simulator, preprocessing, held_out=1)._draw(images, FIXED_SEED)
    return FixedSet(drawn, split=split, augment=augment), preprocessing


def _open_particles(
    spec: dict[str, Any],
    image_size: int,
    pixel_size: float | None,
    split: tuple[float, float],
    augment: str,
    device: torch.device,
) -> tuple[FixedSet, Preprocessing]:
    from ..particles.stack import ParticleStack

    path = find_data(spec.pop("particles"))
    stack = ParticleStack.open(path, **spec)
    poses = stack.poses
    if poses is None:
        raise BadInput(path, "no poses", expected="angles to train on")
    preprocessing = Preprocessing(image_size, pixel_size or stack.pixel_size)
    chunks = []
    for start in range(0, len(stack), 1024):
        rows = range(start, min(start + 1024, len(stack)))
        images = torch.from_numpy(stack.images(rows)).to(device)
        rotation = torch.from_numpy(poses.rotation[start : rows.stop]).float().to(device)
        shift = torch.from_numpy(poses.shift[start : rows.stop]).float().to(device)
        chunks.append(Batch(preprocessing(images, stack.pixel_size), Pose(rotation, shift)))
    return FixedSet(_join(chunks), split=split, augment=augment), preprocessing


def _join(chunks: list[Batch]) -> Batch:
    rotation = torch.cat([c.target.rotation for c in chunks if c.target.rotation is not None])
    shift = torch.cat([c.target.shift for c in chunks if c.target.shift is not None])
    return Batch(torch.cat([c.images for c in chunks]), Pose(rotation, shift))
