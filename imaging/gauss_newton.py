"""Damped Gauss-Newton steps of many at once.

Levenberg 1944, Q. Appl. Math. 2, 164; Marquardt 1963, J. SIAM 11, 431.
"""

from __future__ import annotations

import torch
from torch import Tensor

FIRST_DAMPING = 1e-3


def damped_step(curvature: Tensor, slope: Tensor, damping: Tensor) -> Tensor:
    """The step (B, D) up a slope (B, D), by curvatures (B, D, D) whose diagonals are raised by a share (B,)."""
    diagonal = curvature.diagonal(dim1=1, dim2=2)
    # What is not told, such as the angle about an axis of something round, must not make it singular.
    added = damping[:, None] * diagonal + 1e-6 * diagonal.mean(1, keepdim=True) + 1e-30
    return torch.linalg.solve(curvature + added.diag_embed(), slope)


def next_damping(damping: Tensor, better: Tensor) -> Tensor:
    """(B,) a tenth where the step led up, else ten times as much."""
    return torch.where(better, damping / 10, damping * 10)
