"""Poses and a map from images alone, by stochastic expectation maximisation.

From a few images at a time poses are drawn, each from its posterior against the map of the moment, and the images are
put back at these poses; older images are forgotten little by little. Drawing, where others take the best pose, is what
lets a map that is wrong change (Celeux and Diebolt 1985; Lederman and Singer 2017 for cryo-EM). What is compared begins
with outlines and becomes finer in stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..geometry.sampling import random_rotations
from ..particles.ctf import CTF
from .back_projector import BackProjector
from .fourier import centred_fft, shell_number
from .noise import RadialNoise
from .pose_likelihood import PoseLikelihood
from .pose_search import Drawn, PoseSearch
from .volumes import Volume

_BATCH, _DRAWN = 200, 2  # images of a step, and poses of each
_SAMPLE = 1000  # images from which the noise is estimated
_FORGET = 0.95  # what of the sums is left after a step
_LEAST, _MOST = 0.02, 50.0  # noise over signal that the Wiener filter may believe


@dataclass(frozen=True)
class Stage:
    """A part of the schedule.

    Attributes:
        detail: periods along the molecule's diameter, of the finest detail that is compared.
        order: of the grid of directions.
        steps: how many.
    """

    detail: float
    order: int
    steps: int


STAGES = (Stage(4.4, 1, 60), Stage(6.3, 1, 100), Stage(6.3, 2, 100), Stage(8.8, 2, 100))
"""On a grid of order 1 outlines are found, which the second sharpens to a tenth of the diameter."""


class StochasticEM:
    """A map that images are being brought into agreement with.

    Args:
        images: (N, L, L), particles bright, the mean outside of them 0, noise of one level.
        pixel_size: Angstrom.
        ctf: of the images; None where they have none.
        diameter: of the molecule in Angstrom.
        reach: the largest shift in Angstrom.
        group: (K, 3, 3) point group of the molecule.
        trained: how many of the images, the first ones, the map is made of; by default all.
        seed: of all random numbers.

    Attributes:
        volume: the map of the moment; None before the first step.
        noise: its power; at first all power counts as noise.
        rotation: (K, 3, 3) at which images were put back last.
    """

    volume: Volume | None
    rotation: Tensor

    def __init__(
        self,
        images: Tensor,
        pixel_size: float,
        ctf: CTF | None,
        *,
        diameter: float,
        reach: float,
        group: Tensor | None = None,
        trained: int | None = None,
        seed: int = 0,
    ) -> None:
        self.images, self.pixel_size, self.ctf = images, pixel_size, ctf
        self.trained = len(images) if trained is None else trained
        self.diameter, self.reach, self.group = diameter, reach, group
        self.generator = torch.Generator().manual_seed(seed)
        self.volume = None
        self._sums = self._projected()
        size = images.shape[-1]
        axis = torch.arange(size, device=images.device) - size // 2
        self._shell = shell_number(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).flatten()
        empty = Volume(images.new_zeros(size, size, size), pixel_size)
        self.noise = self._power(PoseLikelihood(empty, size, pixel_size), 0.0)

    def begin(self, stage: Stage) -> None:
        """Compare images to the detail of a stage from here on."""
        self._search = PoseSearch(
            self.images.shape[-1],
            self.pixel_size,
            diameter=self.diameter,
            reach=self.reach,
            order=stage.order,
            highest=stage.detail / self.diameter,
            group=self.group,
            device=self.images.device,
        )

    def step(self) -> None:
        """Improve the map by some images."""
        rows = torch.randint(0, self.trained, (_BATCH,), generator=self.generator)
        images, ctf = self.images[rows], None if self.ctf is None else self.ctf[rows]
        if self.volume is None:
            rotation = random_rotations(_BATCH * _DRAWN, generator=self.generator).to(images)
            shift = images.new_zeros(_BATCH * _DRAWN, 2)
        else:
            frame = random_rotations(1, generator=self.generator)[0]  # so that no pose is off the grid for ever
            self._search.look_at(self.volume, frame)
            drawn = self._drawn(images, ctf, _DRAWN)
            rotation, shift = drawn.rotation.flatten(0, 1), drawn.shift.flatten(0, 1)
        self.rotation = rotation
        twice = torch.arange(_BATCH).repeat_interleave(_DRAWN)
        new = self._projected()
        share = images.new_full((len(twice),), 1 / _DRAWN)
        new.insert(images[twice], rotation, shift, None if ctf is None else ctf[twice], share)
        self._sums.scale(_FORGET)
        self._sums.add(new)
        self.volume = self._filtered()

    def poses(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """:meth:`poses_of` some of the images."""
        return self.poses_of(self.images[rows], None if self.ctf is None else self.ctf[rows])

    def poses_of(self, images: Tensor, ctf: CTF | None) -> tuple[Tensor, Tensor, Tensor]:
        """A pose of images like these, drawn: rotations (B, 3, 3), shifts (B, 2) in Angstrom, log-likelihoods (B,)."""
        assert self.volume is not None
        self._search.look_at(self.volume)
        parts = []
        for some in torch.arange(len(images)).split(_BATCH):
            drawn = self._drawn(images[some], None if ctf is None else ctf[some], 1)
            parts.append((drawn.rotation[:, 0], drawn.shift[:, 0], drawn.evidence))
        rotation, shift, evidence = (torch.cat(part) for part in zip(*parts, strict=True))
        return rotation, shift, evidence

    def state(self) -> dict[str, Tensor]:
        """All that steps change, to be kept; between stages."""
        assert self.volume is not None
        random = self.generator.get_state()
        state = {"volume": self.volume.data, "noise": self.noise.shells, "rotation": self.rotation, "random": random}
        return {**self._sums.state(), **state}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a :meth:`state`."""
        self._sums.restore(state)
        self.volume = Volume(state["volume"].to(self.images), self.pixel_size)
        self.noise = replace(self.noise, shells=state["noise"].to(self.images))
        self.rotation = state["rotation"].to(self.images)
        self.generator.set_state(state["random"])

    def estimate_noise(self) -> None:
        """Count as noise from here on what is left of some images when the map is taken off at drawn poses."""
        assert self.volume is not None
        likelihood = PoseLikelihood(self.volume, self.images.shape[-1], self.pixel_size)
        rotation, shift, _ = self.poses(rows := self._some())
        passed = None if self.ctf is None else self.ctf[rows](likelihood.frequency)
        self.noise = self._power(likelihood, likelihood.projections(rotation, shift, passed))

    def _some(self) -> Tensor:
        return torch.linspace(0, self.trained - 1, min(_SAMPLE, self.trained)).long()

    def _power(self, likelihood: PoseLikelihood, signal: Tensor | float) -> RadialNoise:
        """The power of some images without their signal."""
        samples = likelihood.samples(self.images[self._some()]) - signal
        return RadialNoise.of_samples(samples / 2**0.5, likelihood.radius, likelihood.box)

    def _drawn(self, images: Tensor, ctf: CTF | None, count: int) -> Drawn:
        search = self._search
        transfer = None if ctf is None else ctf(search.frequency)
        weight = self.noise.power(search.radius).reciprocal().expand(len(images), -1)
        return search.draw(search.samples(images), transfer, weight, count, self.generator)

    def _projected(self) -> BackProjector:
        size = self.images.shape[-1]
        return BackProjector(size, self.pixel_size, group=self.group, device=self.images.device)

    def _filtered(self) -> Volume:
        """The map of the sums, by a Wiener filter with the power of the map before."""
        size = self.images.shape[-1]
        weight, _ = self._sums.shell_weights()
        shells = torch.arange(len(weight), device=weight.device)
        noise_to_signal = torch.ones_like(weight)
        if self.volume is not None:
            power = centred_fft(self.volume.data).abs().square().flatten().double()
            within = self._shell < len(weight)
            power = self._shell[within].bincount(power[within]) / self._shell[within].bincount()
            # The grid of the sums has eight voxels for each of the map's.
            noise = self.noise.power(shells / (size * self.pixel_size)).double()
            noise_to_signal = noise / (8 * weight.clamp_min(1e-9) * power.clamp_min(1e-6))
            noise_to_signal = noise_to_signal.clamp(_LEAST, _MOST)
        finest = self._search.highest * size * self.pixel_size + 1
        return self._sums.volume(torch.where(shells > finest, 1e6, noise_to_signal))
