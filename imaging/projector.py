"""Projections of a volume by the Fourier slice theorem, as RELION makes them.

The Fourier transform of I(x, y) = integral V(R^T (x, y, z)) dz is the slice F[V](kx R[0] + ky R[1]) through the
origin. The volume is divided by the transform of the interpolation kernel (sinc^2), zero-padded, transformed once,
and each slice is interpolated trilinearly. Shifts are phase ramps, the CTF multiplies, one inverse FFT gives the image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..particles.ctf import CTF
from .fourier import centred_fft, crop_or_zero_pad, without_interpolation
from .volumes import Volume


class Projector(nn.Module):
    """Projections of one volume, in batches, in the floating-point type of the volume: float32 or float64.

    Gradients reach rotation, shift and CTF parameters, and the volume where ``volume.data`` requires them. As the
    volume is transformed when the projector is made, whoever changes the volume makes a new projector; a second
    backward pass through one needs ``retain_graph``. What is interpolated linearly has a derivative in the rotation
    that jumps where samples cross planes of the Fourier grid.

    Args:
        volume: the object, even or odd box, origin at voxel ``size // 2``.
        image_size: box of the images in pixels; default that of the volume.
        pixel_size: Angstrom per pixel of the images; default that of the volume.
        padding: oversampling of the Fourier volume. At 2 the error is about 1 % of the signal, at 3 half of that.

    Frequencies at and beyond the Nyquist ring of the image, or beyond the volume's own, are zero.
    """

    fourier: Tensor
    frequency: Tensor
    inside: Tensor

    def __init__(
        self, volume: Volume, *, image_size: int | None = None, pixel_size: float | None = None, padding: int = 2
    ) -> None:
        super().__init__()
        self.image_size = image_size or volume.size
        self.pixel_size = pixel_size or volume.pixel_size
        padded = padding * volume.size
        spectrum = centred_fft(crop_or_zero_pad(without_interpolation(volume.data, padded), padded))
        # Sum over voxels becomes sum over pixels of another size: the line integral keeps its value.
        spectrum = spectrum * (volume.pixel_size / self.pixel_size) ** 2
        self.register_buffer("fourier", torch.view_as_real(spectrum).permute(3, 0, 1, 2)[None].contiguous())

        like = {"dtype": volume.data.dtype, "device": volume.data.device}
        ky = torch.fft.fftfreq(self.image_size, self.pixel_size, **like)
        kx = torch.fft.rfftfreq(self.image_size, self.pixel_size, **like)
        frequency = torch.stack(torch.meshgrid(kx, ky, indexing="xy"), -1)
        nyquist = 0.5 / max(self.pixel_size, volume.pixel_size)
        self.register_buffer("frequency", frequency)
        self.register_buffer("inside", (frequency.norm(dim=-1) < nyquist * (1 - 1e-6)).nonzero(as_tuple=False))
        # grid_sample wants coordinates in [-1, 1] between the centres of the first and last sample.
        self._to_grid = padded * volume.pixel_size * 2 / (padded - 1)
        self._origin = (padded // 2) * 2 / (padded - 1) - 1

    def spectrum(self, rotation: Tensor, shift: Tensor | None = None, ctf: CTF | None = None) -> Tensor:
        """Half-plane Fourier transforms (B, L, L // 2 + 1) of the images, in torch's rfft2 layout.

        Args:
            rotation: (B, 3, 3) object to camera.
            shift: (B, 2) in Angstrom, (x, y), where the content moves.
            ctf: parameters of the B images.
        """
        rows, cols = self.inside.unbind(-1)
        k = self.frequency[rows, cols]
        points = k @ rotation[:, :2].to(k)
        grid = (points * self._to_grid + self._origin)[None, :, :, None]
        sampled = F.grid_sample(self.fourier, grid, align_corners=True)[0, :, :, :, 0]
        values = torch.complex(sampled[0], sampled[1])
        # The image's origin is at pixel L // 2, the FFT's at pixel 0: one phase ramp for that and the shift.
        origin = k.new_full((len(rotation), 2), self.image_size // 2 * self.pixel_size)
        moved = origin if shift is None else origin + shift.to(k)
        angle = -2 * torch.pi * moved @ k.T
        values = values * torch.polar(torch.ones_like(angle), angle)
        if ctf is not None:
            values = values * ctf(k)
        size = self.image_size
        out = values.new_zeros(len(rotation), size * (size // 2 + 1))
        return out.index_copy(1, rows * (size // 2 + 1) + cols, values).view(-1, size, size // 2 + 1)

    def forward(self, rotation: Tensor, shift: Tensor | None = None, ctf: CTF | None = None) -> Tensor:
        """Images (B, L, L), origin at pixel ``L // 2``; arguments as :meth:`spectrum`."""
        return torch.fft.irfft2(self.spectrum(rotation, shift, ctf), s=(self.image_size, self.image_size))
