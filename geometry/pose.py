"""What an encoder says of a batch of images, and what is true of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Pose(NamedTuple):
    """Poses of B images; as the truth that a prediction is compared with, without ``confidence`` and ``raw``.

    A named tuple, so that torch takes it apart and puts it together: ``DataParallel`` gathers it, and it is a
    pytree. Its length is therefore four; :meth:`rows` chooses images.

    Attributes:
        rotation: (B, 3, 3), object to camera coordinates, ``x_cam = R @ x_obj``.
        shift: (B, 2), (x, y) in Angstrom, where the content has moved.
        confidence: (B,), larger is surer; comparable within one encoder only.
        raw: (B, k), what the head made rotation and confidence from.
    """

    rotation: Tensor | None = None
    shift: Tensor | None = None
    confidence: Tensor | None = None
    raw: Tensor | None = None

    def rows(self, index: Tensor | slice) -> Pose:
        """The poses of some of the images."""
        return Pose(*(None if value is None else value[index] for value in self))

    def numpy(self) -> tuple[NDArray[np.float64] | None, ...]:
        """Rotation, shift, confidence and raw vector as float64 arrays, None for what there is not."""
        return tuple(None if value is None else value.detach().cpu().double().numpy() for value in self)


def join_poses(poses: Sequence[Pose]) -> Pose:
    """The poses of batches, one after the other; each has what the first has."""
    return Pose(*(None if values[0] is None else torch.cat(values) for values in zip(*poses, strict=True)))
