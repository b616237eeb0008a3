"""What every loss is: a module that compares a predicted :class:`Pose` with a true one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..geometry.point_groups import closest_mate, point_group
from ..geometry.pose import Pose


class Mismatch(ValueError):
    """A prediction or a truth without what the loss needs: another head, or other data, would have it."""


@dataclass(frozen=True, eq=False)
class LossOutput:
    """What a loss is made of, before anything is averaged, so that images can be weighted, chosen or left out.

    Attributes:
        terms: by name, (B,) one value for each image, or (P,) for each pair of images.
        weights: of the terms; 1 where none is given.
    """

    terms: Mapping[str, Tensor]
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, Tensor]:
        """The mean of every term, without its weight; for logs."""
        return {name: values.mean() for name, values in self.terms.items()}

    @property
    def total(self) -> Tensor:
        """The scalar to minimise: the weighted sum of the means."""
        weighted = [self.weights.get(name, 1.0) * mean for name, mean in self.parts.items()]
        return sum(weighted[1:], start=weighted[0])


class Loss(nn.Module):
    """Base of the losses. A subclass implements :meth:`compare`.

    Args:
        symmetry: point group of the object, in RELION's axes. The true rotation is replaced by its mate nearest to the
            prediction; distances between images are the least over the group.

    Attributes:
        frame_is_open: whether it fixes poses up to a common frame only, so that angles to the truth mean nothing.
        reads_rotation: whether it looks at predicted rotations, and not at raw vectors alone; a training need not find
            them where it does not.

    Raises:
        ValueError: the symmetry is unknown.
    """

    frame_is_open: ClassVar[bool] = False
    reads_rotation: ClassVar[bool] = True
    group: Tensor

    def __init__(self, *, symmetry: str = "C1") -> None:
        super().__init__()
        self.symmetry = symmetry
        self.register_buffer("group", point_group(symmetry), persistent=False)

    def compare(self, pose: Pose, target: Tensor, progress: float) -> LossOutput:
        """The terms. Pose and target (B, 3, 3) are float32 or float64, B is at least 1."""
        raise NotImplementedError

    def forward(self, pose: Pose, target: Pose, progress: float = 1.0) -> LossOutput:
        """Compare B predictions with B true poses.

        Args:
            pose: what an encoder returned.
            target: rotation (B, 3, 3).
            progress: how much of the training is done, 0 to 1; only losses with a schedule look at it.

        Raises:
            Mismatch: a field that this loss needs is missing or has another shape.
            ValueError: the batch is empty, or progress is outside [0, 1].
        """
        if not 0 <= progress <= 1:
            raise ValueError(f"{self._name}: progress {progress}, expected 0 to 1")
        true_rotation = self._required(target.rotation, "target", "rotation")
        batch = len(true_rotation)
        if batch == 0:
            raise ValueError(f"{self._name}: the batch is empty")
        for name, found, shape in (("rotation", pose.rotation, (3, 3)), ("raw", pose.raw, (-1,))):
            if found is not None:
                self._check_shape(f"predicted {name}", found, (batch, *shape))
        self._check_shape("target rotation", true_rotation, (batch, 3, 3))
        with torch.autocast(true_rotation.device.type, enabled=False):
            pose = pose._replace(rotation=_full(pose.rotation), raw=_full(pose.raw))
            prediction = pose.raw if pose.rotation is None else pose.rotation
            dtype = torch.float32 if prediction is None else prediction.dtype
            return self.compare(pose, true_rotation.to(dtype), progress)

    def mate(self, rotation: Tensor, target: Tensor) -> Tensor:
        """The symmetry mates of the targets nearest to the rotations, (B, 3, 3) x 2 -> (B, 3, 3)."""
        return target if len(self.group) == 1 else closest_mate(rotation, target, self.group)

    def predicted_rotation(self, pose: Pose) -> Tensor:
        """``pose.rotation``, or a Mismatch that names this loss."""
        return self._required(pose.rotation, "prediction", "rotation")

    def raw_vector(self, pose: Pose, expected: str, fits: Callable[[int], bool]) -> Tensor:
        """``pose.raw`` of a length that fits, or a Mismatch that names this loss and what it expected."""
        raw = pose.raw
        if raw is None or not fits(raw.shape[1]):
            found = "no raw vector" if raw is None else f"a raw vector of {raw.shape[1]} numbers"
            raise Mismatch(f"{self._name}: needs {expected}, the prediction has {found}")
        return raw

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _required(self, value: Tensor | None, whose: str, what: str) -> Tensor:
        if value is None:
            raise Mismatch(f"{self._name}: the {whose} has no {what}, and this loss needs one")
        return value

    def _check_shape(self, what: str, value: Tensor, shape: tuple[int, ...]) -> None:
        if value.ndim != len(shape) or any(n not in (m, -1) for n, m in zip(shape, value.shape, strict=True)):
            expected = ", ".join("any" if n == -1 else str(n) for n in shape)
            raise Mismatch(f"{self._name}: {what} {tuple(value.shape)}, expected ({expected})")


def _full(value: Tensor | None) -> Tensor | None:
    """float32, or float64 where it is already."""
    return value if value is None or value.dtype == torch.float64 else value.float()
