"""Geodesic: the angle between the predicted and the true rotation."""

from __future__ import annotations

from torch import Tensor

from ..geometry.distances import geodesic_distance
from ..geometry.pose import Pose
from .base import Loss, LossOutput


class Geodesic(Loss):
    """Mean angle between prediction and truth, in radians. Its gradient has the same length at any angle."""

    def compare(self, pose: Pose, target: Tensor, progress: float) -> LossOutput:
        """Term "rotation": the angle in radians."""
        rotation = self.predicted_rotation(pose)
        return LossOutput({"rotation": geodesic_distance(rotation, self.mate(rotation, target))})
