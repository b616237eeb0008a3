"""Geodesic: the angle between the predicted and the true rotation."""

from __future__ import annotations

from torch import Tensor

from ..geometry.distances import geodesic_distance
from ..geometry.pose import Pose
from .base import Loss, LossOutput


class Geodesic(Loss):
    """Mean angle between prediction and truth, in radians. Its gradient has the same length at any angle."""

    def rotation_term(self, pose: Pose, target: Tensor, progress: float) -> LossOutput:
        """Part "rotation": mean angle in radians."""
        rotation = self.predicted_rotation(pose)
        angle = geodesic_distance(rotation, self.mate(rotation, target)).mean()
        return LossOutput(angle, {"rotation": angle})
