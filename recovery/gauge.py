"""The camera's side of poses recovered from distances, found without any truth.

Distances between orientations leave ``Q_i = A R_i B`` or ``Q_i = A R_i^T B`` open, with unknown rotations A and B (all
quaternions times one orthogonal 4 x 4 matrix; :mod:`.recovery`). B turns the object, which is anybody's choice. A turns
every image's camera in its own frame, and with a wrong A, or poses that are transposed, no map comes out.

**Copies tell.** Let image j be image i turned or mirrored by an orthogonal map g of its plane, so that
``R_j = phi R_i`` with ``phi = diag(g, det g)`` (:mod:`.plane_groups`). In the right reading

    Q_j Q_i^T = A phi R_i B B^T R_i^T A^T = A phi A^T,

the same for all copies with one phi. Read the wrong way, the poses are ``Q_i = A R_i^T B`` and

    Q_j Q_i^T = A R_i^T phi^T R_i A^T,

a turn by the same angle about an axis that every image has to itself. So both readings are tried, and the residuals,
the angles between ``Q_j Q_i^T`` and ``A phi A^T``, say which is right and how surely. It takes copies of several
images: with ``A R_i^T`` for A, those of a single one agree in the wrong reading too.

**A, in closed form.** phi has the third axis e_3 as eigenvector, ``phi e_3 = det(g) e_3``, so ``z = A e_3`` is the unit
vector for which ``sum_k |W_k z - det(g_k) z|^2`` is smallest, W_k being the observed ``Q_j Q_i^T``: the eigenvector of
``sum_k det(g_k) (W_k + W_k^T)`` with the largest eigenvalue. Its sign is that of ``sum_k sin(t_k) <z, w_k>`` over turns
by t_k, w_k being the axis vector of W_k, from ``(W_k - W_k^T) / 2``. Complete z to a right-handed frame ``(u, v, z)``;
``A = (u, v, z) Rz(s)`` with an angle s that turns do not see, since they commute with Rz(s). A reflection
``g = [[cos t, sin t], [sin t, -cos t]]`` is seen as ``Rz(s) g Rz(-s)``, the reflection with ``t + 2 s``: the mean
direction of the differences is 2 s. Both steps average over the copies, and random ones average out; repeating them
with weights that fall with the residual takes away what is left of their pull.

**What remains** is s or s + pi, A or ``A Rz(pi)``, and nothing else: rotations that commute with a turn by t, not a
multiple of pi, are turns about the same axis, and Rz(s) commutes with a reflection only where ``s = -s``. Since
``Rz(pi) = -M`` with ``M = diag(1, 1, -1)``, the two solutions are related by

    Rz(pi) R B = (M R M) Rz(pi) B,

the object's mirror image in another frame: the hand, which images cannot tell. Turns alone leave s open (all images
turned at once); reflections, and turns by 180 degrees, may leave the sign of z open (all images mirrored at once).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..geometry.distances import geodesic_distance
from ..geometry.rotations import quaternion_to_matrix, require_shape
from .gauge_search import search_camera, symmetric_residuals

_ROUNDS = 20

# Radians; residuals below it weigh alike.
_SMALL = 1e-3

# Sine of the smallest turn that tells the sign of z.
_TURN = 0.1


@dataclass(frozen=True)
class Gauge:
    """What :func:`resolve_gauge` found; P particles, K copies.

    Attributes:
        rotations: (P, 3, 3) float64 ``A^T Q`` (or ``A^T Q^T``): poses up to the object's frame and its hand.
        camera: (3, 3) the A taken away.
        transposed: whether the poses had to be transposed.
        residuals: (K,) radians between ``Q_j Q_i^T`` and ``A phi A^T`` of each copy; of a symmetric object, those by
            which the angle between them differs from the nearest angle of the group.
        residual: their median, for the reading that was taken.
        other_residual: the same for the other reading.
        preference: mean over the images that were copied of how much better this reading fits them, in standard errors
            of that mean. Where it is small the poses may be transposed; more copies tell.
    """

    rotations: Tensor
    camera: Tensor
    transposed: bool
    residuals: Tensor
    residual: float
    other_residual: float
    preference: float


def resolve_gauge(quaternions: Tensor, copies: Tensor, phi: Tensor, *, group: Tensor | None = None) -> Gauge:
    """Find the camera's side of recovered poses, and whether they are transposed, from turned and mirrored copies.

    Args:
        quaternions: (P, 4) as recovered from distances.
        copies: (K, 2) integers (i, j): image j is image i, moved. Of at least two images, better of a dozen.
        phi: (K, 3, 3) what that does to poses, ``R_j = phi R_i``: ``diag(g, det g)`` of an orthogonal map g of the
            image plane. At least one turn by something else than 0 or 180 degrees, and one reflection; a dozen of each
            where poses have errors.
        group: (G, 3, 3) the point group, where orientations were restricted to one asymmetric unit.

    Raises:
        ValueError: shapes or indices do not fit, phi is not of that form, or copies leave more open than the hand.
    """
    require_shape(quaternions, 4)
    if quaternions.ndim != 2 or copies.ndim != 2 or phi.shape != (len(copies), 3, 3) or copies.shape[1] != 2:
        raise ValueError(
            f"quaternions {tuple(quaternions.shape)}, copies {tuple(copies.shape)} and phi {tuple(phi.shape)}, "
            "expected (P, 4), (K, 2) and (K, 3, 3)"
        )
    if copies.is_floating_point() or not bool(((copies >= 0) & (copies < len(quaternions))).all()):
        raise ValueError(f"copies, expected numbers of particles from 0 to {len(quaternions) - 1}")
    if not quaternions.isfinite().all():
        raise ValueError("quaternions: not all numbers are finite")
    if len(copies[:, 0].unique()) < 2:
        raise ValueError(
            f"{len(copies)} copies of one image, expected copies of several images: those of one fit both readings"
        )
    phi = phi.detach().to(quaternions.device, torch.float64)
    _refuse_kinds(phi)
    rotations = quaternion_to_matrix(quaternions.detach().double())
    i, j = copies.to(quaternions.device).unbind(1)
    readings = []
    for poses in (rotations, rotations.mT):
        observed = poses[j] @ poses[i].mT
        if group is None or len(group) == 1:
            camera = _camera(observed, phi)
            residuals = geodesic_distance(observed, camera @ phi @ camera.T)
        else:
            residuals_of = symmetric_residuals(observed, phi, group)
            camera = search_camera(residuals_of, observed)
            residuals = residuals_of(camera[None])[0]
        readings.append((float(residuals.quantile(0.5)), camera, residuals, poses))
    transposed = readings[1][0] < readings[0][0]
    residual, camera, residuals, poses = readings[transposed]
    other_residual, _, other_residuals, _ = readings[not transposed]
    preference = _standard_errors(other_residuals - residuals, i)
    return Gauge(camera.T @ poses, camera, transposed, residuals, residual, other_residual, preference)


def _standard_errors(differences: Tensor, image: Tensor) -> float:
    """The mean over images of the mean over their copies, (K,) each, over the standard error of that mean."""
    images, place = image.unique(return_inverse=True)
    sums = differences.new_zeros(len(images)).index_add(0, place, differences)
    means = sums / place.bincount()
    return float(means.mean() / (means.std() / len(images) ** 0.5))


def _refuse_kinds(phi: Tensor) -> None:
    expected = "expected phi = diag(g, det g) with an orthogonal 2 x 2 matrix g"
    plane, sign = phi[:, :2, :2], phi[:, 2, 2]
    off = (plane @ plane.mT - torch.eye(2, dtype=phi.dtype, device=phi.device)).abs().amax((-2, -1))
    off = off + phi[:, 2, :2].abs().amax(-1) + phi[:, :2, 2].abs().amax(-1) + (torch.linalg.det(plane) - sign).abs()
    wrong = ~(off < 1e-4)
    if wrong.any():
        raise ValueError(f"phi[{int(wrong.int().argmax())}] is not of the form: {expected}")
    turns = (sign > 0) & (plane[:, 1, 0].abs() > _TURN)
    missing = [
        name
        for name, present in (("turn by something else than 0 or 180 degrees", turns), ("reflection", sign < 0))
        if not present.any()
    ]
    if missing:
        raise ValueError(
            f"{len(phi)} copies, no {' and no '.join(missing)} among them: expected both; without them the poses are "
            "known only up to a turn or a mirroring of all images"
        )


def _camera(observed: Tensor, phi: Tensor) -> Tensor:
    """(3, 3) the A for which ``A phi A^T`` are nearest to the observed, (K, 3, 3) x 2; see the head of this file."""
    sign, sine = phi[:, 2, 2], (phi[:, 1, 0] - phi[:, 0, 1]) / 2
    angle = torch.atan2(phi[:, 1, 0], phi[:, 0, 0])
    weights = torch.ones_like(sign)
    camera = torch.eye(3, dtype=phi.dtype, device=phi.device)
    for _ in range(_ROUNDS):
        symmetric = sign[:, None, None] * (observed + observed.mT)
        z = torch.linalg.eigh((weights[:, None, None] * symmetric).sum(0)).eigenvectors[:, -1]
        x, y = observed[:, 2, 1] - observed[:, 1, 2], observed[:, 0, 2] - observed[:, 2, 0]
        axis = torch.stack([x, y, observed[:, 1, 0] - observed[:, 0, 1]], -1) / 2
        turns = weights * sine * (sign > 0)
        z = torch.where((turns * (axis @ z)).sum() < 0, -z, z)
        u = torch.linalg.cross(z, torch.eye(3, dtype=z.dtype, device=z.device)[z.abs().argmin()])
        u = torch.nn.functional.normalize(u, dim=0)
        frame = torch.stack([u, torch.linalg.cross(z, u), z], 1)
        plane = (frame.T @ observed @ frame)[:, :2, :2]
        # Only the part of a seen map that reflects has a direction.
        seen = torch.atan2(plane[:, 1, 0] + plane[:, 0, 1], plane[:, 0, 0] - plane[:, 1, 1])
        mirrors = weights * (sign < 0)
        s = torch.atan2((mirrors * (seen - angle).sin()).sum(), (mirrors * (seen - angle).cos()).sum()) / 2
        turn = torch.eye(3, dtype=z.dtype, device=z.device)
        turn[0, 0], turn[0, 1], turn[1, 0], turn[1, 1] = s.cos(), -s.sin(), s.sin(), s.cos()
        camera = frame @ turn
        weights = 1 / geodesic_distance(observed, camera @ phi @ camera.T).clamp_min(_SMALL)
    return camera
