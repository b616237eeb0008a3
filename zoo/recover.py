"""Poses of many particles together, from an encoder that knows distances between them and was never told a frame.

The way of Banjac et al. (2021, arXiv:2104.06237) without the truth that they align with: the images of some particles
are turned and mirrored, all are embedded, orientations are recovered from the distances between the embeddings
(:mod:`cryozoo.recovery.orientations`), and the copies, whose poses relative to their originals are known, tell the
camera's side (:mod:`cryozoo.recovery.gauge`). The object's frame and hand stay open, as in every method that starts
from images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..geometry.pairs import pair_distance, random_pairs, random_partners
from ..geometry.plane_groups import PlaneGroup
from ..geometry.point_groups import point_group
from ..geometry.pose import Pose, join_poses
from ..geometry.rotations import matrix_to_quaternion
from ..imaging.inplane import transform_d4
from ..particles.errors import BadInput
from ..particles.poses import PoseTable
from ..recovery import FEWEST, Gauge, Recovery, recover_orientations, resolve_gauge
from ._source import Particles, inference, open_particles, pose_table, prepared_batches
from .distances import predicted_distances
from .encoder_protocol import Encoder

_D4 = PlaneGroup("D4").phi
_DENSE = 8192
_PARTNERS = 400
_SHOWN = 20_000


@dataclass(frozen=True)
class RecoveredPoses:
    """What :func:`recover_poses` found for N particles, some of which were copied 7 times each.

    Attributes:
        poses: (N,) in an arbitrary frame, and of either hand. The confidence is that of the head, or of an
            embedding exp(-``particle_loss``).
        gauge: how the camera's side was found, and how surely.
        recovery: of the N embeddings, then of the copies, before the camera's side was found; None of rotations.
        pairs: (M, 2) some pairs of the N particles.
        distances: (M,) their predicted distances, in radians.
    """

    poses: PoseTable
    gauge: Gauge
    recovery: Recovery | None
    pairs: Tensor
    distances: Tensor

    def between_poses(self) -> Tensor:
        """Distances between the poses of the pairs, (M,), to be compared with the predicted ones."""
        return pair_distance(torch.from_numpy(self.poses.rotation), self.pairs)


def recover_poses(
    encoder: Encoder,
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

    Of up to 8,192 particles and copies all distances are used, of more those of 400 random partners of each. Where the
    encoder gives rotations, these are orientations already, and only the camera's side is to be found.

    Args:
        encoder: one trained on distances (loss ``siamese_distance``), with an embedding or rotations; its mode is
            restored afterwards.
        particles: as in :func:`cryozoo.zoo.predict.predict`; at least 30.
        copies: how many of the particles are also turned and mirrored.
        symmetry: point group of the object; by default what the weights say of it. For embeddings it must be one to
            whose asymmetric unit the distances were restricted in the training.
        batch_size: images per step of the network.
        pixel_size: Angstrom per pixel, instead of what a file says; of images in memory, by default the encoder's.
        seed: of what is copied, of the partners, and of the search.
        progress: show a bar with the time left.
        **open_args: of :meth:`ParticleStack.open` for files, for instance ``datadir`` or ``skip_bad``.

    Raises:
        BadInput: the particles cannot be used, or are too few, or the network makes no numbers of them; or the encoder
            learnt distances that are no angles between orientations: Euclidean ones, or the least over a point group.
        ValueError: fewer than 2 copies, or no such point group.

    Warns:
        BadInputWarning: the images cover less than those the encoder was trained on, or have coarser pixels.
    """
    if copies < 2:
        raise ValueError(f"copies {copies}: at least 2, or nothing tells the camera's side")
    group = point_group(_group(encoder) if symmetry is None else symmetry)
    source = open_particles(encoder, particles, pixel_size, open_args)
    n = len(source)
    if n < FEWEST:
        raise BadInput(source.path, f"{n} particles", expected=f"at least {FEWEST}, to be placed by their distances")
    generator = torch.Generator().manual_seed(seed)
    copied = torch.randperm(n, generator=generator)[:copies].sort().values
    originals, moved, moves = [], [], []
    prepared = prepared_batches(encoder, source, batch_size, progress=progress, desc="embed")
    with inference(encoder), prepared as batches:
        for rows, images in batches:
            originals.append(_checked(encoder(images), source.path, rows))
            chosen = copied[(copied >= rows.start) & (copied < rows.stop)]
            if len(chosen):
                some = images[(chosen - rows.start).to(images.device)]
                for element in range(1, len(_D4)):
                    moved.append(encoder(transform_d4(some, element)))
                    moves.append(torch.stack([chosen, torch.full_like(chosen, element)], 1))
    original, every = join_poses(originals), join_poses(originals + moved)
    total = n + sum(map(len, moves))
    recovery: Recovery | None = None
    if every.rotation is None:
        partners = None if total <= _DENSE else random_partners(total, _PARTNERS, generator=generator)
        recovery = recover_orientations(predicted_distances(every, partners).cpu(), pairs=partners, seed=seed)
        quaternions = recovery.quaternions
    else:
        quaternions = matrix_to_quaternion(every.rotation.double()).cpu()
    confidence = original.confidence if recovery is None else (-recovery.particle_loss[:n]).exp()
    i, elements = torch.cat(moves).unbind(1)
    gauge = resolve_gauge(quaternions, torch.stack([i, torch.arange(n, total)], 1), _D4[elements], group=group)
    pairs = random_pairs(n, _SHOWN, generator=generator)
    poses = pose_table(
        source,
        gauge.rotations[:n].numpy(),
        None if original.shift is None else original.shift.cpu().double().numpy(),
        None if confidence is None else confidence.cpu().double().numpy(),
    )
    return RecoveredPoses(poses, gauge, recovery, pairs, predicted_distances(original, pairs).cpu())


def _checked(pose: Pose, path: str | Path, rows: range) -> Pose:
    """Refuse numbers that are not finite, of which no distance can be made."""
    values = pose.raw if pose.rotation is None else pose.rotation
    assert values is not None
    finite = values.flatten(1).isfinite().all(1)
    if not finite.all():
        row = rows[int((~finite).nonzero()[0])]
        raise BadInput(path, "the network makes NaN or infinite numbers of an image", where=f"row {row + 1}")
    return pose


def _group(encoder: Encoder) -> str:
    """The point group that the training knew of, whose distances can be served."""
    entry = encoder.entry
    if entry is None:
        return "C1"
    if encoder.head.has_rotation:
        return entry.symmetry
    if entry.loss_args.get("metric") == "euclidean":
        raise BadInput(
            encoder.name, "learnt Euclidean distances, which are no angles", hint="train it with metric cosine"
        )
    if len(point_group(entry.symmetry)) > 1 and not entry.loss_args.get("restricted"):
        raise BadInput(
            encoder.name,
            f"learnt distances that are the least over {entry.symmetry}, from which orientations cannot be recovered",
            hint="train it with restricted: true, or with a head that has rotations",
        )
    return entry.symmetry
