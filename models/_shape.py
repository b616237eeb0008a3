"""What backbones share: scaled widths, settings that must be as long as each other, tables that are not saved."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def scaled(numbers: Sequence[int], width: float) -> list[int]:
    """The numbers of channels times ``width``, rounded, at least 1; anything not positive raises ValueError."""
    if not 0 < width < math.inf:
        raise ValueError(f"width {width}, expected a positive factor")
    if not all(n > 0 for n in numbers):
        raise ValueError(f"numbers of channels or fields {tuple(numbers)}, expected positive ones")
    return [max(1, round(n * width)) for n in numbers]


def require_same_length(**settings: Sequence[int]) -> None:
    """Raise ValueError unless each setting has one number per block."""
    if len({len(numbers) for numbers in settings.values()}) > 1:
        found = ", ".join(f"{name} {tuple(numbers)}" for name, numbers in settings.items())
        raise ValueError(f"one number per block expected, these differ in length: {found}")


def unsaved(module: nn.Module) -> None:
    """Tables that other libraries keep as buffers are no weights: leave them out of state dicts, statistics stay."""
    for part in module.modules():
        for name, table in list(part.named_buffers(recurse=False, remove_duplicate=False)):
            if not isinstance(part, _BatchNorm):
                part.register_buffer(name, table, persistent=False)
