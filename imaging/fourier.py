"""Fourier transforms of images and maps whose origin, before and after, is in the middle: at sample ``L // 2``.

Samples between those of a transform are interpolated linearly on the grid of a box padded with zeros. That multiplies
real space by the transform of the interpolation kernel, sinc^2, which is divided out there.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def centred_fft(values: Tensor, dims: int = 3) -> Tensor:
    """The complex transform over the last ``dims`` axes."""
    axes = tuple(range(-dims, 0))
    return torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(values, axes), dim=axes), axes)


def centred_ifft(spectrum: Tensor, dims: int = 3) -> Tensor:
    """The real part of the inverse of :func:`centred_fft`."""
    axes = tuple(range(-dims, 0))
    return torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(spectrum, axes), dim=axes).real, axes)


def crop_or_zero_pad(values: Tensor, size: int, dims: int = 3) -> Tensor:
    """(..., L, ..., L) cut, or filled with zeros, to ``size`` along the last ``dims`` axes."""
    before = size // 2 - values.shape[-1] // 2
    return F.pad(values, (before, size - values.shape[-1] - before) * dims)


def filtered(images: Tensor, pixel_size: float, transfer: Callable[[Tensor], Tensor]) -> Tensor:
    """(..., L, L) images times a function of the frequency, (L, L // 2 + 1, 2) xy in one over ``pixel_size``'s unit."""
    size = images.shape[-1]
    ky, kx = torch.fft.fftfreq(size, pixel_size), torch.fft.rfftfreq(size, pixel_size)
    frequency = torch.stack(torch.meshgrid(kx, ky, indexing="xy"), -1).to(images.device)
    return torch.fft.irfft2(torch.fft.rfft2(images) * transfer(frequency), s=(size, size))


def without_interpolation(data: Tensor, padded: int) -> Tensor:
    """(L, L, L) divided by what linear interpolation between the samples of its transform multiplies it with.

    Args:
        data: the map.
        padded: edge of the box, padded with zeros, whose transform is interpolated.
    """
    size = len(data)
    offset = (torch.arange(size, device=data.device) - size // 2).to(data.dtype)
    return data / separable(torch.sinc(offset / padded) ** 2)


def separable(kernel: Tensor, last: Tensor | None = None) -> Tensor:
    """(L, L, L) products of a kernel (L,) along every axis; another one along the last where it is given."""
    return kernel[:, None, None] * kernel[:, None] * (kernel if last is None else last)


def shell_number(squared: Tensor, padding: int = 1) -> Tensor:
    """The shell of samples (...) at squared distances from the origin, counted in samples of a padded box."""
    return (squared.sqrt() / padding).round().long()


def rfft_shells(size: int, dims: int, device: torch.device | None = None) -> Tensor:
    """The shell of every sample of ``rfftn`` of an array of ``size`` along ``dims`` axes."""
    axis = torch.fft.fftfreq(size, 1 / size, device=device).round().long() ** 2
    squared = axis[: size // 2 + 1]
    for _ in range(dims - 1):
        squared = axis.view(-1, *(1,) * squared.ndim) + squared
    return shell_number(squared)
