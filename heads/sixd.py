"""6D: the first two columns of the rotation, made orthonormal in one of two ways."""

from __future__ import annotations

import torch
from torch import Tensor

from ..geometry.rotations import gram_schmidt, special_procrustes
from ..geometry.scale import unit_scale
from .base import Head


class SixDGramSchmidt(Head):
    """Two columns -> rotation by Gram-Schmidt: the first keeps its direction (Zhou et al. 2019, arXiv:1812.07035)."""

    raw_dim = 6

    def representation(self, phi: Tensor) -> list[tuple[int, Tensor]]:
        """Two columns, each multiplied by phi."""
        return [(2, phi)]

    def rotation(self, raw: Tensor) -> tuple[Tensor, None]:
        """(B, 6) -> (B, 3, 3), no confidence. Columns that are 0 or parallel get no gradient."""
        columns, _ = unit_scale(raw.unflatten(-1, (2, 3)))
        return gram_schmidt(columns.flatten(-2)), None


class SixDSVD(Head):
    """Two columns and their cross product -> nearest rotation, which treats both columns alike.

    The rotation is the one whose first two columns are nearest to those given: their cross product is orthogonal to
    them, so its length plays no part. The projection is that of Levinson et al. 2020 (arXiv:2006.14616).
    """

    raw_dim = 6

    def representation(self, phi: Tensor) -> list[tuple[int, Tensor]]:
        """Two columns, each multiplied by phi."""
        return [(2, phi)]

    def rotation(self, raw: Tensor) -> tuple[Tensor, None]:
        """(B, 6) -> (B, 3, 3), no confidence."""
        first, second = unit_scale(raw)[0].split(3, dim=-1)
        return special_procrustes(torch.stack([first, second, torch.linalg.cross(first, second)], dim=-1)), None
