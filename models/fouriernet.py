"""FourierNet, the decoder of cryoAI."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .decoder import Decoder


class FourierNet(Decoder):
    """Two networks of sines on the frequency, one of which is the exponent of the other's envelope.

    F(k) is the product of the real and imaginary parts of both: an envelope that spans the orders of magnitude of a
    transform, and what it modulates (Levy et al. 2022, cryoAI, arXiv:2203.08138, section 3.3; the layers are those of
    SIREN, Sitzmann et al. 2020, arXiv:2006.09661). Only one of k and -k is evaluated.

    Args:
        size: L, voxels along an edge.
        width: of the hidden layers.
        depths: hidden layers of the modulated part and of the envelope.
        omegas: factors of the sines' arguments in both.
    """

    def __init__(
        self,
        size: int,
        *,
        width: int = 256,
        depths: tuple[int, int] = (3, 2),
        omegas: tuple[float, float] = (40.0, 30.0),
    ) -> None:
        super().__init__(size)
        self.modulated, self.envelope = (
            _siren(width, depth, omega) for depth, omega in zip(depths, omegas, strict=True)
        )

    def forward(self, k: Tensor) -> Tensor:
        """As the base says."""
        x, y, z = k.unbind(-1)
        # The half of space on whose other side -k lies; at the origin, where both are one, the imaginary part is 0.
        side = torch.where(x != 0, x, torch.where(y != 0, y, z)).sign()
        place = torch.where(side < 0, -1.0, 1.0)[..., None] * k / self.size  # -1/2 to 1/2, as theirs
        real, imaginary = (self.modulated(place) * self.envelope(place).exp()).unbind(-1)
        return torch.complex(real, imaginary * side)


class _Sine(nn.Module):
    def __init__(self, inputs: int, width: int, omega: float, bound: float) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, width)
        nn.init.uniform_(self.linear.weight, -bound, bound)
        self.omega = omega

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.omega * self.linear(x))


def _siren(width: int, depth: int, omega: float) -> nn.Sequential:
    """Frequencies (..., 3) to two numbers; the initial weights are those of SIREN's section 3.2."""
    bound = math.sqrt(6 / width) / omega
    last = nn.Linear(width, 2)
    nn.init.uniform_(last.weight, -bound, bound)
    hidden = [_Sine(width, width, omega, bound) for _ in range(depth)]
    return nn.Sequential(_Sine(3, width, omega, 1 / 3), *hidden, last)
