"""Where training images and poses come from: simulated on the fly, a fixed simulated set, or particles on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..geometry.pose import Pose
from ..imaging.batch import Batch, join_batches
from ..imaging.inplane import augment_d4, augment_rotate
from ..imaging.preprocessing import Preprocessing, standardise
from ..imaging.simulate import Imaging, Simulator
from ..imaging.volumes import load_volume
from ..particles.errors import BadInput
from ..particles.files import find_data

VALIDATION_SEED, TEST_SEED, FIXED_SEED = 2**40 + 1, 2**40 + 2, 2**40 + 3
"""Seeds of the held-out and fixed simulated sets; a training step's, (seed << 32) + step with seed < 256, is below."""

_FEWEST = 2
"""Particles of which errors can be averaged."""

_FIXED_FIELDS = {"symmetry", "split"}
_SIMULATED_FIELDS = {"volume", "images", "held_out", "noise_ramp"}


class OnTheFly:
    """New simulated particles at every step.

    Args:
        simulator: draws particles.
        preprocessing: of the encoder.
        validation: particles that no step has.
        test: others.
        noise_ramp: steps over which the noise grows from none to the simulator's.
    """

    def __init__(
        self,
        simulator: Simulator,
        preprocessing: Preprocessing,
        validation: Batch,
        test: Batch,
        *,
        noise_ramp: int = 0,
    ) -> None:
        self.simulator = simulator
        self.preprocessing = preprocessing
        self.validation = validation
        self.test = test
        self.noise_ramp = noise_ramp

    def batch(self, step: int, size: int) -> Batch:
        """The particles of a step, drawn from torch's global generator."""
        noise = step / self.noise_ramp if step < self.noise_ramp else 1.0
        return draw(self.simulator, self.preprocessing, size, noise=noise)


def draw(
    simulator: Simulator, preprocessing: Preprocessing, n: int, seed: int | None = None, *, noise: float = 1.0
) -> Batch:
    """``n`` preprocessed particles from a generator with this seed, or from torch's global one.

    ``noise`` is the share of the simulator's noise that they have.
    """
    pixel_size = simulator.projector.pixel_size
    chunks = [
        replace(particles, images=preprocessing(particles.images, pixel_size))
        for particles in simulate(simulator, n, seed, noise=noise)
    ]
    return join_batches(chunks)


