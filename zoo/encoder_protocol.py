"""What predicting and recovering need of an encoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor, nn

from ..geometry.pose import Pose
from ..heads.base import Head
from ..imaging.preprocessing import Preprocessing
from ..models.base import Backbone
from .entry import Entry


class Encoder(Protocol):
    """Images to poses, as :class:`~cryozoo.zoo.encoder.PoseEncoder` does.

    Attributes:
        name: in messages.
        backbone: makes features of images.
        head: says whether there are rotations.
        has_shift: whether there are shifts.
        preprocessing: what is done to images first.
        entry: what is known of its weights, or None.
        training: whether it is in training mode.
    """

    name: str
    backbone: Backbone
    head: Head
    has_shift: bool
    preprocessing: Preprocessing
    entry: Entry | None
    training: bool

    def __call__(self, images: Tensor) -> Pose:
        """Preprocessed images (B, 1, L, L) -> Pose."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its weights, which tell the device."""

    def train(self, mode: bool = True) -> Any:
        """Set the mode."""

    def eval(self) -> Any:
        """Set the mode of evaluation."""
