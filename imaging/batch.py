"""Images with what is known about them: what simulators draw, data sets hold and objectives compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..geometry.pose import Pose, join_poses
from ..particles.ctf import CTF


@dataclass(frozen=True)
class Batch:
    """B images.

    Attributes:
        images: (B, 1, L, L) float32.
        pose: their true poses; without a rotation where it is not known.
        ctf: parameters of their CTF; None where they have none, or it is not known.
    """

    images: Tensor
    pose: Pose
    ctf: CTF | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor | slice) -> Batch:
        return Batch(self.images[index], self.pose.rows(index), None if self.ctf is None else self.ctf[index])


def join_batches(batches: Sequence[Batch]) -> Batch:
    """Batches one after the other; each has what the first has."""
    ctfs = [batch.ctf for batch in batches if batch.ctf is not None]
    images = torch.cat([batch.images for batch in batches])
    return Batch(images, join_poses([batch.pose for batch in batches]), CTF.join(ctfs) if ctfs else None)
