"""A decoder that is a grid of numbers, linearly interpolated."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .decoder import Decoder


class HartleyGrid(Decoder):
    """The Hartley transform H = Re F - Im F on a grid, each value a mantissa times the exponential of an exponent.

    A transform falls by orders of magnitude from its origin to its edge. With the exponential a step of the optimiser
    changes a value by a share of it, whichever its size (the explicit grids of DRGN-AI are parametrised like this:
    Levy et al. 2024, Nature Methods). F(k) is (H(k) + H(-k)) / 2 - i (H(k) - H(-k)) / 2.

    Args:
        size: L, voxels along an edge; the grid has (2 (L // 2) + 1)^3 values, from -L // 2 to L // 2 periods per box.
        spread: standard deviation of the mantissas at first.
    """

    def __init__(self, size: int, *, spread: float = 1e-2) -> None:
        super().__init__(size)
        edge = 2 * (size // 2) + 1
        self.mantissa = nn.Parameter(spread * torch.randn(1, 1, edge, edge, edge))
        self.exponent = nn.Parameter(torch.zeros(1, 1, edge, edge, edge))

    def forward(self, k: Tensor) -> Tensor:
        """As the base says."""
        place = (k / (self.size // 2)).reshape(1, -1, 1, 1, 3)
        values = self.mantissa * self.exponent.exp()
        there, opposite = F.grid_sample(values, torch.cat([place, -place]).view(1, -1, 1, 1, 3), align_corners=True)[
            0, 0, :, 0, 0
        ].view(2, *k.shape[:-1])
        return torch.complex((there + opposite) / 2, (opposite - there) / 2)
