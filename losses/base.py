"""What every loss is: a module that compares a predicted :class:`Pose` with a true one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..geometry.point_groups import closest_mate, point_group
from ..geometry.pose import Pose


@dataclass(frozen=True, eq=False)
class LossOutput:
    """A loss and what it is made of.

    Attributes:
        total: scalar, what to minimise.
        parts: scalars by name, before weights; for logs.
    """

    total: Tensor
    parts: dict[str, Tensor]


class Loss(nn.Module):
    """Base of the losses. A subclass implements :meth:`rotation_term`.

    Args:
        symmetry: point group of the object, in RELION's axes. The true rotation is replaced by its mate nearest to the
            prediction; distances between images are the least over the group.
        shift_weight: weight of the shift term, the mean absolute error of both coordinates divided by ``shift_scale``.
            At 0 shifts are ignored.
        shift_scale: Angstrom that count as an error of 1.

    Raises:
        ValueError: the symmetry is unknown, the weight is negative or the scale not positive.
    """

    group: Tensor

    def __init__(self, *, symmetry: str = "C1", shift_weight: float = 0.0, shift_scale: float = 1.0) -> None:
        super().__init__()
        if shift_weight < 0 or shift_scale <= 0:
            raise ValueError(f"shift_weight {shift_weight} and shift_scale {shift_scale}, expected >= 0 and > 0")
        self.symmetry = symmetry
        self.shift_weight = shift_weight
        self.shift_scale = shift_scale
        self.register_buffer("group", point_group(symmetry), persistent=False)

    def rotation_term(self, pose: Pose, target: Tensor, progress: float) -> LossOutput:
        """Everything but the shift. Pose and target (B, 3, 3) are float32 or float64, B is at least 1."""
        raise NotImplementedError

    def forward(self, pose: Pose, target: Pose, progress: float = 1.0) -> LossOutput:
        """Compare B predictions with B true poses.

        Args:
            pose: what an encoder returned.
            target: rotation (B, 3, 3), and shift (B, 2) if ``shift_weight`` is not 0.
            progress: how much of the training is done, 0 to 1; only losses with a schedule look at it.

        Raises:
            ValueError: a field that this loss needs is missing or has another shape, the batch is empty, or progress is
                outside [0, 1].
        """
        if not 0 <= progress <= 1:
            raise ValueError(f"{self._name}: progress {progress}, expected 0 to 1")
        true_rotation = self._required(target.rotation, "target", "rotation")
        batch = len(true_rotation)
        if batch == 0:
            raise ValueError(f"{self._name}: the batch is empty")
        for name, field, shape in (
            ("rotation", pose.rotation, (3, 3)),
            ("shift", pose.shift, (2,)),
            ("raw", pose.raw, (-1,)),
        ):
            if field is not None:
                self._check_shape(f"predicted {name}", field, (batch, *shape))
        self._check_shape("target rotation", true_rotation, (batch, 3, 3))
        with torch.autocast(true_rotation.device.type, enabled=False):
            pose = pose._replace(rotation=_full(pose.rotation), shift=_full(pose.shift), raw=_full(pose.raw))
            prediction = pose.raw if pose.rotation is None else pose.rotation
            dtype = torch.float32 if prediction is None else prediction.dtype
            shift_error = None if self.shift_weight == 0 else self._shift_error(pose, target)
            output = self.rotation_term(pose, true_rotation.to(dtype), progress)
            if shift_error is None:
                return output
            return LossOutput(output.total + self.shift_weight * shift_error, {**output.parts, "shift": shift_error})

    def mate(self, rotation: Tensor, target: Tensor) -> Tensor:
        """The symmetry mates of the targets nearest to the rotations, (B, 3, 3) x 2 -> (B, 3, 3)."""
        return target if len(self.group) == 1 else closest_mate(rotation, target, self.group)

    def predicted_rotation(self, pose: Pose) -> Tensor:
        """``pose.rotation``, or a ValueError that names this loss."""
        return self._required(pose.rotation, "prediction", "rotation")

    def raw_vector(self, pose: Pose, expected: str, fits: Callable[[int], bool]) -> Tensor:
        """``pose.rotation_raw`` of a length that fits, or a ValueError that names this loss and what it expected."""
        raw = pose.rotation_raw
        if raw is None or not fits(raw.shape[1]):
            found = "no raw vector" if raw is None else f"a raw vector of {raw.shape[1]} numbers, shift not counted"
            raise ValueError(f"{self._name}: needs {expected}, the prediction has {found}")
        return raw

    def _shift_error(self, pose: Pose, target: Pose) -> Tensor:
        shift = self._required(pose.shift, "prediction", "shift")
        true_shift = self._required(target.shift, "target", "shift")
        self._check_shape("predicted shift", shift, (len(shift), 2))
        self._check_shape("target shift", true_shift, (len(shift), 2))
        return (shift - true_shift.to(shift.dtype)).abs().mean() / self.shift_scale

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _required(self, value: Tensor | None, whose: str, field: str) -> Tensor:
        if value is None:
            raise ValueError(f"{self._name}: the {whose} has no {field}, and this loss needs one")
        return value

    def _check_shape(self, what: str, value: Tensor, shape: tuple[int, ...]) -> None:
        if value.ndim != len(shape) or any(n not in (m, -1) for n, m in zip(shape, value.shape, strict=True)):
            expected = ", ".join("any" if n == -1 else str(n) for n in shape)
            raise ValueError(f"{self._name}: {what} {tuple(value.shape)}, expected ({expected})")


def _full(value: Tensor | None) -> Tensor | None:
    """float32, or float64 where it is already."""
    return value if value is None or value.dtype == torch.float64 else value.float()
