"""Filter stems: the image and blurred copies of itself as channels, so that the first layer sees several scales."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from ..geometry.constants import Constants

Stem = Literal["lowpass", "gaussian", "none"]


class LowPassStem(Constants):
    """The image after square brick-wall low-passes, the image itself last (Chung 2023, Table S1).

    Half-widths in Fourier pixels are 9 + W/2 - geomspace(10, W/2 - 1, n), truncated: 63, 57, 47, 33, 10 at W = 128.

    Args:
        image_size: W; the masks are made for it, another size is refused.
        in_chans: channels of the image.
        filters: number n of low-passes.
    """

    mask: Tensor

    def __init__(self, image_size: int, in_chans: int = 1, filters: int = 5) -> None:
        super().__init__()
        half = image_size // 2
        if half < 12:
            raise ValueError(f"the low-pass stem needs images of 24 pixels or more, got {image_size}")
        steps = torch.logspace(1, math.log10(half - 1), filters, dtype=torch.float64)
        # 1e-9: the last step is exactly 10, whatever the rounding of the logarithm.
        widths = (9 + half - steps + 1e-9).long()
        ky = torch.fft.fftfreq(image_size, 1 / image_size).abs()
        kx = torch.fft.rfftfreq(image_size, 1 / image_size)
        square = torch.maximum(ky[:, None], kx[None, :])
        self.set_constants(mask=(square <= widths[:, None, None]).float())
        self.image_size = image_size
        self.out_channels = in_chans * (filters + 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, W, W) -> (B, C (n + 1), W, W)."""
        if images.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(f"images of {tuple(images.shape[-2:])} pixels, the stem was made for {self.image_size}")
        spectrum = torch.fft.rfft2(images)[:, :, None] * self.mask
        low = torch.fft.irfft2(spectrum, s=images.shape[-2:])
        return torch.cat([low, images[:, :, None]], dim=2).flatten(1, 2)


class GaussianStem(Constants):
    """The image and Gaussian blurs of it, sigma from 0.1 to 10 pixels (Chung 2023; cryoAI's Gaussian pyramid).

    Args:
        image_size: not used by the filters, checked by nobody: any size works.
        in_chans: channels of the image.
        filters: number of blurs, at geometric steps.
    """

    kernel: Tensor

    def __init__(self, image_size: int, in_chans: int = 1, filters: int = 5) -> None:
        super().__init__()
        sigma = torch.logspace(-1, 1, filters)
        x = torch.arange(-5, 6)
        kernel = torch.exp(-0.5 * (x / sigma[:, None]) ** 2)
        self.set_constants(kernel=kernel / kernel.sum(1, keepdim=True))
        self.out_channels = in_chans * (filters + 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C (n + 1), H, W)."""
        batch, channels, height, width = images.shape
        n, kernel = len(self.kernel), self.kernel[:, None].to(images.dtype)
        flat = images.reshape(batch * channels, 1, height, width).expand(-1, n, -1, -1)
        rows = nn.functional.conv2d(flat, kernel[..., None], padding=(5, 0), groups=n)
        blurred = nn.functional.conv2d(rows, kernel[:, :, None], padding=(0, 5), groups=n)
        return torch.cat([images[:, :, None], blurred.view(batch, channels, n, height, width)], 2).flatten(1, 2)


class NoStem(nn.Identity):
    """The image alone."""

    def __init__(self, image_size: int, in_chans: int = 1) -> None:
        super().__init__()
        self.out_channels = in_chans


STEMS: dict[Stem, type[LowPassStem | GaussianStem | NoStem]] = {
    "lowpass": LowPassStem,
    "gaussian": GaussianStem,
    "none": NoStem,
}


def create_stem(name: Stem, image_size: int, in_chans: int) -> LowPassStem | GaussianStem | NoStem:
    """The stem of that name; an unknown name raises ValueError."""
    if name not in STEMS:
        raise ValueError(f"unknown stem {name!r}: {', '.join(STEMS)}")
    return STEMS[name](image_size, in_chans)
