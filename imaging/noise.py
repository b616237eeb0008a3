"""The power of the noise at every frequency, as the images themselves show it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .fourier import filtered

_HIGH = 0.35  # periods per pixel


@dataclass(frozen=True)
class RadialNoise:
    """Noise whose power depends on the frequency's distance from the origin alone.

    Attributes:
        shells: (S,), or (B, S) for images that differ: mean of |noise|^2 over the Fourier samples of an image in shells
            of one step, the first around the origin; of white noise of standard deviation s per pixel it is s^2 L^2.
        box: edge of the images in Angstrom, whose inverse is the step.
    """

    shells: Tensor
    box: float

    @classmethod
    def white(cls, sigma: float, image_size: int, pixel_size: float) -> RadialNoise:
        """White noise of standard deviation ``sigma`` per pixel."""
        return cls(torch.full((image_size // 2 + 1,), (sigma * image_size) ** 2), image_size * pixel_size)

    @classmethod
    def of_samples(cls, samples: Tensor, radius: Tensor, box: float) -> RadialNoise:
        """The power of noise in N images' Fourier samples (N, P) at frequencies (P,) in 1/Angstrom.

        Of each sample the median over the images counts, which some odd images do not change. Shells without a sample
        have what the nearest one below has, those before the first what it has.
        """
        shell = (radius * box).round().long()
        shells = int(shell.max()) + 1
        squares = samples.abs().square().sort(dim=0).values
        lower, upper = (len(samples) - 1) // 2, len(samples) // 2
        squares = (squares[lower] + squares[upper]) / 2 / _median_of_exponential(len(samples))
        count = torch.bincount(shell, minlength=shells)
        means = torch.bincount(shell, squares, minlength=shells) / count.clamp_min(1)
        filled = torch.where(count > 0, torch.arange(shells, device=count.device), 0).cummax(0).values
        first = int((count > 0).nonzero()[0])
        return cls(means[filled.clamp_min(first)].float(), box)

    def rows(self, group: Tensor) -> RadialNoise:
        """For images that belong to the rows ``group`` (B,) of :attr:`shells`."""
        return RadialNoise(self.shells[group], self.box)

    def power(self, radius: Tensor) -> Tensor:
        """(..., P) at frequencies (P,) in 1/Angstrom, of any shape, linear between shells."""
        last = self.shells.shape[-1] - 1
        place = (radius * self.box).clamp(min(1, last), last)
        below = place.floor().long().clamp_max(max(last - 1, 0))
        share = place - below
        return self.shells[..., below] * (1 - share) + self.shells[..., (below + 1).clamp_max(last)] * share

    def whitened(self, images: Tensor, pixel_size: float) -> Tensor:
        """Images (..., L, L) by the filter that makes this noise white, of variance 1 per pixel."""
        size = images.shape[-1]
        return filtered(images, pixel_size, lambda k: size * self.power(k.norm(dim=-1)).rsqrt())

    def coloured(self, white: Tensor, pixel_size: float) -> Tensor:
        """White noise (..., L, L) of variance 1 per pixel made like this one."""
        size = white.shape[-1]
        return filtered(white, pixel_size, lambda k: self.power(k.norm(dim=-1)).sqrt() / size)


def noise_levels(images: Tensor) -> Tensor:
    """(N,) standard deviation of images (N, L, L) at their highest frequencies, where there is little but noise."""
    size = images.shape[-1]
    ky, kx = torch.fft.fftfreq(size, device=images.device), torch.fft.rfftfreq(size, device=images.device)
    high = ky[:, None].square() + kx.square() > _HIGH**2
    return torch.fft.rfft2(images.float())[:, high].abs().square().mean(1).sqrt() / size


def _median_of_exponential(count: int) -> float:
    """The expected median of so many squares of Gaussian samples of mean 1 (Renyi 1953): ln 2 where there are many."""
    lower, upper = (count - 1) // 2, count // 2
    below = sum(1 / (count - i) for i in range(lower + 1))
    return below + (1 / (2 * (count - upper)) if upper > lower else 0.0)
