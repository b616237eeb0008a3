"""The Fourier samples of images: half of a plane, from low frequencies to high."""

from __future__ import annotations

import torch
from torch import Tensor


class FourierSamples:
    """Where images of one size are sampled: one of every pair of conjugates, without the origin.

    Args:
        image_size: L, pixels along an edge of the images.
        pixel_size: Angstrom per pixel of the images.
        highest: the largest frequency, in 1/Angstrom; at most, and by default, the Nyquist frequency.
        device: where the work is done.

    Attributes:
        frequency: (P, 2) the samples, from low to high.
        radius: (P,) their distances from the origin.
        highest: the largest frequency.
        box: edge of the images in Angstrom.
    """

    def __init__(
        self,
        image_size: int,
        pixel_size: float,
        *,
        highest: float | None = None,
        device: torch.device | None = None,
    ) -> None:
        nyquist = 0.5 / pixel_size * (1 - 1e-6)
        highest = nyquist if highest is None else min(highest, nyquist)
        ky = torch.fft.fftfreq(image_size, pixel_size, device=device)
        kx = torch.fft.rfftfreq(image_size, pixel_size, device=device)
        frequency = torch.stack(torch.meshgrid(kx, ky, indexing="xy"), -1).flatten(0, 1)
        radius = frequency.norm(dim=1)
        # Of a conjugate pair, the half-plane holds both samples where kx is 0.
        inside = ((radius > 0) & (radius < highest) & ((frequency[:, 0] > 0) | (frequency[:, 1] > 0))).nonzero()[:, 0]
        self._places = inside[radius[inside].argsort(stable=True)]
        self.frequency, self.radius = frequency[self._places], radius[self._places]
        self.image_size, self.pixel_size = image_size, pixel_size
        self.highest, self.box = highest, image_size * pixel_size
        to_centre = 2 * torch.pi * self.frequency.sum(1) * (image_size // 2 * pixel_size)
        self._to_centre = torch.polar(torch.full_like(to_centre, 2**0.5), to_centre)

    def samples(self, images: Tensor) -> Tensor:
        """The Fourier samples (B, P) of images (B, L, L), their origin at pixel ``L // 2``.

        Each stands for its conjugate, too: white noise of standard deviation s per pixel has E |noise|^2 = 2 s^2 L^2.
        """
        return torch.fft.rfft2(images.float()).flatten(1)[:, self._places] * self._to_centre

    def images(self, samples: Tensor) -> Tensor:
        """The images (B, L, L) that have the samples (B, P), and nothing at other frequencies."""
        size = self.image_size
        spectrum = samples.new_zeros(len(samples), size * (size // 2 + 1))
        spectrum[:, self._places] = samples / self._to_centre
        spectrum = spectrum.unflatten(1, (size, -1))
        spectrum[:, 1:, 0] += spectrum[:, 1:, 0].flip(1).conj()  # of the pairs of which one sample is kept
        return torch.fft.irfft2(spectrum, s=(size, size))

    def below(self, frequency: float) -> int:
        """How many samples lie below a frequency."""
        return int((self.radius < frequency).sum())

    def ramp(self, shift: Tensor, transfer: Tensor | None, n: int, *, scale: float = 1.0) -> Tensor:
        """What the lowest n samples of a centred image become when it is shifted, (B, n).

        Args:
            shift: (B, 2) in Angstrom, (x, y), where the content moves.
            transfer: (B, n) what they are multiplied by besides: the CTF; 1 without it.
            n: how many.
            scale: the same for all.
        """
        angle = -2 * torch.pi * shift @ self.frequency[:n].T
        return torch.polar(torch.full_like(angle, scale) if transfer is None else transfer * scale, angle)
