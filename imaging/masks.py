"""Soft masks: 1 inside, 0 outside, half a cosine between, so that they add little to a Fourier transform."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .fourier import separable
from .volumes import Volume

_RESOLUTION = 15.0  # Angstrom, to which a map is blurred before its outline is taken


def spherical_mask(size: int, radius: float, edge: float) -> Tensor:
    """(L, L, L) float32: 1 up to ``radius`` voxels from the origin at voxel ``L // 2``, 0 from ``radius + edge`` on."""
    axis = (torch.arange(size) - size // 2) ** 2
    distance = (axis[:, None, None] + axis[:, None] + axis).sqrt()
    return _soft_edge(distance - radius, edge)


def mask_from_map(volume: Volume, *, extend: int = 3, edge: int = 6) -> Tensor:
    """(L, L, L) float32 around the density of a map, whatever its scale.

    The map is blurred to 15 Angstrom (or 4 voxels), and where that exceeds the threshold that best parts its voxels
    in two classes (Otsu 1979, IEEE Trans. SMC 9, 62) is inside.

    Args:
        volume: the map; the mean of two half maps rather than one of them.
        extend: voxels by which the inside grows on all sides.
        edge: voxels from there to 0.
    """
    inside = blurred(volume, max(_RESOLUTION, 4 * volume.pixel_size))
    return _soft_edge(_distance(inside > otsu_threshold(inside), extend + edge) - extend, edge)


def _soft_edge(beyond: Tensor, width: float) -> Tensor:
    """1 where ``beyond`` is not positive, 0 from ``width`` on."""
    return 0.5 + 0.5 * torch.cos(torch.pi * (beyond / width).clamp(0, 1))


def blurred(volume: Volume, resolution: float) -> Tensor:
    """The map times exp(-(k resolution)^2) in Fourier space, as ``Volume.from_atoms`` blurs."""
    size = volume.size
    k = torch.fft.fftfreq(size, volume.pixel_size) * resolution
    kernel = torch.exp(-(k**2))
    spectrum = torch.fft.rfftn(volume.data) * separable(kernel, kernel[: size // 2 + 1])
    return torch.fft.irfftn(spectrum, s=volume.data.shape)


def otsu_threshold(values: Tensor, bins: int = 256) -> float:
    """The value that parts a histogram in two classes with the largest variance between their means."""
    low, high = values.min(), values.max()
    count = torch.histc(values, bins, low.item(), high.item()).double()
    middle = low + (torch.arange(bins) + 0.5) * (high - low) / bins
    below, total = count.cumsum(0), count.sum()
    sum_below, sum_all = (count * middle).cumsum(0), (count * middle).sum()
    between = (sum_below * total - sum_all * below) ** 2 / (below * (total - below)).clamp_min(1)
    return float(middle[between.argmax()] + (high - low) / (2 * bins))


def _distance(inside: Tensor, reach: int) -> Tensor:
    """Voxels to the nearest one inside, as far as ``reach`` and infinite beyond; axis by axis, as squares add up."""
    squared = torch.where(inside, 0.0, torch.inf)
    for axis in range(inside.ndim):
        lines = F.pad(squared.movedim(axis, -1), (reach, reach), value=torch.inf).unfold(-1, 2 * reach + 1, 1)
        offset = torch.arange(-reach, reach + 1)
        squared = (lines + offset**2).amin(-1).movedim(-1, axis)
    return squared.sqrt()
