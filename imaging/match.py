"""Maximum-likelihood poses of images against a map: a search over all poses, then steps from the best of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..geometry.point_groups import symmetric_distance
from ..particles.ctf import CTF
from .extent import measure_extent
from .noise import RadialNoise
from .pose_likelihood import Placed, PoseLikelihood
from .pose_search import PoseSearch, distinct
from .volumes import Volume

# Poses of the grid, those that are climbed from at the search's resolution, and from these at full resolution; and the
# same for a second look at images whose best mode is not sure, twice as far off the centre.
_FIRST, _SECOND = (64, 8, 3), (512, 48, 6)
_SURE = 0.995
_COARSE_STEPS, _STEPS = 3, 3
_SECOND_BATCH = 16
_NOISE_ROUNDS = 2
_SAME = 2.0  # degrees, between what steps from two starts reached, below which it is one mode


@dataclass(frozen=True)
class Matches:
    """Poses of B images and how sure they are.

    Attributes:
        rotation: (B, 3, 3) object to camera.
        shift: (B, 2) in Angstrom.
        covariance: (B, 5, 5) of rotation vector (camera frame, radian) and shift (Angstrom): the inverse of the Fisher
            information at the pose.
        probability: (B,) of this mode among those that were found; 1 where one pose was refined.
        error: (B,) expected angular error in radian (root mean square), over the modes that were found.
        score: (B,) twice the log-likelihood over that of noise alone.
        amplitude: (B,) of the map's projection in the image.
    """

    rotation: Tensor
    shift: Tensor
    covariance: Tensor
    probability: Tensor
    error: Tensor
    score: Tensor
    amplitude: Tensor


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
        return PoseSearch(self._volume, size, pixel, diameter=self.diameter, reach=reach, group=self.group)

    def __call__(
        self, images: Tensor, ctf: CTF | None, noise: RadialNoise, start: tuple[Tensor, Tensor] | None = None
    ) -> Matches:
        """:meth:`match`, or :meth:`refine` from the rotations and shifts of ``start``."""
        return self.match(images, ctf, noise) if start is None else self.refine(images, *start, ctf, noise)

    @torch.no_grad()
    def match(self, images: Tensor, ctf: CTF | None, noise: RadialNoise) -> Matches:
        """Find the poses of images (B, L, L), whatever they are."""
        samples, transfer = self._in_units_of_noise(images, ctf, noise)
        frequency, radius = self.search.frequency, self.search.radius
        passed = None if ctf is None else ctf(frequency)
        weight = noise.power(radius).reciprocal().expand(len(images), -1)
        grid = self.search(images, passed, weight, _FIRST[0])
        found = self._looked(grid, samples, transfer, *_FIRST[1:])
        unsure = (found.probability < _SURE).nonzero()[:, 0]
        for rows in unsure.split(_SECOND_BATCH) if len(unsure) else ():
            grid = self.wide_search(images[rows], None if passed is None else passed[rows], weight[rows], _SECOND[0])
            again = self._looked(grid, samples[rows], transfer[rows], *_SECOND[1:])
            for name, values in vars(found).items():
                values[rows] = getattr(again, name)
        return found

    def _looked(
        self, grid: tuple[Tensor, Tensor], samples: Tensor, transfer: Tensor, starts: int, kept: int
    ) -> Matches:
        """The best mode that is reached from the best poses of a grid, (B, K, 3, 3) and (B, K, 2)."""
        rotation, shift = grid
        first = distinct(rotation, starts, 3 * math.pi / self.search.angles, self.group)
        low = self.likelihood.below(1.25 * float(self.search.radius[-1]))
        modes = self._climbed(_taken(rotation, first), _taken(shift, first), samples, transfer, low, _COARSE_STEPS)
        order = modes.score.unflatten(0, (-1, starts)).argsort(dim=1, descending=True)
        rows = order + starts * torch.arange(len(order), device=order.device)[:, None]
        best = _taken(rows, distinct(modes.rotation[rows], kept, math.radians(_SAME), self.group))
        modes = self._climbed(modes.rotation[best], modes.shift[best], samples, transfer, None, _STEPS)
        return self._judged(modes, len(samples))

    @torch.no_grad()
    def refine(self, images: Tensor, rotation: Tensor, shift: Tensor, ctf: CTF | None, noise: RadialNoise) -> Matches:
        """Refine the poses (B, 3, 3) and (B, 2) of images (B, L, L)."""
        samples, transfer = self._in_units_of_noise(images, ctf, noise)
        rotation, shift = rotation.float(), shift.float()
        low = self.likelihood.below(0.5 * float(self.likelihood.radius[-1]))
        for n, steps in ((low, _COARSE_STEPS), (None, _STEPS)):
            placed = self._climbed(rotation[:, None], shift[:, None], samples, transfer, n, steps)
            rotation, shift = placed.rotation, placed.shift
        return self._judged(placed, len(images))

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
            found = self.refine(images, found.rotation, found.shift, ctf, noise)
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

    def _judged(self, modes: Placed, count: int) -> Matches:
        """The best of the modes of each of ``count`` images, beside the others."""
        k = len(modes.score) // count
        information = modes.information().double()
        # Of an image without any signal it is nothing: then the pose is not known to a thousand radian.
        covariance = torch.linalg.inv(information + 1e-6 * torch.eye(5).to(information))
        # Laplace: the volume under a mode is its height times the square root of the determinant of its covariance.
        evidence = (modes.score.double() + covariance.logdet()).unflatten(0, (count, k)) / 2
        order = evidence.argsort(dim=1, descending=True)
        rotation = _taken(modes.rotation.double().unflatten(0, (count, k)), order)
        group = torch.eye(3)[None] if self.group is None else self.group
        apart = symmetric_distance(rotation[:, :, None], rotation[:, None], group.to(rotation))
        # Steps from several starts that reached one mode are one mode.
        again = (apart < math.radians(_SAME)).tril(-1).any(2)
        share = _taken(evidence, order).masked_fill(again, -torch.inf).softmax(1)
        chosen = order[:, 0] + k * torch.arange(count, device=order.device)
        covariance = covariance[chosen]
        spread = covariance.diagonal(dim1=1, dim2=2)[:, :3].sum(1)
        error = (spread + (share * apart[:, 0] ** 2).sum(1)).sqrt().clamp_max(math.pi)
        return Matches(
            modes.rotation[chosen],
            modes.shift[chosen],
            covariance.float(),
            share[:, 0].float(),
            error.float(),
            modes.score[chosen],
            modes.amplitude[chosen],
        )


def _taken(values: Tensor, positions: Tensor) -> Tensor:
    """(B, K, ...) and (B, C) -> (B, C, ...)."""
    return values[torch.arange(len(values), device=values.device)[:, None], positions]
