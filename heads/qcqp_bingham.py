"""QCQP-Bingham: a 4x4 matrix whose lowest eigenvector is the rotation and whose spectrum says how sure it is."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..geometry.rotations import quaternion_to_matrix
from ._eigenvector import lowest_eigenpair
from ._scale import unit_scale
from .base import Head


class Dispersion(NamedTuple):
    """The two uncertainty statistics of Cryo-forum, both <= 0 and (B,); nearer to 0 is less sure.

    Attributes:
        trace: sum of the three dispersions, 4 l_1 - tr A (Chung 2023, Eq. 6).
        maximum: largest of the three, l_1 - l_2 (Chung 2023, Eq. 7).
    """

    trace: Tensor
    maximum: Tensor


def bingham_matrix(raw: Tensor) -> Tensor:
    """(..., 10) -> A = L L^T (..., 4, 4); raw fills the lower triangle of L row by row.

    Raises:
        ValueError: raw is not a 10-vector.
    """
    if raw.shape[-1] != 10:
        raise ValueError(f"raw vector {tuple(raw.shape)}, expected (..., 10): the lower triangle of a 4x4 matrix")
    rows, columns = torch.tril_indices(4, 4, device=raw.device)
    lower = raw.new_zeros(*raw.shape[:-1], 4, 4)
    lower[..., rows, columns] = raw
    return lower @ lower.mT


class QCQPBingham(Head):
    """Ten numbers -> A = L L^T -> the quaternion q that minimises q^T A q (Peretroukhin et al. 2020, arXiv:2006.01031).

    exp(-q^T A q) is a Bingham density with mode q and dispersions l_1 - l_i, where l_1 <= ... <= l_4 are A's
    eigenvalues. Of the losses only ``BinghamNLL`` sees their scale and makes the confidence mean something. With the
    others it may rank images (Chung 2023, Cryo-forum, J. Struct. Biol. 215), but nothing makes it: where worse images
    give longer raw vectors, the order is reversed.

    Args:
        confidence: which statistic, negated, is the confidence: "max", the direction that is known worst, or "trace",
            the sum of all three. "max" ranked errors better in every toy regression tried.
        shift: append two numbers to the raw vector that become the shift.
        shift_scale: Angstrom per unit of the raw shift.
    """

    rotation_dim = 10
    has_confidence = True

    def __init__(
        self, *, confidence: Literal["max", "trace"] = "max", shift: bool = False, shift_scale: float = 1.0
    ) -> None:
        super().__init__(shift=shift, shift_scale=shift_scale)
        if confidence not in ("max", "trace"):
            raise ValueError(f"confidence {confidence!r}, expected 'max' or 'trace'")
        self.confidence = confidence

    def rotation(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 10) -> (B, 3, 3) and the confidence (B,)."""
        quaternion, dispersion = self._solve(raw)
        return quaternion_to_matrix(quaternion), -(
            dispersion.trace if self.confidence == "trace" else dispersion.maximum
        )

    def statistics(self, raw: Tensor) -> Dispersion:
        """(B, 10) -> both statistics, each (B,), in the paper's sign: nearer to 0 is less sure."""
        return self._solve(raw)[1]

    @staticmethod
    def _solve(raw: Tensor) -> tuple[Tensor, Dispersion]:
        scaled, scale = unit_scale(raw)
        values, quaternion = lowest_eigenpair(bingham_matrix(scaled))
        # multiplied twice rather than by the square, which overflows where the statistic is 0
        trace, maximum = (
            (statistic * scale * scale).squeeze(-1)
            for statistic in (4 * values[:, :1] - values.sum(-1, keepdim=True), values[:, :1] - values[:, 1:2])
        )
        return quaternion, Dispersion(trace, maximum)
