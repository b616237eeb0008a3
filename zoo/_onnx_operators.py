"""Operators that ONNX lacks, made of those that it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_SWEEPS = 5


def _hypot(a: Tensor, b: Tensor) -> Tensor:
    larger = torch.maximum(a.abs(), b.abs()).clamp_min(torch.finfo(a.dtype).tiny)
    return larger * ((a / larger) ** 2 + (b / larger) ** 2).sqrt()


def _copysign(a: Tensor, b: Tensor) -> Tensor:
    """Of -0 the sign is lost; who uses this to avoid a cancellation does not mind."""
    return torch.where(b < 0, -a.abs(), a.abs())


def jacobi_eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric (..., 3, 3) or (..., 4, 4) -> ascending eigenvalues and eigenvectors, as ``torch.linalg.eigh``.

    Jacobi's method, two disjoint pairs of rows at a time. The number of sweeps is fixed, because a graph has no loop
    that ends when it is done; four were enough for a million matrices of every kind, and there is one to spare.

    Raises:
        NotImplementedError: the matrices have another size.
    """
    size = matrix.shape[-1]
    if size == 3:  # a fourth eigenvalue above all others, with a vector of its own
        highest = 4 * matrix.abs().amax((-2, -1), keepdim=True)
        corner = torch.cat([torch.zeros_like(matrix[..., :1, :]), highest], -1)
        values, vectors = jacobi_eigh(torch.cat([F.pad(matrix, (0, 1)), corner], -2))
        return values[..., :3], vectors[..., :3, :3]
    if size != 4:
        raise NotImplementedError(
            f"ONNX has no eigenvectors, and here are those of 3 x 3 and 4 x 4 matrices, not {size}"
        )
    info = torch.finfo(matrix.dtype)
    scale = matrix.abs().amax((-2, -1), keepdim=True).clamp_min(info.tiny)
    a = matrix / scale
    eye = torch.eye(4, dtype=a.dtype, device=a.device)
    vectors = eye.expand_as(a)
    for _ in range(_SWEEPS):
        for partner in ([1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]):
            swap = eye[partner]
            # 1 in the first row of a pair and -1 in the second, so that both find the same angle
            sign = swap.triu().sum(1) - swap.tril().sum(1)
            diagonal, beside = (a * eye).sum(-1), (a * swap).sum(-1)
            difference = sign * (diagonal @ swap - diagonal)
            product = beside + beside @ swap
            length = (difference * difference + product * product).sqrt().clamp_min(info.tiny)
            tangent = product / (difference + _copysign(length, difference))
            cosine = (1 + tangent * tangent).rsqrt()
            turn = cosine[..., None] * eye + (sign * cosine * tangent)[..., None] * swap
            a = turn.mT @ a @ turn
            vectors = vectors @ turn
    values, order = (a * eye).sum(-1).sort(-1)
    return values * scale[..., 0], vectors.gather(-1, order[..., None, :].expand_as(vectors))


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.hypot.default: _hypot,
    torch.ops.aten.copysign.Tensor: _copysign,
    torch.ops.aten.linalg_eigh.default: jacobi_eigh,
}
"""For ``ExportedProgram.run_decompositions``."""
