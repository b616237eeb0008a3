"""Bring raw vectors to unit size, so that squares neither overflow nor underflow in float32."""

from __future__ import annotations

import torch
from torch import Tensor


def unit_scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """(..., n) -> x / scale and scale (..., 1), the largest absolute entry, without a gradient of its own.

    The gradient of any f(x / scale) that does not depend on the length of x is exact all the same: the part through the
    scale is the derivative along x, which is 0. A vector below 1e-30, whose gradient float32 could not hold, counts as
    0 and gets none.
    """
    scale = x.detach().abs().amax(-1, keepdim=True)
    return x * torch.where(scale > 1e-30, 1 / scale, 0), scale
