"""Conversions between the parametrisations of a rotation, exact and differentiable.

A matrix ``R`` maps object to camera coordinates, ``x_cam = R @ x_obj``. Functions are named ``<from>_to_<to>``, take
any batch shape, keep float32 and float64, and raise ValueError when the trailing shape is not the one they name. Angles
are in radians, quaternions are ``(w, x, y, z)``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .once import refuse_second_derivatives


def require_shape(x: Tensor, *shape: int) -> None:
    """Raise ValueError where the trailing shape of x is another one."""
    if tuple(x.shape[-len(shape) :]) != shape:
        raise ValueError(f"shape {tuple(x.shape)}, expected (..., {', '.join(map(str, shape))})")


def _matrix(*entries: Tensor) -> Tensor:
    """Nine (...) tensors, row by row -> (..., 3, 3)."""
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))


def _wrap(angle: Tensor) -> Tensor:
    """To (-pi, pi]; exact for angles that are there already."""
    wrapped = angle - 2 * torch.pi * torch.ceil(angle / (2 * torch.pi) - 0.5)
    # The subtraction may round to -pi or to one step beyond pi.
    return torch.where(wrapped <= -torch.pi, wrapped + 2 * torch.pi, wrapped).clamp(max=torch.pi)


def euler_to_matrix(euler: Tensor) -> Tensor:
    """RELION's (rot, tilt, psi) in radians, (..., 3) -> (..., 3, 3).

    The matrix is ``Rz(-psi) @ Ry(-tilt) @ Rz(-rot)``; in scipy ``Rotation.from_euler("ZYZ", euler).as_matrix().T``. Its
    last row is the viewing direction in the object's frame.
    """
    require_shape(euler, 3)
    (ca, cb, cg), (sa, sb, sg) = euler.cos().unbind(-1), euler.sin().unbind(-1)
    return _matrix(
        cg * cb * ca - sg * sa,
        cg * cb * sa + sg * ca,
        -cg * sb,
        -sg * cb * ca - cg * sa,
        -sg * cb * sa + cg * ca,
        sg * sb,
        sb * ca,
        sb * sa,
        cb,
    )


def matrix_to_euler(matrix: Tensor) -> Tensor:
    """(..., 3, 3) -> RELION's (rot, tilt, psi) in radians, (..., 3); tilt in [0, pi], rot and psi in (-pi, pi].

    At tilt 0 only psi + rot is defined and at tilt pi only psi - rot; rot is 0 there, as in RELION. Differentiable away
    from these two poles, at which no derivative exists and the gradient is NaN.
    """
    w, x, y, z = matrix_to_quaternion(matrix).unbind(-1)
    # |(w, z)| = cos(tilt / 2) and |(x, y)| = sin(tilt / 2). The half sum of psi and rot comes from the first pair alone
    # and the half difference from the second: near a pole one of them is badly known and does not spoil the other.
    sine, cosine = torch.hypot(x, y), torch.hypot(w, z)
    half_sum, half_difference = torch.atan2(-z, w), torch.atan2(-x, -y)
    tiny = 4 * torch.finfo(matrix.dtype).eps
    plus = torch.where(cosine < tiny, half_difference, half_sum)
    minus = torch.where(sine < tiny, half_sum, half_difference)
    return torch.stack([_wrap(plus - minus), 2 * torch.atan2(sine, cosine), _wrap(plus + minus)], dim=-1)


def quaternion_to_matrix(quaternion: Tensor) -> Tensor:
    """(w, x, y, z) of any length, (..., 4) -> (..., 3, 3).

    The length does not matter; q and -q are the same rotation. The zero quaternion gives the identity, with gradient 0.
    """
    require_shape(quaternion, 4)
    squared = (quaternion * quaternion).sum(-1)
    s = 2 / squared.clamp_min(torch.finfo(quaternion.dtype).tiny)
    w, x, y, z = quaternion.unbind(-1)
    sx, sy, sz = s * x, s * y, s * z
    wx, wy, wz = w * sx, w * sy, w * sz
    xx, xy, xz = x * sx, x * sy, x * sz
    yy, yz, zz = y * sy, y * sz, z * sz
    return _matrix(1 - (yy + zz), xy - wz, xz + wy, xy + wz, 1 - (xx + zz), yz - wx, xz - wy, yz + wx, 1 - (xx + yy))


def davenport_matrix(matrix: Tensor) -> Tensor:
    """The symmetric, traceless K with q^T K q = tr(M^T R(q)) for every unit quaternion q, (..., 3, 3) -> (..., 4, 4).

    Its largest eigenvector is the rotation nearest to M (Davenport 1968), and the matrix-Fisher density exp(tr(M^T R))
    is the Bingham density exp(q^T K q) (Prentice 1986).
    """
    require_shape(matrix, 3, 3)
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in matrix.unbind(-2))
    wx, wy, wz, xy, xz, yz = h - f, c - g, d - b, b + d, c + g, f + h
    rows = [a + e + i, wx, wy, wz, wx, a - e - i, xy, xz, wy, xy, e - a - i, yz, wz, xz, yz, i - a - e]
    return torch.stack(rows, -1).unflatten(-1, (4, 4))


def matrix_to_quaternion(matrix: Tensor) -> Tensor:
    """(..., 3, 3) -> unit (w, x, y, z) with w >= 0, (..., 4). At w = 0 (angle pi) either sign may come out."""
    # K of a rotation is 4 q q^T - 1. Every row of 4 q q^T is a multiple of q, and the one with the largest diagonal is
    # longer than 1, hence exact.
    rows = davenport_matrix(matrix) + torch.eye(4, dtype=matrix.dtype, device=matrix.device)
    best = rows.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None]
    row = rows.gather(-2, best.expand(*best.shape[:-1], 4)).squeeze(-2)
    row = torch.where(row[..., :1] < 0, -row, row)
    return row / torch.linalg.vector_norm(row, dim=-1, keepdim=True)


def rotvec_to_matrix(rotvec: Tensor) -> Tensor:
    """Axis times angle in radians, (..., 3) -> (..., 3, 3). Differentiable everywhere, also at 0."""
    require_shape(rotvec, 3)
    squared = (rotvec * rotvec).sum(-1, keepdim=True)
    # Below the threshold the next terms of the series are less than 1e-18; `where` needs a safe argument in both arms.
    small = squared < 1e-6
    half = torch.where(small, 1, squared).sqrt() / 2
    cosine = torch.where(small, 1 - squared / 8 + squared**2 / 384, half.cos())
    sine_ratio = torch.where(small, 0.5 - squared / 48 + squared**2 / 3840, half.sin() / (2 * half))
    return quaternion_to_matrix(torch.cat([cosine, sine_ratio * rotvec], dim=-1))


def matrix_to_rotvec(matrix: Tensor) -> Tensor:
    """(..., 3, 3) -> axis times angle in radians, (..., 3), angle in [0, pi]. Differentiable at the identity.

    At angle pi the axis is known up to sign only, and either may come out.
    """
    w, v = matrix_to_quaternion(matrix).split([1, 3], dim=-1)
    squared = (v * v).sum(-1, keepdim=True)
    small = squared < 1e-6
    length = torch.where(small, 1, squared).sqrt()
    ratio = squared / w.square().clamp_min(0.5)  # tan^2 of half the angle, where it is small
    series = 2 / w.clamp_min(0.5) * (1 - ratio / 3 + ratio**2 / 5)
    return v * torch.where(small, series, 2 * torch.atan2(length, w) / length)


def matrix_to_sixd(matrix: Tensor) -> Tensor:
    """(..., 3, 3) -> (..., 6): the first column, then the second (Zhou et al. 2019, arXiv:1812.07035)."""
    require_shape(matrix, 3, 3)
    return matrix[..., :2].mT.flatten(-2)


def gram_schmidt(sixd: Tensor) -> Tensor:
    """Two columns x[..., 0:3] and x[..., 3:6], (..., 6) -> (..., 3, 3) (Zhou et al. 2019, arXiv:1812.07035).

    The first keeps its direction, the second is made orthogonal to it, the third is their cross product. Always a
    rotation: a first column of 0 is read as the x axis, and a second one of 0 or parallel to the first as the x axis,
    or the y axis where the first is close to x; what is replaced receives no gradient.
    """
    require_shape(sixd, 6)
    info = torch.finfo(sixd.dtype)
    first, second = sixd.unflatten(-1, (2, 3)).unbind(-2)
    axes = torch.eye(3, dtype=sixd.dtype, device=sixd.device)

    def squared(v: Tensor) -> Tensor:
        return (v * v).sum(-1, keepdim=True)

    def reject(v: Tensor) -> Tensor:
        return v - (v * b1).sum(-1, keepdim=True) * b1

    # Comparisons are written so that NaN stays NaN instead of becoming an axis.
    b1 = torch.nn.functional.normalize(torch.where(squared(first) <= info.tiny, axes[0], first), dim=-1, eps=0)
    away = torch.where(b1[..., :1].abs() < 0.75, axes[0], axes[1])
    lost = squared(reject(second)) <= (16 * info.eps) ** 2 * squared(second) + info.tiny
    # Rejecting twice: once leaves a component along b1 of eps / sin(angle between the columns).
    b2 = torch.nn.functional.normalize(reject(reject(torch.where(lost, away, second))), dim=-1, eps=0)
    return torch.stack([b1, b2, torch.linalg.cross(b1, b2)], dim=-1)


def _singular_frames(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 3, 3) -> rotations U, V with U^T M V diagonal, |entries| descending, the first two >= 0.

    One-sided Jacobi: the columns of M are rotated against each other in pairs until they are orthogonal, V collecting
    the rotations. On thousands of matrices it takes a third of the time of LAPACK's one at a time, and small singular
    values keep their relative accuracy. The number of sweeps is fixed, so that nothing waits for the device: four were
    enough for millions of matrices of every kind in float64, and there is one to spare.
    """
    scale = matrix.abs().amax((-2, -1), keepdim=True).clamp_min(torch.finfo(matrix.dtype).tiny)
    eye = torch.eye(3, dtype=matrix.dtype, device=matrix.device).expand_as(matrix)
    # batch last and contiguous: column j of M over column j of V, (6, ...)
    columns = list(torch.cat([matrix / scale, eye], dim=-2).movedim((-1, -2), (0, 1)).contiguous().unbind(0))
    tiny = torch.finfo(matrix.dtype).tiny
    for _ in range(5):
        for i, j in ((0, 1), (0, 2), (1, 2)):
            p, q = columns[i], columns[j]
            product = 2 * (p[:3] * q[:3]).sum(0)
            difference = (q[:3] * q[:3]).sum(0) - (p[:3] * p[:3]).sum(0)
            length = torch.hypot(difference, product).clamp_min(tiny)
            tangent = product / (difference + torch.copysign(length, difference))
            cosine = (1 + tangent * tangent).rsqrt()
            sine = cosine * tangent
            columns[i], columns[j] = cosine * p - sine * q, sine * p + cosine * q
    stacked = torch.stack(columns).movedim((0, 1), (-2, -1))
    order = (stacked[..., :3] ** 2).sum(-1).argsort(-1, descending=True)[..., :2, None]
    largest = stacked.gather(-2, order.expand(*order.shape[:-1], 6))
    # The third columns are cross products, which flips the smallest singular value where det(M) < 0.
    return gram_schmidt(largest[..., :3].flatten(-2)), gram_schmidt(largest[..., 3:].flatten(-2))


