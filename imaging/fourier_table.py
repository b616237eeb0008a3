"""The Fourier transform of a map between its samples: read off a table, several numbers at a time."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .fourier import centred_fft, centred_ifft, crop_or_zero_pad, without_interpolation

_PADDING = 2  # steps of the table in a step of the box's transform
_MARGIN = 8  # steps beyond the highest frequency that a map of fewer voxels has


class FourierTable:
    """F[V](k), interpolated trilinearly as by ``Projector``, with its derivatives: those of F[-2 pi i x V](k).

    What belongs together lies together, so that one lookup gathers the eight corners of a cell with all that is asked
    for. It gives no gradients to the map; those are the ``Projector``'s.

    Args:
        data: (L, L, L) the map, origin at voxel ``L // 2``.
        highest: the largest frequency that will be asked for, in steps of the box's transform, 1 / (L voxels).
        gradient: keep the derivatives too, four times the memory.
    """

    def __init__(self, data: Tensor, highest: float, *, gradient: bool = False) -> None:
        if (fewer := 2 * (math.ceil(highest) + _MARGIN)) < len(data):
            data = centred_ifft(crop_or_zero_pad(centred_fft(data), fewer))
        size, padded = len(data), _PADDING * len(data)
        data = without_interpolation(data, padded)
        self._reach = math.ceil(_PADDING * highest) + 1
        edge = 2 * self._reach + 1
        kept = torch.arange(-self._reach, self._reach + 1, device=data.device) % padded
        half = self._reach + 1
        parts = [data]
        if gradient:
            along = -2 * torch.pi * (torch.arange(size, device=data.device) - size // 2).to(data) / size
            parts += [data * along, data * along[:, None], data * along[:, None, None]]
        self._all = data.new_empty(edge**3, 2 * len(parts))  # (edge^3, 2 or 8)
        for i, part in enumerate(parts):
            spectrum = torch.fft.rfftn(torch.fft.ifftshift(crop_or_zero_pad(part, padded)))
            spectrum = spectrum[..., :half].index_select(0, kept).index_select(1, kept)
            # Beyond the box's last sample is only what no lookup gives a weight.
            spectrum = F.pad(spectrum, (0, half - spectrum.shape[-1]))
            # The other half are the conjugates.
            spectrum = torch.cat([spectrum[..., 1:].flip(0, 1, 2).conj(), spectrum], -1) * (1j if i else 1)
            self._all[:, 2 * i : 2 * i + 2] = torch.view_as_real(spectrum).flatten(0, 2)
        self._values = self._all[:, :2].contiguous()
        corner = torch.arange(2, dtype=torch.int32, device=data.device)
        self._corners = ((corner[:, None, None] * edge + corner[:, None]) * edge + corner).flatten()
        self._strides = torch.tensor([1, edge, edge**2], dtype=torch.int32, device=data.device)

    def __call__(self, k: Tensor, *, gradient: bool = False) -> Tensor:
        """Look up frequencies (..., 3), xyz in steps of the box's transform.

        Returns:
            (..., 1) complex values; with ``gradient``, of a table that has it, (..., 4): the derivatives along x, y and
            z come behind.
        """
        place = k.reshape(-1, 3) * _PADDING + self._reach
        cell = place.floor()
        beyond = place - cell
        first = (cell.to(torch.int32) * self._strides).sum(1, dtype=torch.int32)
        x, y, z = torch.stack([1 - beyond, beyond], -1).unbind(1)  # (N, 2) each
        shares = (z[:, :, None, None] * y[:, None, :, None] * x[:, None, None, :]).flatten(1)
        table = self._all if gradient else self._values
        found = F.embedding_bag(first[:, None] + self._corners, table, per_sample_weights=shares, mode="sum")
        return torch.view_as_complex(found.view(*k.shape[:-1], table.shape[1] // 2, 2))
