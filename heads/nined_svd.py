"""9D: all three columns of a matrix, projected to the nearest rotation."""

from __future__ import annotations

from torch import Tensor

from ..geometry.rotations import special_procrustes
from ..geometry.scale import unit_scale
from .base import Head


class NineDSVD(Head):
    """Three columns -> nearest rotation by SVD (Levinson et al. 2020, arXiv:2006.14616)."""

    raw_dim = 9

    def representation(self, phi: Tensor) -> list[tuple[int, Tensor]]:
        """Three columns, each multiplied by phi."""
        return [(3, phi)]

    def rotation(self, raw: Tensor) -> tuple[Tensor, None]:
        """(B, 9) -> (B, 3, 3), no confidence. raw[:, 0:3] is the first column."""
        return special_procrustes(unit_scale(raw)[0].unflatten(-1, (3, 3)).mT), None
