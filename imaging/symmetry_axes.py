"""Turning a map so that its symmetry axes are those that its point group has in RELION."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..geometry.grids import healpix_directions
from ..geometry.point_groups import generating_axes, point_group
from ..geometry.rotations import matrix_to_rotvec, rotvec_to_matrix
from .map_alignment import self_alignment, transform_map
from .volumes import Volume

_ORDER = 3  # directions 7 degrees apart in which the first axis is sought
_ROUND = 72  # directions around it in which the second is
_NEAR = math.radians(15)


@dataclass(frozen=True)
class SymmetryAlignment:
    """What :func:`align_symmetry` found: what was at x is at ``rotation @ x + shift``.

    Attributes:
        rotation: (3, 3) float64.
        shift: (3,) float64, xyz in Angstrom; none along the axis of a Cn.
        correlation: Pearson's, of the turned map and its mate, the least over the group's generators.
        aligned: the turned map.
    """

    rotation: Tensor
    shift: Tensor
    correlation: float
    aligned: Volume


def align_symmetry(volume: Volume, symmetry: str) -> SymmetryAlignment:
    """Lay the symmetry axes of a map where RELION expects them, crossing at the origin of its box; deterministic.

    Whether the map has the symmetry at all, ``correlation`` tells.

    Args:
        volume: a map.
        symmetry: its point group, as of :func:`~cryozoo.geometry.point_groups.point_group`.

    Raises:
        ValueError: no such group, or C1, which has no axes.
    """
    axes, angles = generating_axes(symmetry)
    if len(point_group(symmetry)) == 1:
        raise ValueError("C1 has no axes")
    directions = healpix_directions(_ORDER)
    directions = directions[directions[:, 2] >= 0]  # a turn about the opposite direction is the turn back
    found: list[Tensor] = []
    fixed = []
    for axis, angle in zip(axes, angles, strict=True):
        if found:
            # On the cone around the first axis.
            tilted = _about(found[0], torch.linspace(0, 2 * torch.pi, _ROUND + 1, dtype=torch.float64)[:-1])
            directions = tilted @ _shortest_turn(axes[0], found[0]) @ axis
        # Half of the way to the group's next turn about the axis, which fits as well; another axis's is no nearer.
        turn, shift = self_alignment(volume, _about(directions, angle), min(_NEAR, float(angle) / 2))
        found.append(_axis(turn, directions if angle == torch.pi else None))
        # Of a map without the symmetry the turn found has any angle; that of the group keeps the equations solvable.
        fixed.append((torch.eye(3, dtype=torch.float64) - _about(found[-1], angle), shift))
    rotation = _fitted(torch.stack(found), axes)
    # Points of an axis stay where they are. Of these the nearest to the origin; where two axes cross there is one.
    system, shifts = torch.cat([matrix for matrix, _ in fixed]), torch.cat([shift for _, shift in fixed])
    centre = torch.linalg.pinv(system, rtol=1e-3) @ shifts
    shift = -rotation @ centre
    aligned = transform_map(volume, rotation, shift)
    turns = _about(axes, angles)
    mates = [transform_map(aligned, turn, torch.zeros(3, dtype=torch.float64)) for turn in turns]
    alike = min(float(torch.corrcoef(torch.stack([aligned.data, mate.data]).flatten(1))[0, 1]) for mate in mates)
    return SymmetryAlignment(rotation, shift, alike, aligned)


def _about(axes: Tensor, angles: Tensor) -> Tensor:
    """Turns about unit vectors (..., 3) by angles (...), which broadcast."""
    return rotvec_to_matrix(axes * angles[..., None])


def _axis(turn: Tensor, directions: Tensor | None) -> Tensor:
    """The axis of a turn; of half a turn, which has two, that nearer to one of ``directions``."""
    axis = torch.nn.functional.normalize(matrix_to_rotvec(turn), dim=0)
    return axis if directions is None or (directions @ axis).max() >= (directions @ -axis).max() else -axis


def _shortest_turn(a: Tensor, b: Tensor) -> Tensor:
    """The smallest rotation that takes the unit vector ``a`` to ``b``, which are not opposite."""
    normal = torch.linalg.cross(a, b)
    angle = torch.atan2(normal.norm(), a @ b)
    return _about(torch.nn.functional.normalize(normal, dim=0), angle)


def _fitted(found: Tensor, axes: Tensor) -> Tensor:
    """The rotation that takes axes (K, 3) nearest to where they belong; for one axis the smallest."""
    if len(found) == 1:
        return _shortest_turn(found[0], axes[0])
    u, _, vh = torch.linalg.svd(axes.T @ found)
    return u @ torch.diag(torch.tensor([1.0, 1.0, float(torch.linalg.det(u @ vh))], dtype=u.dtype)) @ vh
