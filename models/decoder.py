"""Decoders: volumes that are learnt, given by their Fourier transforms at any frequency."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Decoder(nn.Module):
    """Base of the decoders. A subclass implements :meth:`forward`.

    Args:
        size: L, voxels along an edge of the volume; images have as many pixels along theirs.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, k: Tensor) -> Tensor:
        """The transform at frequencies (..., 3), xyz in periods per box, in both directions up to L / 2.

        Returns:
            (...) complex; at ``-k`` exactly the conjugate of what is at ``k``, as the volume is real. They are those of
            an image, 1 / L times its transform, the origin at pixel ``L // 2``: white noise has its variance per pixel
            in each.
        """
        raise NotImplementedError

    @torch.no_grad()
    def volume(self) -> Tensor:
        """(L, L, L) the volume, [z, y, x], origin at voxel ``L // 2``; its sums along z are the images'."""
        size = self.size
        axis = torch.fft.fftfreq(size, 1 / size, device=next(self.parameters()).device)
        half = torch.fft.rfftfreq(size, 1 / size, device=axis.device)
        z, y, x = torch.meshgrid(axis, axis, half, indexing="ij")
        k = torch.stack([x, y, z], -1)
        inside = k.norm(dim=-1) < size / 2
        spectrum = k.new_zeros(inside.shape, dtype=torch.complex64)
        spectrum[inside] = torch.cat([self(part) for part in k[inside].split(1 << 16)]).to(spectrum.dtype)
        return torch.fft.fftshift(torch.fft.irfftn(size * spectrum, s=(size, size, size)))
