"""QCQP-Bingham: a 4x4 matrix whose lowest eigenvector is the rotation and whose spectrum says how sure it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from ..geometry.rotations import davenport_matrix, quaternion_to_matrix
from ..geometry.scale import unit_scale
from .base import Head
from .eigenvector import lowest_eigenpair


class Dispersion(NamedTuple):
    """The two uncertainty statistics of Cryo-forum, both <= 0 and (B,); nearer to 0 is less sure.

    Attributes:
        trace: sum of the three dispersions, 4 l_1 - tr A (Chung 2023, Eq. 6).
        maximum: largest of the three, l_1 - l_2 (Chung 2023, Eq. 7).
    """

    trace: Tensor
    maximum: Tensor


def bingham_matrix(raw: Tensor) -> Tensor:
    """The matrix A (..., 4, 4) of the density exp(-q^T A q) that a raw vector describes.

    (..., 10) fills the lower triangle of L row by row, A = L L^T. (..., 9) are the columns of a 3x3 matrix M, and A is
    Davenport's -K(M): the density is the matrix-Fisher exp(tr(M^T R)) (Prentice 1986), up to its constant every Bingham
    density, and turns with M.

    Raises:
        ValueError: raw has another length.
    """
    if raw.shape[-1] == 9:
        return -davenport_matrix(raw.unflatten(-1, (3, 3)).mT)
    if raw.shape[-1] != 10:
        raise ValueError(f"raw vector {tuple(raw.shape)}, expected the 10 numbers of a triangle or the 9 of a matrix")
    rows, columns = torch.tril_indices(4, 4, device=raw.device)
    lower = raw.new_zeros(*raw.shape[:-1], 4, 4)
    lower[..., rows, columns] = raw
    return lower @ lower.mT


class QCQPBingham(Head):
    """A symmetric 4x4 matrix A -> the quaternion q that minimises q^T A q (Peretroukhin et al. 2020, arXiv:2006.01031).

    exp(-q^T A q) is a Bingham density with mode q and dispersions l_1 - l_i, where l_1 <= ... <= l_4 are A's
    eigenvalues. Of the losses only ``BinghamNLL`` sees their scale and makes the confidence mean something. With the
    others it may rank images (Chung 2023, Cryo-forum, J. Struct. Biol. 215), but nothing makes it: where worse images
    give longer raw vectors, the order is reversed.

    Args:
        form: "cholesky", A = L L^T of ten numbers as published, or "davenport", A = -K(M) of the nine of a 3x3 matrix
            (see :func:`bingham_matrix`): as general, and equivariant to in-plane rotations and flips of the image.
        confidence: which statistic, negated, is the confidence: "max", the direction that is known worst, or "trace",
            the sum of all three. "max" ranked errors better in every toy regression tried.
    """

    has_confidence = True
    equivariant_args: ClassVar[Mapping[str, Any]] = {"form": "davenport"}

    def __init__(
        self,
        *,
        form: Literal["cholesky", "davenport"] = "cholesky",
        confidence: Literal["max", "trace"] = "max",
    ) -> None:
        super().__init__()
        if form not in ("cholesky", "davenport"):
            raise ValueError(f"form {form!r}, expected 'cholesky' or 'davenport'")
        if confidence not in ("max", "trace"):
            raise ValueError(f"confidence {confidence!r}, expected 'max' or 'trace'")
        self.form = form
        self.confidence = confidence
        self.raw_dim = 10 if form == "cholesky" else 9

    def representation(self, phi: Tensor) -> list[tuple[int, Tensor]] | None:
        """Three columns in Davenport's form; squares of L have none."""
        return [(3, phi)] if self.form == "davenport" else None

    def rotation(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 10 or 9) -> (B, 3, 3) and the confidence (B,)."""
        quaternion, dispersion = self._solve(raw)
        return quaternion_to_matrix(quaternion), -(
            dispersion.trace if self.confidence == "trace" else dispersion.maximum
        )

    def statistics(self, raw: Tensor) -> Dispersion:
        """(B, 10 or 9) -> both statistics, each (B,), in the paper's sign: nearer to 0 is less sure."""
        return self._solve(raw)[1]

    def _solve(self, raw: Tensor) -> tuple[Tensor, Dispersion]:
        scaled, scale = unit_scale(raw)
        values, quaternion = lowest_eigenpair(bingham_matrix(scaled))
        # L enters squared; multiplied twice rather than by the square, which overflows where the statistic is 0
        again = scale if self.form == "cholesky" else 1
        trace, maximum = (
            (statistic * scale * again).squeeze(-1)
            for statistic in (4 * values[:, :1] - values.sum(-1, keepdim=True), values[:, :1] - values[:, 1:2])
        )
        return quaternion, Dispersion(trace, maximum)
