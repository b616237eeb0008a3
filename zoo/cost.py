"""What an encoder costs, whatever the machine."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..models.steerable import fold
from .encoder import PoseEncoder
from .parts import blaming, parts_of


def describe_cost(encoder: PoseEncoder) -> str:
    """Parameters, and multiply-accumulates for one image, in words."""
    parameters = sum(p.numel() for p in encoder.parameters())
    size, giga = encoder.preprocessing.image_size, multiply_accumulates(encoder) / 1e9
    return f"{parameters:,} parameters, {giga:.3f} GMACs for an image of {size} pixels"


@torch.no_grad()
def multiply_accumulates(encoder: PoseEncoder) -> int:
    """Multiply-accumulates of convolutions and matrix products for one image, equivariant layers as plain ones."""
    size = encoder.preprocessing.image_size
    device = next(encoder.parameters()).device
    plain = fold(encoder).eval()
    assert isinstance(plain, PoseEncoder)
    with blaming(*parts_of(plain)), FlopCounterMode(display=False) as counter:  # it is a copy, whose parts are its own
        plain(torch.zeros(1, encoder.config["in_chans"], size, size, device=device))
    return counter.get_total_flops() // 2
