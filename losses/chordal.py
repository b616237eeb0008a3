"""Chordal: differences between the entries of the predicted and the true rotation matrix."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ..geometry.distances import chordal_distance
from ..geometry.pose import Pose
from .base import Loss, LossOutput


class Chordal(Loss):
    """Mean distance between rotation matrices; with t the angle between them:

    - "frobenius": Frobenius norm of the difference, 2 sqrt(2) sin(t / 2);
    - "squared": its square, 8 sin(t / 2)^2, smooth everywhere (Levinson et al. 2020, arXiv:2006.14616); in terms of
      quaternions 2 d^2 (4 - d^2), d = min(|p - q|, |p + q|) (Peretroukhin et al. 2020, arXiv:2006.01031);
    - "l1": mean absolute difference of the nine entries, which depends on the axis too.

    Args:
        norm: one of the three.
        symmetry: point group of the object.
    """

    def __init__(
        self,
        *,
        norm: Literal["frobenius", "squared", "l1"] = "squared",
        symmetry: str = "C1",
    ) -> None:
        super().__init__(symmetry=symmetry)
        if norm not in ("frobenius", "squared", "l1"):
            raise ValueError(f"norm {norm!r}, expected 'frobenius', 'squared' or 'l1'")
        self.norm = norm

    def compare(self, pose: Pose, target: Tensor, progress: float) -> LossOutput:
        """Term "rotation": the distance."""
        rotation = self.predicted_rotation(pose)
        target = self.mate(rotation, target)
        if self.norm == "frobenius":
            error = chordal_distance(rotation, target)
        elif self.norm == "squared":
            error = (rotation - target).square().sum((-2, -1))
        else:
            error = (rotation - target).abs().mean((-2, -1))
        return LossOutput({"rotation": error})
