"""What happens to a particle image before the network sees it; travels with the weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..particles.ctf import CTF
from .fourier import centred_fft, centred_ifft, crop_or_zero_pad, filtered
from .simulate import inscribed_circle

CTFCorrection = Literal["none", "phase_flip"]


@dataclass(frozen=True)
class Preprocessing:
    """Phases flipped where that is asked for, Fourier resampling to the trained pixel size, box, mean 0 and variance 1
    within the inscribed circle, 0 outside.

    Attributes:
        image_size: box of the network's input in pixels.
        pixel_size: Angstrom per pixel of the network's input.
        ctf: ``none``, or ``phase_flip`` to give all frequencies of an image the sign that they would have without CTF.
    """

    image_size: int
    pixel_size: float
    ctf: CTFCorrection = "none"

    def __post_init__(self) -> None:
        if not 8 <= self.image_size <= 4096:
            raise ValueError(f"image_size {self.image_size}, expected 8 to 4096 pixels")
        if not 0 < self.pixel_size < 1e3:
            raise ValueError(f"pixel_size {self.pixel_size}, expected Angstrom per pixel, above 0")
        if self.ctf not in get_args(CTFCorrection):
            raise ValueError(f"ctf {self.ctf!r}, expected one of {', '.join(get_args(CTFCorrection))}")

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for an entry or a checkpoint."""
        return asdict(self)

    @torch.no_grad()
    def __call__(self, images: Tensor, pixel_size: float | None = None, ctf: CTF | None = None) -> Tensor:
        """Prepare a batch.

        Args:
            images: (B, L, L) or (B, 1, L, L), any box, particle bright, origin at pixel L // 2.
            pixel_size: Angstrom per pixel of ``images``; None means the trained one.
            ctf: that of the images, for ``phase_flip``; None for images whose phases are right.

        Returns:
            (B, 1, image_size, image_size) float32. The pixel size reached is the trained one up to half a pixel in the
            box; an image that is constant within the circle becomes zero.
        """
        images = images.float()
        if images.ndim == 3:
            images = images[:, None]
        if images.ndim != 4 or images.shape[1] != 1 or images.shape[2] != images.shape[3]:
            raise ValueError(f"images of shape {tuple(images.shape)}; expected (B, L, L) or (B, 1, L, L)")
        size = images.shape[-1]
        scale = 1.0 if pixel_size is None else pixel_size / self.pixel_size
        if self.ctf == "phase_flip" and ctf is not None:
            images = phase_flip(images, scale * self.pixel_size, ctf)
        images = fourier_resize(images, max(1, round(size * scale)))
        images = crop_or_pad(images, self.image_size)
        return standardise(images)


def phase_flip(images: Tensor, pixel_size: float, ctf: CTF) -> Tensor:
    """Multiply the frequencies of images (B, 1, L, L) by the sign of their CTF."""
    return filtered(images, pixel_size, lambda k: torch.where(ctf(k) < 0, -1.0, 1.0)[:, None])


def divide_by_modulus(images: Tensor, pixel_size: float, ctf: CTF) -> Tensor:
    """Leave the signs of images (B, L, L) that were multiplied by their CTF, and its modulus once.

    Their noise is white again, as it was before, but where the CTF is below 0.05 and noise alone would be divided.
    """
    return filtered(images, pixel_size, lambda k: ctf(k).abs().clamp_min(0.05).reciprocal())


def standardise(images: Tensor) -> Tensor:
    """Mean 0 and variance 1 within the inscribed circle of (..., L, L) images, 0 outside; a constant becomes 0."""
    circle = inscribed_circle(images.shape[-1]).to(images.device)
    inside = images[..., circle]
    mean = inside.mean(-1)[..., None, None]
    std = inside.std(-1)[..., None, None]
    # What rounding leaves of a constant image is not a signal.
    varies = std > 1e-5 * inside.abs().amax(-1)[..., None, None]
    return torch.where(varies, (images - mean) / std, 0) * circle


def fourier_resize(images: Tensor, size: int) -> Tensor:
    """Resample (..., L, L) to (..., size, size) by cropping or padding in Fourier space; pixel values keep their scale.

    The origin stays at pixel L // 2 (then ``size // 2``); the band is limited to the smaller Nyquist frequency.
    """
    old = images.shape[-1]
    if size == old:
        return images
    spectrum = crop_or_zero_pad(centred_fft(images, 2), size, 2)
    if min(size, old) % 2 == 0:
        # The Nyquist row of the smaller, even grid has no partner: without it the image stays real.
        edge = size // 2 - min(size, old) // 2
        spectrum[..., edge, :] = 0
        spectrum[..., :, edge] = 0
    return centred_ifft(spectrum, 2) * (size / old) ** 2


def crop_or_pad(images: Tensor, size: int) -> Tensor:
    """Crop (..., L, L), or pad it with its border mean, to (..., size, size); the origin moves to ``size // 2``."""
    if size <= images.shape[-1]:
        return crop_or_zero_pad(images, size, 2)
    border = torch.cat([images[..., 0, :], images[..., -1, :], images[..., :, 0], images[..., :, -1]], dim=-1)
    fill = border.mean(-1)[..., None, None]
    return crop_or_zero_pad(images - fill, size, 2) + fill
