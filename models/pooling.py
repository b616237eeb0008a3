"""Global pooling: a feature map of any size to one vector per image."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Pooling = Literal["avg", "max", "avgmax", "gem"]


class GeM(nn.Module):
    """Generalised mean over the map, (mean x^p)^(1/p), shifted so that the smallest value of each channel is 1.

    p = 1 is the average, p -> infinity the maximum (Radenovic et al. 2019; the shift is Cryo-forum's, which makes
    the power legal for negative activations). p is kept above 1 by p = 1 + softplus(parameter).

    Args:
        p: initial exponent, above 1.
        channels: learn one exponent per channel; None learns one for all.
    """

    def __init__(self, p: float = 3.0, channels: int | None = None) -> None:
        super().__init__()
        if p <= 1:
            raise ValueError(f"the exponent must be above 1, got {p}")
        above_one = torch.full((channels or 1,), p - 1)
        # The inverse of softplus, y + log(1 - exp(-y)), does not overflow.
        self.raw_p = nn.Parameter(above_one + torch.log(-torch.expm1(-above_one)))

    @property
    def p(self) -> Tensor:
        """The exponents, (channels,) or (1,)."""
        return 1 + nn.functional.softplus(self.raw_p)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C), computed in float32 because of the power."""
        with torch.autocast(x.device.type, enabled=False):
            x = x if x.dtype == torch.float64 else x.float()
            lowest = x.amin((2, 3))
            # The largest value is divided out, so that a large p cannot overflow.
            shifted = x - lowest[..., None, None] + 1
            largest = shifted.amax((2, 3))
            ratio = shifted / largest[..., None, None]
            mean = ratio.pow(self.p[:, None, None]).mean((2, 3))
            return largest * mean.pow(1 / self.p) + lowest - 1


class GlobalPool(nn.Module):
    """Average, maximum, both side by side, or GeM.

    Args:
        kind: ``avg``, ``max``, ``avgmax`` (twice the features) or ``gem``.
        channels: channels of the map.
        p: initial exponent of GeM.
        p_per_channel: learn an exponent per channel instead of one for all.
    """

    def __init__(self, kind: Pooling, channels: int, *, p: float = 3.0, p_per_channel: bool = False) -> None:
        super().__init__()
        if kind not in ("avg", "max", "avgmax", "gem"):
            raise ValueError(f"unknown pooling {kind!r}: avg, max, avgmax or gem")
        self.kind = kind
        self.num_features = channels * (2 if kind == "avgmax" else 1)
        self.gem = GeM(p, channels if p_per_channel else None) if kind == "gem" else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, num_features)."""
        if self.gem is not None:
            return self.gem(x)
        if self.kind == "avg":
            return x.mean((2, 3))
        if self.kind == "max":
            return x.amax((2, 3))
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)