def simulate(simulator: Simulator, n: int, seed: int | None = None, *, noise: float = 1.0) -> Iterator[Batch]:
    """``n`` particles as they come, some at a time; see :func:`draw`."""
    generator = None if seed is None else torch.Generator(simulator.projector.frequency.device).manual_seed(seed)
    for start in range(0, n, 256):
        yield simulator(min(256, n - start), generator, noise=noise)


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
        split: shares of training and validation; the rest is the test.
        augment: ``none``, ``d4`` or ``rotate``, on training images only. (``simulate`` is :class:`OnTheFly`'s.)
        image_ids: (N,) integers; rows with the same one show the same image (a symmetry-expanded table) and stay
            together.
        seed: of the permutations, below 256.
    """

    def __init__(
        self,
        particles: Batch,
        *,
        split: tuple[float, float] = (0.5, 0.17),
        augment: str = "none",
        image_ids: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        ids = torch.arange(len(particles)) if image_ids is None else image_ids
        self.train, self.validation, self.test = (particles[rows] for rows in split_rows(ids, split))
        self.augment = augment
        self.seed = seed
        self._epoch = (-1, torch.empty(0, dtype=torch.long))

    def batch(self, step: int, size: int) -> Batch:
        """The batch of a step; the last incomplete one of an epoch is filled from the next permutation's start."""
        n = len(self.train)
        position = torch.arange(step * size, (step + 1) * size)
        index = torch.cat(
            [self._permutation(int(e))[position[position // n == e] % n] for e in (position // n).unique()]
        )
        batch = self.train[index]
        if self.augment == "d4":
            return Batch(*augment_d4(batch.images, batch.pose))
        if self.augment == "rotate":
            images, target = augment_rotate(batch.images, batch.pose)
            return Batch(standardise(images), target)  # the edge of the circle is not quite what it was
        return batch

    def _permutation(self, epoch: int) -> Tensor:
        if self._epoch[0] != epoch:
            generator = torch.Generator().manual_seed(FIXED_SEED + (self.seed << 32) + epoch)
            self._epoch = (epoch, torch.randperm(len(self.train), generator=generator))
        return self._epoch[1]


TrainingData = OnTheFly | FixedSet


def open_data(
    spec: Mapping[str, Any],
    *,
    image_size: int,
    pixel_size: float | None,
    augment: str,
    device: torch.device,
    seed: int = 0,
) -> tuple[TrainingData, Preprocessing]:
    """Make the training data of a recipe and the preprocessing that goes with it."""
    _check(spec)
    if augment == "simulate" and "volume" not in spec:
        raise BadInput(
            "recipe", "augment 'simulate' of particles", hint="give a volume to simulate, or another augment"
        )
    split = tuple(spec.get("split", (0.5, 0.17)))
    if "particles" in spec:
        return _open_particles(spec, image_size, pixel_size, split, augment, device, seed)
    simulator = open_simulator(spec, image_size=image_size, pixel_size=pixel_size).to(device)
    preprocessing = Preprocessing(image_size, simulator.projector.pixel_size)
    images, noise_ramp = spec.get("images"), spec.get("noise_ramp", 0)
    if noise_ramp and spec.get("snr") is None:
        raise BadInput("recipe", "a noise_ramp without noise", where="data", hint="give snr too")
    if images is None and augment != "none":
        raise BadInput("recipe", f"augment {augment!r} without a fixed set", hint="give data images, or augment none")
    if images is None:
        held_out = spec.get("held_out", 2048)
        validation, test = (draw(simulator, preprocessing, held_out, s) for s in (VALIDATION_SEED, TEST_SEED))
        return OnTheFly(simulator, preprocessing, validation, test, noise_ramp=noise_ramp), preprocessing
    fixed = FixedSet(draw(simulator, preprocessing, images, FIXED_SEED), split=split, augment=augment, seed=seed)
    if augment == "simulate":
        return OnTheFly(simulator, preprocessing, fixed.validation, fixed.test, noise_ramp=noise_ramp), preprocessing
    if noise_ramp:
        raise BadInput("recipe", "noise_ramp for a fixed set", hint="augment simulate makes new ones at every step")
    return fixed, preprocessing


def _check(spec: Mapping[str, Any]) -> None:
    """Refuse what the fields that are read here cannot be."""
    for name, expected in (
        ("volume", "a map, an atomic model or phantom:SEED"),
        ("particles", "a STAR or .cs file"),
        ("symmetry", "the name of a point group"),
    ):
        if not isinstance(spec.get(name, ""), str):
            raise BadInput("recipe", f"{spec[name]!r}", where=f"data {name}", expected=expected)
    for name in ("images", "held_out"):
        if name in spec and not (type(spec[name]) is int and spec[name] >= _FEWEST):
            raise BadInput("recipe", f"{spec[name]!r}", where=f"data {name}", expected=f"at least {_FEWEST}")
    if not (type(ramp := spec.get("noise_ramp", 0)) is int and ramp >= 0):
        raise BadInput("recipe", f"{ramp!r}", where="data noise_ramp", expected="a whole number of steps")
    split = spec.get("split", (0.5, 0.17))
    if not (isinstance(split, list | tuple) and len(split) == 2 and all(type(x) in (int, float) for x in split)):
        raise BadInput("recipe", f"{split!r}", where="data split", expected="the shares of training and validation")


def open_simulator(spec: Mapping[str, Any], *, image_size: int, pixel_size: float | None) -> Simulator:
    """The simulator of a recipe's ``data``: its volume, imaged as the other fields say."""
    if "volume" not in spec:
        raise BadInput("recipe", "data names neither 'volume' nor 'particles'")
    volume = load_volume(spec["volume"], image_size=image_size, pixel_size=pixel_size)
    imaging = Imaging.from_dict({k: v for k, v in spec.items() if k not in _FIXED_FIELDS | _SIMULATED_FIELDS})
    return Simulator(volume, imaging, image_size=image_size, pixel_size=pixel_size or volume.pixel_size)


def _open_particles(
    spec: Mapping[str, Any],
    image_size: int,
    pixel_size: float | None,
    split: tuple[float, float],
    augment: str,
    device: torch.device,
    seed: int,
) -> tuple[FixedSet, Preprocessing]:
    from ..particles.stack import ParticleStack

    known = {"particles", "datadir", "allow_outside", "skip_bad", *_FIXED_FIELDS}
    if unknown := sorted(set(spec) - known):
        raise BadInput(
            "recipe", f"unknown field {unknown[0]!r}", where="data", expected=f"one of {', '.join(sorted(known))}"
        )
    path = find_data(spec["particles"])
    options = {k: spec[k] for k in ("allow_outside", "skip_bad") if k in spec}
    datadir = find_data(spec["datadir"]) if "datadir" in spec else None
    stack = ParticleStack.open(path, datadir=datadir, **options)
    poses = stack.poses
    if poses is None:
        raise BadInput(path, "no poses", expected="angles to train on")
    preprocessing = Preprocessing(image_size, pixel_size or stack.pixel_size)
    chunk = max(1, 2**24 // stack.image_size**2)  # 64 MB of pixels at a time
    images = torch.empty(len(stack), 1, image_size, image_size, device=device)
    for start in range(0, len(stack), chunk):
        rows = range(start, min(start + chunk, len(stack)))
        images[start : rows.stop] = preprocessing(torch.from_numpy(stack.images(rows)).to(device), stack.pixel_size)
    target = Pose(*(torch.from_numpy(values).float().to(device) for values in (poses.rotation, poses.shift)))
    ids = torch.from_numpy(stack.image_ids)
    return FixedSet(Batch(images, target), split=split, augment=augment, image_ids=ids, seed=seed), preprocessing
