"""Eigenvalues and lowest eigenvector of symmetric matrices, with gradients that survive repeated eigenvalues."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..geometry.once import refuse_second_derivatives


class _LowestEigenpair(torch.autograd.Function):
    """``eigh`` with the implicit derivative of the lowest eigenvector instead of the derivative of all of them.

    First-order perturbation gives dq = sum_i v_i (v_i^T dA q) / (l_0 - l_i) over i > 0. Only gaps to the lowest
    eigenvalue occur, whereas differentiating ``eigh`` divides by every gap: NaN at eigenvalues (0, 1, 1, 1).
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> tuple[Tensor, Tensor]:
        # LAPACK raises at NaN, and names neither the row nor the reason; of denormals it sometimes makes NaN
        finite = matrix.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
        size = matrix.abs()
        counts = finite & (size >= 1e-30 * size.amax((-2, -1), keepdim=True))
        values, vectors = torch.linalg.eigh(torch.where(counts, matrix, 0))
        values = torch.where(finite.squeeze(-1), values, torch.nan)
        vectors = torch.where(finite, vectors, torch.nan)
        vectors = torch.where(vectors[..., :1, :] < 0, -vectors, vectors)
        ctx.save_for_backward(values, vectors)
        return values, vectors[..., 0].clone()

    @staticmethod
    def backward(ctx: Any, grad_values: Tensor, grad_vector: Tensor) -> Tensor:
        refuse_second_derivatives("lowest_eigenpair")
        values, vectors = ctx.saved_tensors
        info = torch.finfo(values.dtype)
        largest = values.abs().amax(-1, keepdim=True)
        gaps = torch.maximum(values - values[..., :1], info.eps**0.5 * largest).clamp_min(info.tiny)
        # backward may be called under autocast, which would make these products bfloat16
        with torch.autocast(values.device.type, enabled=False):
            along = (vectors.mT @ grad_vector[..., None]).squeeze(-1)
            coupling = torch.where(largest > 0, -along / (2 * gaps), 0)
            inner = torch.diag_embed(grad_values)
            inner[..., 0, 1:] = inner[..., 1:, 0] = coupling[..., 1:]
            return vectors @ inner @ vectors.mT


def lowest_eigenpair(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric (..., n, n) -> all eigenvalues (..., n), ascending, and the unit eigenvector (..., n) of the lowest.

    The first component of the vector is >= 0; where it is 0, either sign may come out. The gradient with respect to the
    matrix is symmetric. It is exact where the lowest eigenvalue is single, however the others coincide. It grows as the
    inverse of the gap between the lowest two; below sqrt(eps) of the largest absolute eigenvalue it is capped, and that
    of the vector is 0 at matrix 0, so it is always finite. Of eigenvalues that coincide, only functions symmetric in
    them have a gradient. A matrix that is not finite gives NaN. Once differentiable.
    """
    return _LowestEigenpair.apply(matrix)
