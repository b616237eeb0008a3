"""In-plane rotations and flips of images together with their poses: exact label algebra.

``geometry/plane_groups.py`` says what a rotation or flip of the image does to the pose, and why; its upper-left 2 x 2
block acts on the shift.

All transforms keep the origin at pixel L // 2. On an even grid an array flip moves it to L // 2 - 1 and a roll by
one pixel brings it back; the row and column at -L / 2, which have no partner at +L / 2, stay where they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry.plane_groups import PlaneGroup, phi
from ..heads.base import Pose

_D4 = PlaneGroup("D4").matrices.float()


def transform_pose(pose: Pose, plane: Tensor) -> Pose:
    """The target of images whose content was moved by ``plane`` (B, 2, 2)."""
    rotation = None if pose.rotation is None else phi(plane).to(pose.rotation) @ pose.rotation
    shift = None if pose.shift is None else (plane.to(pose.shift) @ pose.shift[..., None])[..., 0]
    return Pose(rotation, shift)


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


def augment_d4(images: Tensor, pose: Pose) -> tuple[Tensor, Pose]:
    """A random element of D4 for each image of a batch (B, 1, L, L)."""
    elements = torch.randint(8, (len(images),), device=images.device)
    out = torch.empty_like(images)
    for element in range(8):
        chosen = elements == element
        out[chosen] = transform_d4(images[chosen], element)
    return out, transform_pose(pose, _D4.to(images.device)[elements])


def augment_rotate(images: Tensor, pose: Pose) -> tuple[Tensor, Pose]:
    """A random rotation by any angle and a random flip for each image (B, 1, L, L), by bicubic interpolation."""
    batch, size = len(images), images.shape[-1]
    angle = 2 * torch.pi * torch.rand(batch, device=images.device)
    sign = torch.randint(2, (batch,), device=images.device) * 2.0 - 1
    cos, sin = angle.cos(), angle.sin()
    plane = torch.stack([torch.stack([cos, -sin * sign], -1), torch.stack([sin, cos * sign], -1)], -2)
    axis = (torch.arange(size, device=images.device) - size // 2).float()
    points = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).view(1, -1, 2)
    source = (points @ plane).view(batch, size, size, 2)  # rows: (A^T p)^T = p^T A
    grid = (source + size // 2) * (2 / (size - 1)) - 1
    return F.grid_sample(images, grid, mode="bicubic", align_corners=True), transform_pose(pose, plane)
