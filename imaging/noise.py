"""The power of the noise at every frequency, as the images themselves show it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RadialNoise:
    """Noise whose power depends on the frequency's distance from the origin alone.

    Attributes:
        shells: (S,) mean of |noise|^2 over the Fourier samples of an image in shells of one step, the first around the
            origin; of white noise of standard deviation s per pixel it is s^2 L^2.
        box: edge of the images in Angstrom, whose inverse is the step.
    """

    shells: Tensor
    box: float

    @classmethod
    def white(cls, sigma: float, image_size: int, pixel_size: float) -> RadialNoise:
        """White noise of standard deviation ``sigma`` per pixel."""
        return cls(torch.full((image_size // 2 + 1,), (sigma * image_size) ** 2), image_size * pixel_size)

    def power(self, radius: Tensor) -> Tensor:
        """At frequencies in 1/Angstrom, linear between shells."""
        place = (radius * self.box).clamp(1, len(self.shells) - 1)
        below = place.floor().long().clamp_max(len(self.shells) - 2)
        share = place - below
        return self.shells[below] * (1 - share) + self.shells[below + 1] * share


def shell_means(squares: Tensor, radius: Tensor, box: float, shells: int) -> Tensor:
    """(B, P) squares at frequencies (P,) -> (B, S) their means in shells of one step of the box's transform."""
    shell = (radius * box).round().long().clamp_max(shells - 1)
    count = torch.bincount(shell, minlength=shells).clamp_min(1)
    return squares.new_zeros(len(squares), shells).index_add(1, shell, squares) / count
