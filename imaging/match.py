"""Maximum-likelihood poses of images against a map: a search over all poses, then steps from the best of them."""

from __future__ import annotations

import copy
import math
from functools import cached_property

import torch
from torch import Tensor

from ..particles.ctf import CTF
from .extent import measure_extent
from .noise import RadialNoise
from .pose_likelihood import Placed, PoseLikelihood
from .pose_posterior import Drawn, Grid, Matches, Modes
from .pose_search import PoseSearch, distinct
from .volumes import Volume

# Poses of the grid, those that are climbed from at the search's resolution, and from these at full resolution; and the
# same for a second look, to twice the distance from the centre.
_FIRST, _SECOND = (64, 8, 3), (512, 48, 6)
_SURE = 0.995  # probability of a mode that needs no second look
_VAGUE = math.radians(3.75)  # expected error, half a step of the grid, beyond which there are more modes than were kept
_BENT = math.radians(1.5)  # expected error beyond which the likelihood is no parabola
_COARSE_STEPS, _STEPS = 3, 3
_BATCH, _SAMPLES = 64, 2**18  # images at a time, and Fourier samples of these
_SECOND_BATCH = 16
_NOISE_ROUNDS = 2
_BESIDE = 64  # poses of the second look's grid around which poses are drawn, too
_TURN, _MOVE = math.radians(5), 0.4  # how far from them: about a third of the grid's step, and steps of its shifts
_NEAR = math.radians(2)  # between starts of which only the better one is climbed from at full resolution


