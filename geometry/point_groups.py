"""Point groups in RELION's axes, and what symmetry does to distances.

A symmetric object looks the same from ``R`` and from ``R @ g`` for every g in its group: symmetry acts on the object's
frame, hence on the right. ``R @ g`` are the mates of ``R``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from torch import Tensor

from .distances import geodesic_distance
from .rotations import euler_to_matrix, require_shape, rotvec_to_matrix

_GOLDEN = (1 + 5**0.5) / 2

# Generators as (fold, axis), in the axes of RELION's --print_symmetry_ops. The icosahedral settings differ in what lies
# along the axes: I2 has two-folds on x, y, z with the five-folds nearest to z in the xz plane, I1 is I2 turned by 90
# degrees about y, I3 and I4 have a five-fold on z.
_Generators = tuple[tuple[int, tuple[float, float, float]], ...]
_POLYHEDRAL: dict[str, _Generators] = {
    "T": ((3, (0, 0, 1)), (2, (0, 2**0.5, 1))),
    "O": ((4, (0, 0, 1)), (3, (1, 1, 1))),
    "I1": ((2, (1, 0, 0)), (5, (_GOLDEN, 0, -1))),
    "I2": ((2, (0, 0, 1)), (5, (1, 0, _GOLDEN))),
    "I3": ((5, (0, 0, 1)), (2, (-1, 0, _GOLDEN))),
    "I4": ((5, (0, 0, 1)), (2, (1, 0, _GOLDEN))),
}
_POLYHEDRAL["I"] = _POLYHEDRAL["I2"]


def generating_axes(name: str) -> tuple[Tensor, Tensor]:
    """Axes whose turns generate a point group: unit vectors, float64 (1 or 2, 3), and the angles of the turns.

    Args:
        name: as of :func:`point_group`.

    Raises:
        ValueError: no such group. Groups with mirrors have no meaning for projections of chiral molecules.
    """
    key = name.upper()
    if match := re.fullmatch(r"([CD])([1-9]\d{0,2})", key):
        generators: _Generators = ((int(match[2]), (0, 0, 1)),) + ((2, (1, 0, 0)),) * (match[1] == "D")
    elif key in _POLYHEDRAL:
        generators = _POLYHEDRAL[key]
    else:
        raise ValueError(f"point group {name!r}, expected Cn, Dn (n from 1 to 999), T, O, I, I1, I2, I3 or I4")
    axes = torch.nn.functional.normalize(torch.tensor([axis for _, axis in generators], dtype=torch.float64), dim=-1)
    return axes, torch.tensor([2 * torch.pi / fold for fold, _ in generators], dtype=torch.float64)


def point_group(name: str) -> Tensor:
    """The rotations of a point group in RELION's axes, float64 (K, 3, 3), the identity first.

    Args:
        name: ``Cn`` (n-fold on z), ``Dn`` (n-fold on z, two-fold on x), ``T`` (three-fold on z), ``O`` (four-folds on
            x, y, z), ``I`` = ``I2`` (two-folds on x, y, z), ``I1``, ``I3`` or ``I4``; upper or lower case.

    Raises:
        ValueError: as :func:`generating_axes`.
    """
    axes, angles = generating_axes(name)
    generating = rotvec_to_matrix(axes * angles[:, None])
    group = torch.eye(3, dtype=torch.float64)[None]
    done = 0
    while done < len(group):
        for new in group[done] @ generating:
            if (new - group).abs().amax((-2, -1)).min() > 1e-6:
                group = torch.cat([group, new[None]])
        done += 1
    return group


def _overlaps(relative: Tensor, group: Tensor) -> Tensor:
    """tr(g^T M) for every g of the group, (..., 3, 3) x (K, 3, 3) -> (..., K); largest where g is nearest to M."""
    require_shape(group, 3, 3)
    return relative.flatten(-2) @ group.to(relative).flatten(-2).T


def symmetric_distance(a: Tensor, b: Tensor, group: Tensor) -> Tensor:
    """``min over g of d(a g, b)`` in radians, (..., 3, 3) x 2 and (K, 3, 3) -> (...).

    Never holds more than (..., K) numbers. Differentiable like :func:`geodesic_distance` to the nearest mate.
    """
    return geodesic_distance(closest_mate(b, a, group), b)


def closest_mate(a: Tensor, target: Tensor, group: Tensor) -> Tensor:
    """The mate ``target @ g`` nearest to ``a``, (..., 3, 3) x 2 and (K, 3, 3) -> (..., 3, 3).

    Of mates at the same distance one is taken; which one, rounding decides.
    """
    best = _overlaps((target.mT @ a).detach(), group).argmax(-1)
    return target @ group.to(target)[best]


# Without symmetries of its own, so that it tells any two mates apart; see restrict.
_TIE_BREAKER = torch.tensor([[1.0, 2**0.5, 3**0.5], [5**0.5, -(7**0.5), 11**0.5], [-(13**0.5), 17**0.5, 19**0.5]])


def restrict(rotation: Tensor, group: Tensor) -> Tensor:
    """The mate of a rotation in the fundamental domain around the identity, (..., 3, 3) and (K, 3, 3) -> (..., 3, 3).

    It is the mate nearest to the identity, hence the same for all mates. On the border of the domain several are
    equally near (to the square root of the precision); of these the one is taken whose entries, weighted by a fixed
    matrix, sum to the most, so that there too the result does not depend on which mate came in. It jumps when a
    rotation crosses the border.
    """
    require_shape(rotation, 3, 3)
    traces = _overlaps(rotation.mT, group)
    weighted = _overlaps(rotation.mT @ _TIE_BREAKER.to(rotation), group)
    tied = traces >= traces.amax(-1, keepdim=True) - torch.finfo(rotation.dtype).eps ** 0.5
    best = weighted.masked_fill(~tied, -torch.inf).argmax(-1)
    return rotation @ group.to(rotation)[best]


class ChanceLevel(NamedTuple):
    """Error in radians of a random guess: see :func:`chance_level`."""

    mean: float
    median: float


def chance_level(group: Tensor) -> ChanceLevel:
    """Mean and median of ``min over g of d(a g, b)`` for uniform independent a and b, (K, 3, 3) -> radians.

    By quadrature over 131,072 Sobol points; the mean is right to 0.003 degrees, the median to 0.02. For C1 the mean is
    pi / 2 + 2 / pi.
    """
    turn, height, spin = torch.quasirandom.SobolEngine(3).draw(2**17, dtype=torch.float64).unbind(-1)
    euler = torch.stack([2 * torch.pi * turn, torch.arccos(1 - 2 * height), 2 * torch.pi * spin], dim=-1)
    distance = symmetric_distance(torch.eye(3, dtype=torch.float64), euler_to_matrix(euler), group.double())
    return ChanceLevel(distance.mean().item(), distance.median().item())
