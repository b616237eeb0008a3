"""What an encoder costs, whatever the machine."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..models.steerable import fold
from .encoder import PoseEncoder


@torch.no_grad()
def multiply_accumulates(encoder: PoseEncoder) -> int:
    """Multiply-accumulates of convolutions and matrix products for one image, equivariant layers as plain ones."""
    size = encoder.preprocessing.image_size
    device = next(encoder.parameters()).device
    plain = fold(encoder).eval()
    with FlopCounterMode(display=False) as counter:
        plain(torch.zeros(1, encoder.config["in_chans"], size, size, device=device))
    return counter.get_total_flops() // 2
