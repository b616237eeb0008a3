"""Quaternion: the rotation of a normalised 4-vector."""

from __future__ import annotations

from torch import Tensor

from ..geometry.rotations import quaternion_to_matrix
from ..geometry.scale import unit_scale
from .base import Head


class Quaternion(Head):
    """(w, x, y, z) of any length and sign -> rotation; raw = 0 gives the identity with gradient 0.

    As a function of the image it has to be discontinuous somewhere (Zhou et al. 2019, arXiv:1812.07035), and it carries
    only a double-valued representation of in-plane rotations, so no equivariant last layer exists.
    """

    raw_dim = 4

    def rotation(self, raw: Tensor) -> tuple[Tensor, None]:
        """(B, 4) -> (B, 3, 3), no confidence."""
        return quaternion_to_matrix(unit_scale(raw)[0]), None