class _SpecialProcrustes(torch.autograd.Function):
    """M -> U V^T, with the derivative of the polar factor instead of that of the singular vectors.

    From M = R P with P symmetric, dR = U X V^T with X_ij = (B_ij - B_ji) / (s_i + s_j), B = U^T dM V, and the map is
    its own adjoint. The signed singular values enter as sums, never as differences: repeated ones are harmless unless
    the rotation itself is not unique.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        u, v = _singular_frames(matrix)
        ctx.save_for_backward(u, v, (u * (matrix @ v)).sum(-2))
        return u @ v.mT

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        refuse_second_derivatives("special_procrustes")
        u, v, s = ctx.saved_tensors
        largest = s[..., :1, None]
        gaps = (s[..., :, None] + s[..., None, :]).maximum(torch.finfo(s.dtype).eps ** 0.5 * largest)
        b = u.mT @ grad @ v
        return u @ torch.where(largest > 0, (b - b.mT) / gaps, 0) @ v.mT


def special_procrustes(matrix: Tensor) -> Tensor:
    """The rotation nearest in the Frobenius norm, (..., 3, 3) -> (..., 3, 3) (Levinson et al. 2020, arXiv:2006.14616).

    The gradient is exact where the nearest rotation is unique, also at repeated singular values. It grows as the
    inverse of the gap s2 + sign(det) s3; below sqrt(eps) of the largest singular value it is capped, and at matrix 0 it
    is 0, so it is always finite. Once differentiable. A matrix that is not finite gives NaN.
    """
    require_shape(matrix, 3, 3)
    return _SpecialProcrustes.apply(matrix)
