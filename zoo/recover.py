"""Poses of many particles together, from an encoder that knows distances between them and was never told a frame.

The way of Banjac et al. (2021, arXiv:2104.06237) without the truth that they align with: the images of some particles
are turned and mirrored, all are embedded, orientations are recovered from the distances between the embeddings
(:mod:`cryozoo.geometry.recovery`), and the copies, whose poses relative to their originals are known, tell the camera's
side (:mod:`cryozoo.geometry.gauge`). The object's frame and hand stay open, as in every method that starts from images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..geometry.gauge import Gauge, resolve_gauge
from ..geometry.plane_groups import PlaneGroup
from ..geometry.point_groups import point_group
from ..geometry.recovery import Recovery, recover_orientations
from ..heads.base import join_poses
from ..losses.pairs import pair_distance, random_pairs, random_partners
from ..particles.errors import BadInput
from ..particles.poses import PoseTable
from ._source import Particles, inference, open_particles, pose_table, prepared_batches
from .augment import transform_d4
from .distances import predicted_distances

if TYPE_CHECKING:
    from .encoder import PoseEncoder

LEAST = 30
"""Particles: with fewer, distances leave orientations open."""

_D4 = PlaneGroup("D4").phi
_DENSE = 8192
_PARTNERS = 400
_SHOWN = 20_000


@dataclass(frozen=True)
class RecoveredPoses:
    """What :func:`recover_poses` found for N particles, some of which were copied 7 times each.

    Attributes:
        poses: (N,) in nobody's frame in particular, and of either hand. The confidence is exp(-``particle_loss``).
        recovery: of the N particles, then of the copies; before the camera's side was found.
        gauge: how the camera's side was found, and how surely.
        pairs: (M, 2) some pairs of the N particles.
        distances: (M,) their predicted distances, in radians.
    """

    poses: PoseTable
    recovery: Recovery
    gauge: Gauge
    pairs: Tensor
    distances: Tensor

    def between_poses(self) -> Tensor:
        """Distances between the poses of the pairs, (M,), to be compared with the predicted ones."""
        return pair_distance(torch.from_numpy(self.poses.rotation), self.pairs)


def recover_poses(
    encoder: PoseEncoder,
    particles: Particles,
    *,
    copies: int = 64,
    symmetry: str | None = None,
    batch_size: int = 256,
    pixel_size: float | None = None,
    seed: int = 0,
    progress: bool = False,
    **open_args: Any,
) -> RecoveredPoses:
    """Find the poses of particle images from the distances between them.

    Up to some 8,000 particles all distances are used, of more those of 400 random partners of each.

    Args:
        encoder: one trained on distances (loss ``siamese_distance``), with rotations or an embedding; its mode is
            restored afterwards.
        particles: as in :func:`cryozoo.zoo.predict.predict`; at least 30.
        copies: how many of the particles are also turned and mirrored.
        symmetry: point group to one of whose asymmetric units the distances were restricted in the training; by default
            what the weights say of it.
        batch_size: images per step of the network.
        pixel_size: Angstrom per pixel, instead of what a file says; of images in memory, by default the encoder's.
        seed: of what is copied, of the partners, and of the search.
        progress: show a bar with the time left.
        **open_args: of :meth:`ParticleStack.open` for files, for instance ``datadir`` or ``skip_bad``.

    Raises:
        BadInput: the particles cannot be used, or are too few.
        ValueError: fewer than 2 copies, no such point group, or an encoder that was trained on a symmetric object
            without restricting its orientations.

    Warns:
        BadInputWarning: the images cover less than those the encoder was trained on, or have coarser pixels.
    """
    if copies < 2:
        raise ValueError(f"copies {copies}: at least 2, or nothing tells the camera's side")
    group = point_group(_restricted_to(encoder) if symmetry is None else symmetry)
    source = open_particles(encoder, particles, pixel_size, open_args)
    n = len(source)
    if n < LEAST:
        raise BadInput(source.path, f"{n} particles", expected=f"at least {LEAST}, to be placed by their distances")
    generator = torch.Generator().manual_seed(seed)
    copied = torch.randperm(n, generator=generator)[:copies].sort().values
    originals, moved, moves = [], [], []
    with inference(encoder):
        for rows, images in prepared_batches(encoder, source, batch_size, progress=progress, desc="embed"):
            originals.append(encoder(images))
            chosen = copied[(copied >= rows.start) & (copied < rows.stop)]
            if len(chosen):
                some = images[(chosen - rows.start).to(images.device)]
                for element in range(1, len(_D4)):
                    moved.append(encoder(transform_d4(some, element)))
                    moves.append(torch.stack([chosen, torch.full_like(chosen, element)], 1))
    original, every = join_poses(originals), join_poses(originals + moved)
    total = n + sum(map(len, moves))
    partners = None if total <= _DENSE else random_partners(total, _PARTNERS, generator=generator)
    recovery = recover_orientations(predicted_distances(every, partners).cpu(), pairs=partners, seed=seed)
    i, elements = torch.cat(moves).unbind(1)
    gauge = resolve_gauge(recovery.quaternions, torch.stack([i, torch.arange(n, total)], 1), _D4[elements], group=group)
    pairs = random_pairs(n, _SHOWN, generator=generator)
    rotation, confidence = gauge.rotations[:n].numpy(), (-recovery.particle_loss[:n]).exp().numpy()
    shift = None if original.shift is None else original.shift.cpu().numpy()
    poses = pose_table(source, rotation, shift, confidence)
    return RecoveredPoses(poses, recovery, gauge, pairs, predicted_distances(original, pairs).cpu())


def _restricted_to(encoder: PoseEncoder) -> str:
    """The point group to one of whose asymmetric units distances were restricted in the training."""
    trained = (encoder.entry or {}).get("trained_with") or {}
    args = trained.get("loss_args", {})
    symmetry = args.get("symmetry") or trained.get("data", {}).get("symmetry", "C1")
    if len(point_group(symmetry)) > 1 and not args.get("restricted"):
        hint = "; being equivariant, it predicts poses" if encoder.group and encoder.head.has_rotation else ""
        raise ValueError(
            f"{encoder.name} was trained on distances that are the least over {symmetry}, from which orientations "
            f"cannot be recovered{hint or ': train it with restricted: true'}"
        )
    return str(symmetry)
