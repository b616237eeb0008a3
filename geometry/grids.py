"""Deterministic grids: directions on the sphere (HEALPix) and rotations (HEALPix times in-plane angles).

All cells of a grid have the same volume, and those of one order nest in those of the order below: directions are in
HEALPix's NESTED order, so the children of direction ``p`` are ``4 p`` to ``4 p + 3``. Grids are float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .rotations import euler_to_matrix


def _healpix_angles(order: int) -> tuple[Tensor, Tensor]:
    """Polar angle and azimuth of the pixel centres, (12 * 4^order,) each (Gorski et al. 2005, ApJ 622, 759)."""
    if order < 0:
        raise ValueError(f"order {order}, expected 0 or more")
    n_side = 2**order
    face, pixel = torch.arange(12)[:, None], torch.arange(n_side**2)
    # Inside a face a pixel number interleaves the bits of its two coordinates.
    x, y = (sum(((pixel >> (2 * bit + shift)) & 1) << bit for bit in range(order)) for shift in (0, 1))
    row, column = face // 4, face % 4
    ring = ((row + 2) * n_side - x - y - 1).double()  # 1 to 4 n_side - 1 from north to south
    width = torch.minimum(ring, 4 * n_side - ring).clamp(max=n_side)  # a quarter of the pixels in the ring
    azimuth = torch.pi / 4 * ((2 * column + (row != 1)) * width + (x - y)) / width
    cap = (1 - width**2 / (3 * n_side**2)).copysign(2 * n_side - ring)
    z = torch.where(width < n_side, cap, 4 / 3 - ring / (1.5 * n_side))
    return torch.arccos(z).flatten(), azimuth.flatten()


def healpix_directions(order: int) -> Tensor:
    """Unit vectors to the HEALPix pixel centres, (12 * 4^order, 3), about 58.6 / 2^order degrees apart.

    Raises:
        ValueError: order is negative.
    """
    tilt, rot = _healpix_angles(order)
    return torch.stack([tilt.sin() * rot.cos(), tilt.sin() * rot.sin(), tilt.cos()], dim=-1)


def so3_grid(order: int) -> Tensor:
    """Equal-volume grid of rotations, (72 * 8^order, 3, 3), in Hopf coordinates (Yershova et al. 2010, IJRR 29, 801).

    Each HEALPix centre as viewing direction (the last row) with each of 6 * 2^order in-plane angles, 60 / 2^order
    degrees apart. Rotation ``p * 6 * 2^order + k`` has direction p and in-plane angle k. A random rotation is on
    average 28.1 / 2^order degrees from the nearest one, and nowhere further than 56 / 2^order.

    Half a turn of the camera about an axis in its plane, which is what mirroring an image amounts to, maps the grid to
    itself, and so does any in-plane turn by a multiple of the step.

    Raises:
        ValueError: order is negative.
    """
    tilt, rot = _healpix_angles(order)
    n_psi = 6 * 2**order
    # psi counts from the shortest rotation that brings the direction to z, or to -z from the southern hemisphere and
    # half of the equator: in Euler's terms it is psi + rot and psi - rot. Opposite directions thus have opposite psi.
    latitude = (torch.pi / 2 - tilt).round(decimals=9)
    south = (latitude < 0) | ((latitude == 0) & (rot % (2 * torch.pi) > torch.pi - 1e-9))
    start = torch.where(south, rot, -rot)
    psi = (torch.arange(n_psi, dtype=torch.float64) + 0.5) * (2 * torch.pi / n_psi) + start[:, None]
    euler = torch.stack([rot[:, None].expand_as(psi), tilt[:, None].expand_as(psi), psi], dim=-1)
    return euler_to_matrix(euler.flatten(0, 1))
