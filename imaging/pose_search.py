"""Every pose of a grid compared with an image: directions, in-plane angles and shifts, by batched matrix products.

Image and projections are sampled on rings in Fourier space. Turning an image in its plane shifts the samples of a ring,
so that the correlations at all angles are one Fourier series, whose coefficients are products of the coefficients of
image and projection: a matrix product per coefficient, between shifted images and directions. Half of a ring is enough,
as its other half is the conjugate: even coefficients come from real parts, odd ones from imaginary parts.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor

from ..geometry.grids import so3_grid
from ..geometry.rotations import rotvec_to_matrix
from .fourier_table import FourierTable
from .preprocessing import fourier_resize
from .volumes import Volume

_ORDER = 2  # directions are 14.7 degrees apart, in-plane angles 7.5
_EDGE = 3.0  # pixels; of the mask around the molecule
_BYTES = 1 << 27  # of the scores that are held at a time
_GENERIC = (0.36, 0.48, 0.8)  # a direction that no symmetry axis comes near


class Drawn(NamedTuple):
    """K poses drawn for each of B images.

    Attributes:
        rotation: (B, K, 3, 3) object to camera.
        shift: (B, K, 2) in Angstrom.
        evidence: (B,) log of the likelihood's mean over the grid, over that of noise alone.
    """

    rotation: Tensor
    shift: Tensor
    evidence: Tensor


class PoseSearch:
    """A grid of poses, and the projections of a map in its directions.

    Args:
        image_size: L, pixels along an edge of the images.
        pixel_size: Angstrom per pixel of the images.
        diameter: of the molecule in Angstrom. It says how finely frequencies must be sampled, and the largest one at
            which neighbours of the grid still correlate.
        reach: the largest shift in Angstrom.
        finest: Angstrom per pixel of what is coarser, images or map; by default the images.
        order: of the HEALPix grid of directions: they are 58.6 / 2^order degrees apart, in-plane angles half of that.
        highest: the largest frequency that is compared, in 1/Angstrom; by default as ``diameter`` says.
        group: (K, 3, 3) point group of the map; directions are those of an asymmetric unit.
        device: where the work is done.

    Attributes:
        frequency: (P, 2) in 1/Angstrom, where images are sampled: ring by ring.
        radius: (rings,) of the rings.
        shifts: (S, 2) in Angstrom.
        step: between shifts, in Angstrom.
        directions: (D, 3, 3) rotations to the views that were last looked at; the object is turned in plane after them.
    """

    def __init__(
        self,
        image_size: int,
        pixel_size: float,
        *,
        diameter: float,
        reach: float,
        finest: float | None = None,
        order: int = _ORDER,
        highest: float | None = None,
        group: Tensor | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.angles = 12 * 2**order
        half = self.angles // 2
        if highest is None:
            nyquist = 0.5 / max(pixel_size, finest or pixel_size)
            # Half a step between directions moves the rim of the molecule by two thirds of this wavelength. Beyond, a
            # projection between those of the grid is not recognised; with less, more poses look alike.
            highest = min(0.9 * nyquist, 0.66 * self.angles / (math.pi * diameter))
        self.highest = highest
        self.box = image_size * pixel_size
        lowest = 0.5 / self.box
        rings = max(4, math.ceil((highest - lowest) * diameter))
        edges = torch.linspace(lowest, highest, rings + 1)
        self.radius = ((edges[1:] + edges[:-1]) / 2).to(device)
        self._area = (edges[1:] ** 2 - edges[:-1] ** 2).to(device)
        angle = math.pi * torch.arange(half, device=device) / half
        ring = torch.stack([angle.cos(), angle.sin()], -1)
        self.frequency = (self.radius[:, None, None] * ring).flatten(0, 1)
        grid = so3_grid(order)[:: 6 * 2**order]
        self.directions = self._grid = _asymmetric_unit(grid, group, self.angles).float().to(device)

        self.step = 0.35 / highest
        count = math.floor(reach / self.step)
        axis = torch.arange(-count, count + 1, device=device) * self.step
        shifts = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).flatten(0, 1)
        self.shifts = shifts[shifts.norm(dim=1) <= reach]
        ramp = 2 * math.pi * self.shifts @ self.frequency.T
        self._ramp = torch.polar(torch.ones_like(ramp), ramp).unflatten(1, (rings, half))

        # Around the molecule there is noise alone: without it, samples that are as far apart as these miss nothing.
        pixels = torch.arange(image_size, device=device) - image_size // 2
        beyond = (pixels[:, None] ** 2 + pixels**2).sqrt() - (diameter / 2 + reach) / pixel_size
        self._mask = 0.5 + 0.5 * torch.cos(math.pi * (beyond / _EDGE).clamp(0, 1))
        # What lies beyond the rings is cut off first: fewer pixels to transform.
        self._coarse = min(image_size, 2 * math.ceil(1.1 * highest * self.box))
        x = (torch.arange(self._coarse, device=device) - self._coarse // 2) * (self.box / self._coarse)
        phase = -2 * math.pi * (self.frequency[:, 0, None, None] * x + self.frequency[:, 1, None, None] * x[:, None])
        wave = torch.stack([phase.cos(), phase.sin()], 1) * (image_size / self._coarse) ** 2
        self._wave = wave.flatten(0, 1).flatten(1).T.contiguous()  # (pixels, 2 P)

    def look_at(self, volume: Volume, frame: Tensor | None = None) -> Self:
        """Take the projections of a map of the images' box; with ``frame``, (3, 3), the grid is turned by it first."""
        self.directions = self._grid if frame is None else self._grid @ frame.to(self._grid)
        rings = len(self.radius)
        box = volume.size * volume.pixel_size
        table = FourierTable(volume.data.float(), self.highest * box)
        seen = table((self.frequency * box) @ self.directions[:, :2])[..., 0].unflatten(1, (rings, -1))
        self._power = seen.abs().square().mean(2) * self._area  # (directions, rings)
        coefficients = _coefficients(seen).conj() * self._area[:, None]
        self._projections = coefficients.permute(2, 1, 0).contiguous()  # (angles / 2 + 1, rings, directions)
        return self

    def samples(self, images: Tensor) -> Tensor:
        """The Fourier samples (B, P) of images (B, L, L) around the molecule, their origin at pixel ``L // 2``."""
        outside = 1 - self._mask
        background = (images * outside).sum((1, 2)) / outside.sum().clamp_min(1e-6)
        images = (images.float() - background[:, None, None]) * self._mask
        coarse = fourier_resize(images, self._coarse).flatten(1)
        return torch.view_as_complex((coarse @ self._wave).unflatten(1, (-1, 2)))

    def __call__(self, images: Tensor, transfer: Tensor | None, weight: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The poses of the grid that fit best.

        Args:
            images: (B, L, L).
            transfer: (B, P) the CTF at :attr:`frequency`; 1 without it.
            weight: (B, rings) of the squared differences: one over the power of the noise.
            count: poses for each image, K.

        Returns:
            rotations (B, K, 3, 3) and shifts (B, K, 2) in Angstrom, the best first.
        """
        samples = self.samples(images)
        bytes_of_one = 4 * len(self.shifts) * len(self.directions) * self.angles
        step = max(1, _BYTES // bytes_of_one)
        parts = []
        for start in range(0, len(images), step):
            rows = slice(start, start + step)
            products, norm = self._products(samples[rows], None if transfer is None else transfer[rows], weight[rows])
            best, shift = products.max(1)  # (b, directions, angles)
            best = best / norm[:, :, None]
            cell = best.flatten(1).topk(min(count, best[0].numel()), dim=1).indices
            parts.append((cell, shift.flatten(1).gather(1, cell)))
        cell, shift = (torch.cat(part) for part in zip(*parts, strict=True))
        return self._rotations(cell), self.shifts[shift]

    def draw(
        self, samples: Tensor, transfer: Tensor | None, weight: Tensor, count: int, generator: torch.Generator
    ) -> Drawn:
        """Draw poses from the posterior on the grid, where the map's projections have their own amplitude.

        Args:
            samples: (B, P) as of :meth:`samples`.
            transfer: (B, P) the CTF at :attr:`frequency`; 1 without it.
            weight: (B, rings) one over the power of the noise.
            count: poses for each image, K.
            generator: of the random numbers, on the CPU.
        """
        # Sums over rings stand for sums over the Fourier samples of half of an image.
        density = math.pi * self.box**2
        products, norm = self._products(samples, transfer, weight * density)
        norm = norm / self.angles**2
        # Twice a product less the square of the projection: the log-likelihood over that of noise alone.
        logs = products.mul_(1 / self.angles**2).sub_((norm.square() / 2)[:, None, :, None])
        b, shifts, directions, angles = logs.shape
        highest = logs.flatten(1).amax(1)
        logs = logs.sub_(highest[:, None, None, None]).exp_().flatten(1, 2)  # (b, shifts * directions, angles)
        of_views = logs.sum(2)
        total = of_views.sum(1)
        place = torch.rand(b, 2, count, generator=generator).to(total)
        view = torch.searchsorted(of_views.cumsum(1) / total[:, None], place[:, 0].contiguous())
        view = view.clamp_max(shifts * directions - 1)
        chosen = logs.gather(1, view[:, :, None].expand(-1, -1, angles))
        share = chosen.cumsum(2) / chosen.sum(2, keepdim=True)
        angle = torch.searchsorted(share, place[:, 1, :, None].contiguous())[..., 0]
        cell = (view % directions) * angles + angle.clamp_max(angles - 1)
        evidence = highest + total.log() - math.log(shifts * directions * angles)
        return Drawn(self._rotations(cell), self.shifts[view // directions], evidence)

    def _rotations(self, cell: Tensor) -> Tensor:
        """(...) of views and angles -> (..., 3, 3)."""
        turn = torch.zeros(*cell.shape, 3, device=cell.device)
        turn[..., 2] = 2 * math.pi / self.angles * (cell % self.angles)
        return rotvec_to_matrix(turn) @ self.directions[cell // self.angles]

    def _products(self, samples: Tensor, transfer: Tensor | None, weight: Tensor) -> tuple[Tensor, Tensor]:
        """<a, F>, (b, shifts, directions, angles), and |a|, (b, directions); their quotient is the score's root."""
        samples = samples.unflatten(1, (len(self.radius), -1)) * weight[:, :, None]
        passed = weight
        if transfer is not None:
            transfer = transfer.unflatten(1, (len(self.radius), -1))
            samples = samples * transfer
            # An astigmatic CTF is not the same all round a ring; of its square the mean is near enough here.
            passed = weight * transfer.square().mean(2)
        norm = (passed @ self._power.T).sqrt()
        moved = _coefficients(samples[:, None] * self._ramp)  # (b, shifts, rings, angles / 2 + 1)
        product = torch.bmm(moved.permute(3, 0, 1, 2).flatten(1, 2), self._projections)
        series = product.unflatten(1, (len(samples), -1)).permute(1, 2, 3, 0)
        return torch.fft.irfft(series, n=self.angles, norm="forward"), norm * self.angles**2


def _coefficients(samples: Tensor) -> Tensor:
    """(..., angles / 2) samples of half rings -> (..., angles / 2 + 1) Fourier coefficients of the whole ones."""
    even = torch.fft.rfft(torch.cat([samples.real, samples.real], -1))
    odd = torch.fft.rfft(torch.cat([samples.imag, -samples.imag], -1))
    return even + 1j * odd


def _asymmetric_unit(directions: Tensor, group: Tensor | None, angles: int) -> Tensor:
    """Those directions, as rotations (N, 3, 3), of which none is a mate of another, with a margin of a step."""
    if group is None or len(group) == 1:
        return directions
    generic = torch.tensor(_GENERIC, dtype=directions.dtype)
    # The view R is the view R g of the molecule: its direction, the last row, becomes that row times g.
    near = directions[:, 2] @ (group.to(directions) @ generic).T  # (N, K) cosines to the mates of the generic direction
    margin = 2 * math.pi / angles
    own = near[:, 0].clamp(-1, 1).arccos()
    return directions[own <= near[:, 1:].amax(1).clamp(-1, 1).arccos() + margin]


def distinct(rotation: Tensor, count: int, angle: float, group: Tensor | None = None) -> Tensor:
    """Choose poses that are not near to a better one.

    Args:
        rotation: (B, K, 3, 3), the best first.
        count: how many to choose.
        angle: radian, that the chosen are apart, over the mates of a point group where it is given.

    Returns:
        (B, count) positions, the first of them 0; where fewer are that far apart, those of the best follow again.
    """
    b, k = rotation.shape[:2]
    mates = rotation[:, :, None] if group is None else rotation[:, :, None] @ group.to(rotation)
    flat, others = rotation.flatten(2), mates.flatten(1, 2).flatten(2)
    traces = (flat @ others.mT).unflatten(2, (k, -1)).amax(-1)
    near = traces > 1 + 2 * math.cos(angle)
    left = torch.ones(b, k, dtype=torch.bool, device=rotation.device)
    positions = []
    for _ in range(count):
        position = left.to(torch.uint8).argmax(1)  # the first that is left, or 0
        positions.append(position)
        left &= ~near.gather(1, position[:, None, None].expand(-1, 1, k))[:, 0]
    return torch.stack(positions, 1)
