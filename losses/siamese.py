"""Siamese: distances between images instead of the rotation of each."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ..geometry.pairs import all_pairs, pair_distance, random_pairs, stratified_pairs
from ..geometry.point_groups import restrict
from ..geometry.pose import Pose
from ..heads.embedding import Metric, embedding_distance
from .base import Loss, LossOutput


class SiameseDistance(Loss):
    """Mean absolute error of the distance between two images of the batch (Banjac et al. 2021, arXiv:2104.06237).

    The predicted distance is that between the predicted rotations, or between the embeddings if the head gives no
    rotation. It does not change when all predictions are multiplied by one rotation, so what is learnt is a set of
    orientations up to the frames on both sides.

    Args:
        pairs: "all" pairs of the batch, "random" ones, or "stratified" ones with as many near as far pairs.
        num_pairs: how many to draw; by default as many as images. Not with "all".
        metric: distance of embeddings, "cosine" or "euclidean".
        symmetry: point group of the object; distances between rotations, true and predicted, are the least over it.
        restricted: restrict true rotations to one asymmetric unit instead (Banjac et al. 2021), and take distances as
            they are. Only of such distances orientations can be recovered; near the border of the unit no encoder can
            know on which side an image is.
    """

    unit: Tensor | None
    frame_is_open = True

    def __init__(
        self,
        *,
        pairs: Literal["all", "random", "stratified"] = "all",
        num_pairs: int | None = None,
        metric: Metric = "cosine",
        symmetry: str = "C1",
        restricted: bool = False,
    ) -> None:
        super().__init__(symmetry=symmetry)
        if pairs not in ("all", "random", "stratified"):
            raise ValueError(f"pairs {pairs!r}, expected 'all', 'random' or 'stratified'")
        if num_pairs is not None and (pairs == "all" or num_pairs < 1):
            raise ValueError(
                f"num_pairs {num_pairs} with pairs {pairs!r}, expected None with 'all' and else at least 1"
            )
        self.pairs = pairs
        self.num_pairs = num_pairs
        self.metric: Metric = metric
        self.register_buffer("unit", self.group if restricted else None, persistent=False)
        if restricted:
            self.group = self.group[:1]

    def compare(self, pose: Pose, target: Tensor, progress: float) -> LossOutput:
        """Term "distance", by pair: absolute error, in radians for rotations and the cosine metric."""
        return LossOutput({"distance": self.distance_error(pose, target, self.draw(target))})

    def draw(self, target: Tensor) -> Tensor:
        """Pairs of this batch, (P, 2). Random ones come from torch's global generator."""
        n, device = len(target), target.device
        if self.pairs == "all":
            return all_pairs(n, device=device)
        num_pairs = n if self.num_pairs is None else self.num_pairs
        if self.pairs == "random":
            return random_pairs(n, num_pairs, device=device)
        return stratified_pairs(self._restrict(target), num_pairs, group=self.group)

    def true_distance(self, target: Tensor, pairs: Tensor) -> Tensor:
        """What is to be predicted, (B, 3, 3) and (P, 2) -> (P,) radians."""
        return pair_distance(self._restrict(target), pairs, self.group)

    def distance_error(self, pose: Pose, target: Tensor, pairs: Tensor) -> Tensor:
        """Absolute errors of the distances of the pairs, (P,)."""
        if pose.rotation is not None:
            predicted = pair_distance(pose.rotation, pairs, self.group)
        else:
            embedding = self._required(pose.raw, "prediction", "rotation and no embedding")
            predicted = embedding_distance(embedding[pairs[:, 0]], embedding[pairs[:, 1]], self.metric)
        return (predicted - self.true_distance(target, pairs)).abs()

    def _restrict(self, target: Tensor) -> Tensor:
        return target if self.unit is None else restrict(target, self.unit)
