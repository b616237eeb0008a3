"""Distances between rotations, stable and with finite gradients at the smallest and the largest distance.

All take broadcastable batch shapes. The gradient at distance exactly 0 and pi, where the distance has a kink, is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .rotations import require_shape


def geodesic_distance(a: Tensor, b: Tensor) -> Tensor:
    """Angle of ``a^T b`` in radians, (..., 3, 3) x 2 -> (...), in [0, pi].

    ``atan2(sin, cos)`` of the angle, with the sine from the antisymmetric part of ``a^T (b - a)``, equal to that of
    ``a^T b``: small angles keep their relative accuracy, and angles near pi their absolute one.
    """
    require_shape(a, 3, 3)
    require_shape(b, 3, 3)
    a, b = torch.broadcast_tensors(a, b)
    twice_sine = torch.linalg.vector_norm(torch.linalg.cross(a, b - a).sum(-2), dim=-1)
    return torch.atan2(twice_sine, (a * b).sum((-2, -1)) - 1)


def quaternion_distance(p: Tensor, q: Tensor) -> Tensor:
    """``2 arccos |<p, q>|`` of unit quaternions in radians, (..., 4) x 2 -> (...), in [0, pi]; signs do not matter."""
    require_shape(p, 4)
    require_shape(q, 4)
    difference = torch.linalg.vector_norm(p - q, dim=-1)
    total = torch.linalg.vector_norm(p + q, dim=-1)
    return 4 * torch.atan2(torch.minimum(difference, total), torch.maximum(difference, total))


def chordal_distance(a: Tensor, b: Tensor) -> Tensor:
    """Frobenius norm of ``a - b``, (..., 3, 3) x 2 -> (...); ``2 sqrt(2) sin(angle / 2)`` for rotations."""
    require_shape(a, 3, 3)
    require_shape(b, 3, 3)
    return torch.linalg.vector_norm(a - b, dim=(-2, -1))
