"""Finite groups of rotations and flips of the image plane, and what they do to poses.

With the image I(x, y) = integral V(R^T (x, y, z)) dz, moving its content by an orthogonal map A of the plane makes it
the view from phi(A) R with phi(A) = diag(A, det A): turning by t gives Rz(t) R, and mirroring in y gives
diag(1, -1, -1) R, since the integral over z does not see z -> -z: a mirrored image is another view of the same hand.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor


def phi(plane: Tensor) -> Tensor:
    """The action on poses, diag(A, det A), of an orthogonal map A of the image plane: (..., 2, 2) -> (..., 3, 3)."""
    out = plane.new_zeros(*plane.shape[:-2], 3, 3)
    out[..., :2, :2] = plane
    out[..., 2, 2] = torch.linalg.det(plane)
    return out


class PlaneGroup:
    """The rotations C_n by multiples of 360 / n degrees, or D_n, those and as many flips.

    Args:
        name: ``C4``, ``D4``, ``C8``, ``D8``, ... up to 64 rotations.

    Attributes:
        name: as given.
        matrices: (order, 2, 2) float64, acting on (x, y): first the rotations by 0, 360 / n, ..., then, for D_n, the
            flip of y followed by each of these.
        table: (order, order) integers, ``matrices[table[i, j]] == matrices[i] @ matrices[j]``.
        inverse: (order,) integers.
        exact: whether every element maps a square grid of pixels to itself.
    """

    def __init__(self, name: str) -> None:
        match = re.fullmatch(r"([CD])([1-9]\d?)", name)
        if match is None or (rotations := int(match[2])) > 64:
            raise ValueError(f"group {name!r}, expected C or D and a number of rotations up to 64, such as C4 or D4")
        self.name = name
        # Sines of multiples of a quarter turn are exact integers, which pi in floating point would miss.
        quarter = torch.tensor([1, 0, -1, 0], dtype=torch.float64)
        step = torch.arange(rotations)
        angle = 2 * torch.pi * step.double() / rotations
        right = 4 * step % rotations == 0
        turn = 4 * step // rotations
        cos = torch.where(right, quarter[turn % 4], angle.cos())
        sin = torch.where(right, quarter[(turn + 3) % 4], angle.sin())
        turns = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
        flips = turns @ torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))
        self.matrices = torch.cat([turns, flips]) if match[1] == "D" else turns
        products = self.matrices[:, None] @ self.matrices
        distance = (products[:, :, None] - self.matrices).abs().amax((-2, -1))
        self.table = distance.argmin(-1)
        self.inverse = (self.table == 0).int().argmax(1)
        self.exact = rotations in (1, 2, 4)

    def __len__(self) -> int:
        return len(self.matrices)

    @property
    def phi(self) -> Tensor:
        """(order, 3, 3) float64: what each element does to a pose, on the left."""
        return phi(self.matrices)
