"""What every backbone is, whoever wrote it."""

from __future__ import annotations

from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Backbone(Protocol):
    """A ``torch.nn.Module`` from preprocessed images to feature vectors.

    ``cryozoo.testing.check_backbone`` holds one to all of it.

    Attributes:
        num_features: length of the feature vector.
        group: None, or the name of the plane group to which the features are equivariant: then they are fields of its
            regular representation, ordered ``element * fields + field``.
    """

    @property
    def num_features(self) -> int:
        """Length of the feature vector."""

    @property
    def group(self) -> str | None:
        """Name of the plane group of the features."""

    def __call__(self, images: Tensor, /) -> Tensor:
        """(B, in_chans, L, L) -> (B, num_features)."""

    def to(self, *, memory_format: torch.memory_format) -> Self:
        """The same with its weights in another layout."""