class Matcher:
    """Finds and refines poses of images of one size against one map.

    Args:
        volume: the map.
        image_size: L, pixels along an edge of the images.
        pixel_size: Angstrom per pixel of the images.
        group: (K, 3, 3) point group of the map.
        reach: the largest shift in Angstrom that is searched at first; by default a tenth of the box.
        highest: the largest frequency that is compared, in 1/Angstrom; by default that of map or images.
    """

    def __init__(
        self,
        volume: Volume,
        image_size: int,
        pixel_size: float,
        *,
        group: Tensor | None = None,
        reach: float | None = None,
        highest: float | None = None,
    ) -> None:
        box = image_size * pixel_size
        self.diameter = min(measure_extent(volume).diameter, box)
        self.group = group
        self.likelihood = PoseLikelihood(volume, image_size, pixel_size, highest=highest)
        self.reach = 0.1 * box if reach is None else reach
        self._volume = volume

    @cached_property
    def search(self) -> PoseSearch:
        """The grid of the first look."""
        return self._grid(self.reach)

    @cached_property
    def wide_search(self) -> PoseSearch:
        """The grid of the second look."""
        return self._grid(2 * self.reach)

    def _grid(self, reach: float) -> PoseSearch:
        size, pixel = self.likelihood.image_size, self.likelihood.pixel_size
        search = PoseSearch(
            size,
            pixel,
            diameter=self.diameter,
            reach=reach,
            finest=self._volume.pixel_size,
            group=self.group,
            device=self._volume.data.device,
        )
        return search.look_at(self._volume)

    def limited(self, highest: float, scale: float = 1.0) -> Matcher:
        """One that compares less, or refines against another pixel size, as :meth:`PoseLikelihood.limited`."""
        other = copy.copy(self)
        other.likelihood = self.likelihood.limited(highest, scale)
        return other

    def __call__(
        self, images: Tensor, ctf: CTF | None, noise: RadialNoise, start: tuple[Tensor, Tensor] | None = None
    ) -> Matches:
        """:meth:`match`, or :meth:`refine` from the rotations and shifts of ``start``; some images at a time."""
        step = max(1, min(_BATCH, _SAMPLES // len(self.likelihood.frequency)))
        parts = []
        for first in range(0, len(images), step):
            rows = slice(first, first + step)
            these, transfer = images[rows], None if ctf is None else ctf[rows]
            own = noise if noise.shells.ndim == 1 else RadialNoise(noise.shells[rows], noise.box)
            if start is None:
                parts.append(self.match(these, transfer, own))
            else:
                parts.append(self.refine(these, start[0][rows], start[1][rows], transfer, own))
        return Matches.join(parts)

    @torch.no_grad()
    def match(self, images: Tensor, ctf: CTF | None, noise: RadialNoise) -> Matches:
        """Find the poses of images (B, L, L), whatever they are."""
        samples, transfer = self._in_units_of_noise(images, ctf, noise)
        frequency, radius = self.search.frequency, self.search.radius
        passed = None if ctf is None else ctf(frequency)
        weight = noise.power(radius).reciprocal().expand(len(images), -1)
        modes = self._looked(self.search(images, passed, weight, _FIRST[0]), samples, transfer, *_FIRST[1:])
        found = modes.judged()
        # A particle farther off than the grid reaches fits somewhere at its edge, and nowhere else better.
        far = found.shift.norm(dim=1) > self.reach - self.search.step / 2
        again = far | (found.probability < _SURE) | (found.error > _VAGUE)
        self._draw((found.error > _BENT) & ~again, found, modes, samples, transfer)
        unsure = again.nonzero()[:, 0]
        for rows in unsure.split(_SECOND_BATCH) if len(unsure) else ():
            of_rows = None if passed is None else passed[rows]
            modes, grid = self._second_look(images[rows], of_rows, weight[rows], samples[rows], transfer[rows])
            found.put(rows, modes.sampled(self.likelihood, samples[rows], transfer[rows], grid))
        return found

    @torch.no_grad()
    def posterior(self, images: Tensor, ctf: CTF | None, noise: RadialNoise, count: int) -> Drawn:
        """The posterior over all poses of images (B, L, L), with ``count`` poses, an even number, around each mode."""
        samples, transfer = self._in_units_of_noise(images, ctf, noise)
        passed = None if ctf is None else ctf(self.wide_search.frequency)
        weight = noise.power(self.wide_search.radius).reciprocal().expand(len(images), -1)
        modes, grid = self._second_look(images, passed, weight, samples, transfer)
        return modes.drawn(self.likelihood, samples, transfer, count, grid)

    def _second_look(
        self, images: Tensor, passed: Tensor | None, weight: Tensor, samples: Tensor, transfer: Tensor
    ) -> tuple[Modes, Grid]:
        """From more poses of the grid, twice as far; CTF ``passed`` and ``weight`` as the grid has them."""
        rotation, shift = self.wide_search(images, passed, weight, _SECOND[0])
        modes = self._looked((rotation, shift), samples, transfer, *_SECOND[1:])
        move = _MOVE * self.wide_search.step
        return modes, Grid(rotation[:, :_BESIDE], shift[:, :_BESIDE], _TURN, move)

    def _draw(self, which: Tensor, found: Matches, modes: Modes, samples: Tensor, transfer: Tensor) -> None:
        """Judge some images, ``which`` (B,), anew, by poses that are drawn."""
        if len(rows := which.nonzero()[:, 0]):
            found.put(rows, modes.of(rows).sampled(self.likelihood, samples[rows], transfer[rows]))

    def _looked(self, grid: tuple[Tensor, Tensor], samples: Tensor, transfer: Tensor, starts: int, kept: int) -> Modes:
        """What is reached from the best poses of a grid, (B, K, 3, 3) and (B, K, 2)."""
        rotation, shift = grid
        first = distinct(rotation, starts, 3 * math.pi / self.search.angles, self.group)
        low = self.likelihood.below(1.25 * float(self.search.radius[-1]))
        modes = self._climbed(_taken(rotation, first), _taken(shift, first), samples, transfer, low, _COARSE_STEPS)
        order = modes.score.unflatten(0, (-1, starts)).argsort(dim=1, descending=True)
        rows = order + starts * torch.arange(len(order), device=order.device)[:, None]
        best = _taken(rows, distinct(modes.rotation[rows], kept, _NEAR, self.group))
        modes = self._climbed(modes.rotation[best], modes.shift[best], samples, transfer, None, _STEPS)
        return Modes(modes, len(samples), samples.shape[1], self.group)

    @torch.no_grad()
    def refine(self, images: Tensor, rotation: Tensor, shift: Tensor, ctf: CTF | None, noise: RadialNoise) -> Matches:
        """Refine the poses (B, 3, 3) and (B, 2) of images (B, L, L)."""
        samples, transfer = self._in_units_of_noise(images, ctf, noise)
        rotation, shift = rotation.float(), shift.float()
        low = self.likelihood.below(0.5 * float(self.likelihood.radius[-1]))
        for n, steps in ((low, _COARSE_STEPS), (None, _STEPS)):
            placed = self._climbed(rotation[:, None], shift[:, None], samples, transfer, n, steps)
            rotation, shift = placed.rotation, placed.shift
        modes = Modes(placed, len(samples), samples.shape[1], self.group)
        found = modes.judged()
        self._draw(found.error > _BENT, found, modes, samples, transfer)
        return found

    @torch.no_grad()
    def estimate_noise(
        self, images: Tensor, ctf: CTF | None, start: tuple[Tensor, Tensor] | None = None
    ) -> tuple[RadialNoise, Matches]:
        """The power of the noise of some images (N, L, L), and their poses with it.

        At first all power counts as noise; what is left when the projections at the best poses are taken off counts
        from then on. The poses are refined from ``start`` where it is given.
        """
        likelihood = self.likelihood
        samples = likelihood.samples(images)
        passed = None if ctf is None else ctf(likelihood.frequency)

        def of(residual: Tensor) -> RadialNoise:
            return RadialNoise.of_samples(residual / 2**0.5, likelihood.radius, likelihood.box)

        found = self(images, ctf, of(samples), start)
        for _ in range(_NOISE_ROUNDS):
            projections = likelihood.projections(found.rotation, found.shift, passed)
            noise = of(samples - found.amplitude[:, None] * projections)
            found = self(images, ctf, noise, (found.rotation, found.shift))
        return noise, found

    def informative(self, found: Matches, ctf: CTF | None, noise: RadialNoise, lost: float) -> float:
        """The frequency in 1/Angstrom below which all but a share ``lost`` of the information about the pose lies."""
        likelihood = self.likelihood
        passed = None if ctf is None else ctf(likelihood.frequency)
        signal = found.amplitude[:, None] * likelihood.projections(found.rotation, found.shift, passed)
        # Turning the molecule moves a sample in proportion to its frequency.
        each = (signal.abs() * likelihood.radius).square().mean(0) / noise.power(likelihood.radius)
        share = each.double().cumsum(0) / each.double().sum()
        return float(likelihood.radius[int((share < 1 - lost).sum().clamp_max(len(share) - 1))])

    def _in_units_of_noise(self, images: Tensor, ctf: CTF | None, noise: RadialNoise) -> tuple[Tensor, Tensor]:
        """Samples and transfer, (B, P), of which the noise has variance 1 in real and imaginary parts."""
        likelihood = self.likelihood
        whitening = noise.power(likelihood.radius).rsqrt()
        passed = whitening.new_ones(1) if ctf is None else ctf(likelihood.frequency)
        return likelihood.samples(images) * whitening, (passed * whitening).expand(len(images), -1)

    def _climbed(
        self, rotation: Tensor, shift: Tensor, samples: Tensor, transfer: Tensor, n: int | None, steps: int
    ) -> Placed:
        """From poses (B, K, 3, 3) and (B, K, 2); B times K poses."""
        k = rotation.shape[1]
        samples = samples[:, :n].repeat_interleave(k, 0)
        transfer = transfer[:, :n].repeat_interleave(k, 0)
        placed = self.likelihood.at(rotation.flatten(0, 1), shift.flatten(0, 1), samples, transfer)
        return self.likelihood.climb(placed, samples, transfer, steps)


def _taken(values: Tensor, positions: Tensor) -> Tensor:
    """(B, K, ...) and (B, C) -> (B, C, ...)."""
    return values[torch.arange(len(values), device=values.device)[:, None], positions]
