"""What opened sources of data give: batches for every step, and images that no step has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from ..imaging.batch import Batch, join_batches
from ..imaging.inplane import augment_d4, augment_rotate
from ..imaging.preprocessing import Preprocessing, standardise
from ..imaging.simulate import Simulator
from ..particles.errors import BadInput

VALIDATION_SEED, TEST_SEED, FIXED_SEED = 1, 2, 3
"""Seeds of the held-out and fixed simulated sets."""
_STEPS, _EPOCHS = 2**23, 2**22

DEFAULT_SPLIT = (0.5, 0.17)
"""Shares of training and validation in a fixed set."""


def step_seed(seed: int, step: int) -> int:
    """A training step's seed, for a recipe's seed below 256.

    Of a seed torch's generator on the CPU takes the lowest 32 bits alone: so all steps have the upper half of these,
    where no held-out set is, each recipe's seed a 256th of it.
    """
    return 2**31 + seed * _STEPS + step % _STEPS


def epoch_seed(seed: int, epoch: int) -> int:
    """Of the order of a fixed set's images in an epoch; all have the second quarter of 32 bits."""
    return 2**30 + seed * _EPOCHS + epoch % _EPOCHS


class TrainingData(Protocol):
    """A source that was opened.

    Attributes:
        preprocessing: what was done to the images, and is to be done by the encoder.
        validation: images that no step has.
        test: others.
    """

    preprocessing: Preprocessing
    validation: Batch
    test: Batch

    def batch(self, step: int, size: int, part: int = 0, parts: int = 1) -> Batch:
        """One of the equal parts of a step's images, of which there are ``size`` in all.

        Those of the same step and part are the same, given torch's global generator.
        """


class OnTheFly:
    """New simulated particles at every step.

    Args:
        simulator: draws particles.
        preprocessing: of the encoder.
        validation: particles that no step has.
        test: others.
        noise_ramp: steps over which the noise grows from none to the simulator's.
        junk: share of the images of a step that are of noise alone.
    """

    def __init__(
        self,
        simulator: Simulator,
        preprocessing: Preprocessing,
        validation: Batch,
        test: Batch,
        *,
        noise_ramp: int = 0,
        junk: float = 0.0,
    ) -> None:
        self.simulator = simulator
        self.preprocessing = preprocessing
        self.validation = validation
        self.test = test
        self.noise_ramp = noise_ramp
        self.junk = junk

    def batch(self, step: int, size: int, part: int = 0, parts: int = 1) -> Batch:
        """The particles of a part of a step, drawn from torch's global generator."""
        noise = step / self.noise_ramp if step < self.noise_ramp else 1.0
        return draw(self.simulator, self.preprocessing, size // parts, noise=noise, junk=self.junk)


def draw(simulator: Simulator, preprocessing: Preprocessing, n: int, seed: int | None = None, **imaged: float) -> Batch:
    """``n`` preprocessed particles from a generator with this seed, or from torch's global one.

    ``noise`` and ``junk`` are passed on to the simulator.
    """
    pixel_size = simulator.projector.pixel_size
    return join_batches(
        [
            replace(particles, images=preprocessing(particles.images, pixel_size, particles.ctf))
            for particles in simulate(simulator, n, seed, **imaged)
        ]
    )


def simulate(simulator: Simulator, n: int, seed: int | None = None, **imaged: float) -> Iterator[Batch]:
    """``n`` particles as they come, some at a time; see :func:`draw`."""
    generator = None if seed is None else torch.Generator(simulator.projector.frequency.device).manual_seed(seed)
    for start in range(0, n, 256):
        yield simulator(min(256, n - start), generator, **imaged)


def split_rows(image_ids: Tensor, split: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of a fixed set that train, validate and test, always the same ones; rows of one image stay together."""
    images, ids = image_ids.unique(return_inverse=True)
    n = len(images)
    train, validation = round(split[0] * n), round(split[1] * n)
    if min(train, validation, n - train - validation) < 1:
        raise BadInput("data", f"{n} images split {split} leave an empty set", hint="give more images or other shares")
    place = torch.randperm(n, generator=torch.Generator().manual_seed(0))[ids]
    parts = place < train, (place >= train) & (place < train + validation), place >= train + validation
    train_rows, validation_rows, test_rows = (part.nonzero()[:, 0] for part in parts)
    return train_rows, validation_rows, test_rows


class FixedSet:
    """A fixed set of preprocessed images, split once by the seed 0; every epoch is a new permutation.

    Args:
        particles: all images and poses.
        preprocessing: of the encoder.
        split: shares of training and validation; the rest is the test.
        augment: ``none``, ``d4`` or ``rotate``, on training images only. (``simulate`` is :class:`OnTheFly`'s.)
        image_ids: (N,) integers; rows with the same one show the same image (a symmetry-expanded table) and stay
            together.
        seed: of the permutations, below 256.
    """

    def __init__(
        self,
        particles: Batch,
        preprocessing: Preprocessing,
        *,
        split: tuple[float, float] = DEFAULT_SPLIT,
        augment: str = "none",
        image_ids: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        ids = torch.arange(len(particles)) if image_ids is None else image_ids
        self.train, self.validation, self.test = (particles[rows] for rows in split_rows(ids, split))
        self.preprocessing = preprocessing
        self.augment = augment
        self.seed = seed
        self._epoch = (-1, torch.empty(0, dtype=torch.long))

    def batch(self, step: int, size: int, part: int = 0, parts: int = 1) -> Batch:
        """A part of a step; the last incomplete batch of an epoch is filled from the next permutation's start."""
        n = len(self.train)
        position = torch.arange(step * size, (step + 1) * size).view(parts, -1)[part]
        index = torch.cat(
            [self._permutation(int(e))[position[position // n == e] % n] for e in (position // n).unique()]
        )
        batch = self.train[index]
        if self.augment == "d4":
            return augment_d4(batch)
        if self.augment == "rotate":
            batch = augment_rotate(batch)
            return replace(batch, images=standardise(batch.images))  # the edge of the circle is not quite what it was
        return batch

    def _permutation(self, epoch: int) -> Tensor:
        if self._epoch[0] != epoch:
            generator = torch.Generator().manual_seed(epoch_seed(self.seed, epoch))
            self._epoch = (epoch, torch.randperm(len(self.train), generator=generator))
        return self._epoch[1]
