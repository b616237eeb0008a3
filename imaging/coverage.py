"""From where an object is seen, and how evenly its Fourier space is covered by what is seen.

The transform of an image is the plane through the origin that is perpendicular to its viewing direction, so a direction
of Fourier space is covered by the views from the side of it. Gaps in that take detail away from a map in proportion to
the sampling compensation factor (Baldwin and Lyumkis 2020, Prog. Biophys. Mol. Biol. 150, 160).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..geometry.grids import healpix_directions

# Cells of equal area, some 2 degrees wide, in which views are counted; odd, so as not to keep step with other grids.
_HEIGHTS, _AZIMUTHS = 65, 127
_BLUR = math.radians(5)  # standard deviation of the kernel by which views become a density, at least
_ROUGH = 0.2  # standard deviation of the density of views at random, at most: the kernel is wider where they are few
_BESIDE = math.sin(math.radians(5))  # within which of a right angle a view covers a direction
_FEW = 100
_AT_ONCE = 64  # directions


class Views:
    """The directions from which an object is seen.

    Args:
        rotation: (N, 3, 3) object to camera.
        group: (K, 3, 3) point group of the object: every view is also one of its mates.
    """

    def __init__(self, rotation: Tensor, group: Tensor) -> None:
        total = torch.zeros(_HEIGHTS * _AZIMUTHS, 3, dtype=torch.float64)
        count = torch.zeros(_HEIGHTS * _AZIMUTHS, dtype=torch.float64)
        views = rotation[:, 2].double()  # R^T e_z, in the frame of the object
        for mate in group.double():
            seen = views @ mate
            height = ((seen[:, 2] + 1) / 2 * _HEIGHTS).long().clamp(0, _HEIGHTS - 1)
            azimuth = ((torch.atan2(seen[:, 1], seen[:, 0]) / math.tau) % 1 * _AZIMUTHS).long() % _AZIMUTHS
            cell = height * _AZIMUTHS + azimuth
            total.index_add_(0, cell, seen)
            count += torch.bincount(cell, minlength=len(count))
        filled = count > 0
        self._direction = torch.nn.functional.normalize(total[filled], dim=-1)
        self._share = count[filled] / count.sum()
        self.count = int(count.sum())

    def density(self, directions: Tensor) -> Tensor:
        """How often the object is seen from directions (D, 3), over what it would be if it were seen evenly; (D,)."""
        sharpness = max(1.0, min(_BLUR**-2, 2 * self.count * _ROUGH**2))
        mean = -math.expm1(-2 * sharpness) / (2 * sharpness)  # of the kernel, over the sphere
        return self._summed(directions, lambda cosine: ((cosine - 1) * sharpness).exp()) / mean

    def coverage(self, directions: Tensor) -> Tensor:
        """How many views cover directions of Fourier space (D, 3), over the mean of all directions; (D,)."""
        return self._summed(directions, lambda cosine: (cosine.abs() < _BESIDE).double()) / _BESIDE

    def compensation(self) -> tuple[float, float]:
        """The sampling compensation factor, and the coverage of the direction that is covered least.

        1 for even views, 8 / pi^2 for all views from the side, 0 where some direction is not covered at all.
        """
        coverage = self.coverage(healpix_directions(4))
        coverage = coverage / coverage.mean()
        return float(1 / (1 / coverage).mean()), float(coverage.min())

    def compensation_at_random(self) -> float:
        """About the factor of as many views that are spread at random; fewer than some 100 leave directions out."""
        return 0.0 if self.count < _FEW else 1 / (1 + (1 - _BESIDE) / (_BESIDE * self.count))

    def _summed(self, directions: Tensor, kernel: Callable[[Tensor], Tensor]) -> Tensor:
        summed = torch.empty(len(directions), dtype=torch.float64)
        for first in range(0, len(directions), _AT_ONCE):
            rows = slice(first, first + _AT_ONCE)
            summed[rows] = kernel(directions[rows].double() @ self._direction.T) @ self._share
        return summed
