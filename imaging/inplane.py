"""In-plane rotations and flips of images together with their poses: exact label algebra.

``geometry/plane_groups.py`` says what a rotation or flip of the image does to the pose, and why; its upper-left 2 x 2
block acts on the shift.

All transforms keep the origin at pixel L // 2. On an even grid an array flip moves it to L // 2 - 1 and a roll by
one pixel brings it back; the row and column at -L / 2, which have no partner at +L / 2, stay where they are.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry.plane_groups import PlaneGroup, phi
from ..geometry.pose import Pose
from ..particles.ctf import CTF
from .batch import Batch

_D4 = PlaneGroup("D4").matrices.float()


def transform_pose(pose: Pose, plane: Tensor) -> Pose:
    """The truth about images whose content was moved by ``plane`` (B, 2, 2)."""
    rotation = None if pose.rotation is None else phi(plane).to(pose.rotation) @ pose.rotation
    shift = None if pose.shift is None else (plane.to(pose.shift) @ pose.shift[..., None])[..., 0]
    return Pose(rotation, shift)


def transform_ctf(ctf: CTF, plane: Tensor) -> CTF:
    """The CTF of images whose content was moved by ``plane`` (B, 2, 2): the axis of the astigmatism moves along."""
    angle = torch.deg2rad(ctf.defocus_angle)
    direction = plane.to(angle) @ torch.stack([angle.cos(), angle.sin()], -1)[..., None]
    return replace(ctf, defocus_angle=torch.rad2deg(torch.atan2(direction[:, 1, 0], direction[:, 0, 0])))


def transform_d4(images: Tensor, element: int) -> Tensor:
    """Move the content of (..., L, L) images by element 0..7 of ``PlaneGroup("D4")``, about pixel L // 2, exactly."""
    (a, b), (c, d) = _D4[element].long().tolist()
    # Content at (x, y) moves to A (x, y), so the new image reads I(A^T (x, y)): first swap the axes, then flip them.
    if a == 0:
        images = images.transpose(-1, -2)
    flip_x, flip_y = (a if a else b) < 0, (d if d else c) < 0
    dims = [dim for dim, flip in ((-1, flip_x), (-2, flip_y)) if flip]
    if dims:
        images = images.flip(dims)
        if images.shape[-1] % 2 == 0:
            images = images.roll([1] * len(dims), dims)
    return images


def augment_d4(batch: Batch) -> Batch:
    """A random element of D4 for each image of a batch."""
    images = batch.images
    elements = torch.randint(8, (len(images),), device=images.device)
    out = torch.empty_like(images)
    for element in range(8):
        chosen = elements == element
        out[chosen] = transform_d4(images[chosen], element)
    return _moved(batch, out, _D4.to(images.device)[elements])


def _moved(batch: Batch, images: Tensor, plane: Tensor) -> Batch:
    """The batch with images that ``plane`` (B, 2, 2) moved, and what is true of them."""
    ctf = None if batch.ctf is None else transform_ctf(batch.ctf, plane)
    return Batch(images, transform_pose(batch.pose, plane), ctf)


def turn(images: Tensor, angle: Tensor) -> Tensor:
    """Turn the content of (B, ..., L, L) images about pixel L // 2 by angles (B,) of at most an eighth of a turn.

    Three shears, each a shift of rows or columns by its Fourier transform, which turns what lies within the inscribed
    circle and leaves the spectrum of noise as it is, where interpolation from neighbours would smooth it (Larkin et al.
    1997, Opt. Commun. 139:99).
    """
    size = images.shape[-1]
    # The first shear takes points of the circle so far outside that they need a larger box.
    room = math.ceil((1 / math.cos(math.pi / 8) - 1) * size / 2)
    n = size + 2 * room
    frequency = torch.fft.rfftfreq(n, device=images.device)
    distance = torch.arange(n, device=images.device) - n // 2

    def phases(slope: Tensor) -> Tensor:
        """That move each row by ``slope`` (B,) times its distance from the origin."""
        phase = (-2 * torch.pi * slope[:, None, None]) * (distance[:, None] * frequency)
        return torch.polar(torch.ones_like(phase), phase).view(len(slope), *[1] * (images.ndim - 3), n, -1)

    def shear(wide: Tensor, phases: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(wide) * phases, n)

    rows, columns = phases(-(angle / 2).tan()), phases(angle.sin())
    wide = shear(F.pad(images, (room,) * 4), rows)
    wide = shear(shear(wide.mT, columns).mT, rows)
    return wide[..., room : room + size, room : room + size]


def augment_rotate(batch: Batch) -> Batch:
    """A random rotation by any angle and a random flip for each image: an element of D4, and the rest."""
    batch = augment_d4(batch)
    images = batch.images
    angle = (torch.rand(len(images), device=images.device) - 0.5) * (torch.pi / 2)
    cos, sin = angle.cos(), angle.sin()
    plane = torch.stack([cos, -sin, sin, cos], -1).unflatten(-1, (2, 2))
    return _moved(batch, turn(images, angle), plane)
