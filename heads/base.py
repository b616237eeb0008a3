"""What every rotation head is: a parameter-free map from a raw vector to a :class:`Pose`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..geometry.constants import Constants
from ..geometry.pose import Pose


class Head(Constants):
    """Base of the heads. A subclass sets the class attributes and implements :meth:`rotation`.

    The last linear layer belongs to the encoder, not to the head, so that an equivariant backbone can use an
    equivariant one, whose weights :meth:`representation` determines.

    Attributes:
        raw_dim: length of the raw vector.
    """

    raw_dim: int
    has_rotation: ClassVar[bool] = True
    has_confidence: ClassVar[bool] = False
    equivariant_args: ClassVar[Mapping[str, Any]] = {}
    """Arguments with which the head has a representation, where it has none without them."""

    @property
    def equivariant(self) -> bool:
        """Whether an equivariant last layer exists for this head."""
        return self.representation(torch.eye(3)[None]) is not None

    def representation(self, phi: Tensor) -> list[tuple[int, Tensor]] | None:
        """How the raw vector transforms when phi (n, 3, 3) multiplies the rotation on the left.

        phi(g) is what g, acting on the image, does to the pose: Rz(t) for an in-plane rotation by t.

        Returns:
            Blocks (copies, matrices (n, d, d)) in the order of the raw vector; the copies of a block are contiguous, so
            that raw[:, 0:d] is the first. None: it carries no representation (the default).
        """
        return None

    def rotation(self, raw: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Finite (B, raw_dim), float32 or float64 -> rotation (B, 3, 3) or None, confidence (B,) or None."""
        raise NotImplementedError

    def forward(self, raw: Tensor, *, decode: bool = True) -> Pose:
        """(B, raw_dim) -> Pose, computed in float32 (heads die in bfloat16), or in float64 if raw is.

        The rotation and confidence of a raw vector that is not finite are NaN. Without ``decode`` there are none, for
        losses that look at raw vectors alone.

        Raises:
            ValueError: raw has another shape.
        """
        if raw.ndim != 2 or raw.shape[1] != self.raw_dim:
            raise ValueError(f"{type(self).__name__}: raw vector {tuple(raw.shape)}, expected (batch, {self.raw_dim})")
        with torch.autocast(raw.device.type, enabled=False):
            raw = raw if raw.dtype == torch.float64 else raw.float()
            if not decode:
                return Pose(raw=raw)
            # Without this some decompositions raise at NaN, and others turn it into a rotation like any other.
            finite = raw.isfinite().all(1)
            rotation, confidence = self.rotation(torch.where(finite[:, None], raw, 0))
            if rotation is not None:
                rotation = torch.where(finite[:, None, None], rotation, torch.nan)
            if confidence is not None:
                confidence = torch.where(finite, confidence, torch.nan)
        return Pose(rotation, None, confidence, raw)
