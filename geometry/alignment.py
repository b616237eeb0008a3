"""Comparing two sets of poses that agree up to what images cannot tell: the object's frame, and its hand.

The hand: mirror an object by ``M = diag(1, 1, -1)``. A point p, seen from R at the first two coordinates of ``R p``,
is now at ``M p``, and from ``M R M`` it is seen at those of ``M R M M p = M R p``, which are the same. So the mirrored
object and ``M R M`` explain the images as well, and an encoder that was never shown the hand may have learned either.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .distances import geodesic_distance, quaternion_distance
from .grids import so3_grid
from .point_groups import closest_mate
from .rotations import require_shape, special_procrustes


@dataclass(frozen=True)
class FrameAlignment:
    """What :func:`align_frames` found; N poses.

    Attributes:
        frame: (3, 3) float64, the rotation S of the object's frame.
        mirrored: whether the mirrored hand fits better.
        aligned: (N, 3, 3), ``P S``, or ``M P M S`` where mirrored; of the dtype of the targets.
        angles: (N,) radians between ``aligned`` and the targets, or their nearest mates.
        mse: mean over the poses of the squared Frobenius norm ``||aligned - target||^2 = 8 sin^2(angle / 2)``.
        medse: median of the same.
    """

    frame: Tensor
    mirrored: bool
    aligned: Tensor
    angles: Tensor
    mse: float
    medse: float


def _checked(predicted: Tensor, target: Tensor, *shape: int) -> tuple[Tensor, Tensor]:
    for name, x in (("predicted", predicted), ("target", target)):
        require_shape(x, *shape)
        if x.ndim != 1 + len(shape) or len(x) == 0 or x.shape != predicted.shape:
            raise ValueError(
                f"{name} {tuple(x.shape)}, expected (N, {', '.join(map(str, shape))}), N > 0, twice the same"
            )
        if not x.isfinite().all():
            raise ValueError(f"{name}: not all numbers are finite")
    return predicted.detach().double(), target.detach().double()


def align_frames(predicted: Tensor, target: Tensor, *, group: Tensor | None = None) -> FrameAlignment:
    """Align predicted rotations with true ones over the object's frame and both hands, (N, 3, 3) x 2.

    The frame minimises the MSE in closed form: ``S = argmax tr(S^T sum_i P_i^T T_i)``, a Procrustes problem, once for
    the P_i and once for the mirrored ``M P_i M``; the hand with the smaller MSE wins. MSE and MedSE are those of cryoAI
    (Levy et al. 2022, arXiv:2203.08138).

    For a symmetric object any mate ``T_i g`` of a true rotation will do. From the best frames of a grid 15 degrees
    apart, taking the nearest mates and solving for the frame take turns.

    Args:
        predicted: P_i.
        target: T_i.
        group: (K, 3, 3) point group of the object, in the frame of the targets.

    Raises:
        ValueError: shapes differ, no poses, or numbers that are not finite.
    """
    p, t = _checked(predicted, target, 3, 3)
    mirror = torch.tensor([1, 1, -1], dtype=p.dtype, device=p.device)
    hands = torch.stack([p, mirror[:, None] * p * mirror])
    if group is None or len(group) == 1:
        frames = special_procrustes((hands.mT @ t).sum(1))
        mates = t.expand_as(hands)
    else:
        both = [_symmetric_frame(hand, t, group.to(t)) for hand in hands]
        frames = torch.stack(both)
        mates = closest_mate(hands @ frames[:, None], t, group.to(t))
    aligned = hands @ frames[:, None]
    squared = (aligned - mates).square().sum((-2, -1))
    best = int(squared.mean(1).argmin())
    return FrameAlignment(
        frame=frames[best],
        mirrored=best == 1,
        aligned=aligned[best].to(target.dtype),
        angles=geodesic_distance(aligned[best], mates[best]).to(target.dtype),
        mse=squared[best].mean().item(),
        medse=squared[best].quantile(0.5).item(),
    )


def _symmetric_frame(p: Tensor, t: Tensor, group: Tensor) -> Tensor:
    """(3, 3) the frame S that minimises the sum over the poses of ``min over g of ||P_i S - T_i g||^2``."""

    def squared(frames: Tensor, n: int) -> Tensor:
        turned = p[:n] @ frames[:, None]
        return (turned - closest_mate(turned, t[:n], group)).square().sum((-2, -1)).mean(1)

    grid = so3_grid(2).to(p)
    scores = torch.cat([squared(block, 64) for block in grid.split(256)])
    frames = grid[scores.topk(16, largest=False).indices]
    for _ in range(30):
        frames = special_procrustes((p.mT @ closest_mate(p @ frames[:, None], t, group)).sum(1))
    return frames[squared(frames, len(p)).argmin()]


@dataclass(frozen=True)
class O4Alignment:
    """What :func:`align_o4` found; P quaternions.

    Attributes:
        transform: (4, 4) float64 orthogonal T; its determinant is -1 where it conjugates (transposes the rotations).
        aligned: (P, 4) unit quaternions ``T q``, of the dtype of the targets.
        distances: (P,) radians between ``aligned`` and the targets.
        error: their mean, E_OR.
    """

    transform: Tensor
    aligned: Tensor
    distances: Tensor
    error: float


def align_o4(predicted: Tensor, target: Tensor) -> O4Alignment:
    """Minimise the mean distance ``d(T q_i, t_i)`` over orthogonal T, (P, 4) x 2.

    This is what quaternions recovered from pairwise distances are free to do: ``R -> A R B``, and transposition. The
    minimum is E_OR of Banjac et al. (2021, arXiv:2104.06237).

    With ``c_i = <t_i, T q_i>`` the distance ``2 arccos |c_i|`` falls with ``|c_i|`` and is concave in it. Replacing it
    by its tangent leaves a Procrustes problem, ``argmax_T sum_i sign(c_i) c_i / sqrt(1 - c_i^2)`` with the present
    signs and roots, whose solution never has a larger mean. Such steps find the nearest local minimum, the starts the
    global one: ``sum_i c_i^2``, free of signs, is a quadratic form in the 16 entries of T, and the starts are its 16
    eigenvectors made orthogonal, with either determinant; the best eight go on after eight steps. Of 500 quaternions
    four fifths may be random, and of a dozen one third; with more, what is found may be a neighbouring minimum, up to
    0.02 radians above the smallest.

    Raises:
        ValueError: shapes differ, no quaternions, or numbers that are not finite.
    """
    q, t = (torch.nn.functional.normalize(x, dim=-1) for x in _checked(predicted, target, 4))
    products = (t[:, :, None] * q[:, None, :]).flatten(1)  # c_i = <products_i, T>

    def orthogonal(matrix: Tensor, last: float = 1.0) -> Tensor:
        u, _, vh = torch.linalg.svd(matrix.unflatten(-1, (4, 4)))
        return torch.cat([u[..., :3], last * u[..., 3:]], dim=-1) @ vh

    def sines(transforms: Tensor) -> tuple[Tensor, Tensor]:
        """(S, 4, 4) -> c_i and sqrt(1 - c_i^2), both (P, S)."""
        c = products @ transforms.flatten(1).T
        return c, (1 - c * c).clamp_min(1e-12).sqrt()

    def step(c: Tensor, sine: Tensor) -> Tensor:
        return orthogonal((c.sign() / sine).T @ products)

    def error(c: Tensor, sine: Tensor) -> Tensor:
        return 2 * torch.atan2(sine, c.abs()).mean(0)

    starts = torch.linalg.eigh(products.T @ products).eigenvectors.T
    transforms = torch.cat([orthogonal(starts), orthogonal(starts, -1.0)])
    for _ in range(8):
        transforms = step(*sines(transforms))
    transforms = transforms[error(*sines(transforms)).topk(8, largest=False).indices]
    for _ in range(12):
        transforms = step(*sines(transforms))
    errors = error(*sines(transforms))
    best = transforms[errors.argmin()][None]
    smallest = errors.min().item()
    for _ in range(200):
        following = step(*sines(best))
        reached = error(*sines(following)).item()
        if smallest - reached < 1e-9:
            break
        best, smallest = following, reached
    aligned = q @ best[0].T
    distances = quaternion_distance(aligned, t)
    return O4Alignment(best[0], aligned.to(target.dtype), distances.to(target.dtype), distances.mean().item())
