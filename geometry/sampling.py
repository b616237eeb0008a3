"""Random rotations, uniform on SO(3)."""

from __future__ import annotations

import torch
from torch import Tensor

from .rotations import quaternion_to_matrix


def random_quaternions(
    n: int,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Unit quaternions (w, x, y, z) of uniform rotations, (n, 4). Either sign of w.

    Args:
        n: how many.
        generator: source of randomness, on ``device``; torch's global one by default.
        dtype: of the result. Other dtypes draw other numbers from the same seed.
        device: of the result.
    """
    gaussian = torch.randn(n, 4, generator=generator, dtype=dtype, device=device)
    return torch.nn.functional.normalize(gaussian, dim=-1)


def random_rotations(
    n: int,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Uniform rotation matrices, (n, 3, 3); arguments as for :func:`random_quaternions`."""
    return quaternion_to_matrix(random_quaternions(n, generator=generator, dtype=dtype, device=device))
