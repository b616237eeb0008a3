"""Forum: Cryo-forum's curriculum, from distances between images to the rotation of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from torch import Tensor

from ..geometry.distances import geodesic_distance
from ..geometry.pose import Pose
from .base import LossOutput
from .siamese import SiameseDistance


class Forum(SiameseDistance):
    """(1 - a) * distance term + a / 2 * (regression terms of both images of a pair), a = sqrt(progress).

    Chung 2023, Cryo-forum, J. Struct. Biol. 215. The distance term is that of :class:`SiameseDistance`, the regression
    term the mean angle between prediction and truth.

    Args:
        regression: "geodesic", the angle, as in the published notebooks; or "chordal_squared",
            2 d^2 (4 - d^2) with d = min(|p - q|, |p + q|) (Peretroukhin et al. 2020), which is the squared Frobenius
            norm of the difference of the matrices.
        curriculum: a as a function of progress: an exponent, or knots (progress, a) joined by straight lines, constant
            outside.
        pairs: "all", "random" (published for synthetic data) or "stratified" (for real data).
        num_pairs: how many to draw; by default as many as images. Not with "all".
        symmetry: point group of the object.
    """

    frame_is_open = False

    def __init__(
        self,
        *,
        regression: Literal["geodesic", "chordal_squared"] = "geodesic",
        curriculum: float | Sequence[tuple[float, float]] = 0.5,
        pairs: Literal["all", "random", "stratified"] = "all",
        num_pairs: int | None = None,
        symmetry: str = "C1",
    ) -> None:
        super().__init__(pairs=pairs, num_pairs=num_pairs, symmetry=symmetry)
        if regression not in ("geodesic", "chordal_squared"):
            raise ValueError(f"regression {regression!r}, expected 'geodesic' or 'chordal_squared'")
        self.regression = regression
        self.curriculum = curriculum
        if isinstance(curriculum, Sequence):
            knots = np.asarray(curriculum, dtype=float)
            valid = knots.ndim == 2 and knots.shape[1] == 2 and len(knots) > 0
            if not valid or not (np.diff(knots[:, 0]) > 0).all() or not ((knots >= 0) & (knots <= 1)).all():
                raise ValueError(f"curriculum {curriculum!r}, expected (progress, weight) knots in [0, 1], in order")
        elif curriculum < 0:
            raise ValueError(f"curriculum {curriculum}, expected an exponent of at least 0")

    def regression_weight(self, progress: float) -> float:
        """The weight a of the regression terms; the distance term has 1 - a."""
        if isinstance(self.curriculum, Sequence):
            knots = np.asarray(self.curriculum, dtype=float)
            return float(np.interp(progress, knots[:, 0], knots[:, 1]))
        return float(progress**self.curriculum)

    def compare(self, pose: Pose, target: Tensor, progress: float) -> LossOutput:
        """Terms "distance" in radians and "regression", by pair, the latter the mean of both images."""
        rotation = self.predicted_rotation(pose)
        pairs = self.draw(target)
        distance = self.distance_error(pose, target, pairs)
        mate = self.mate(rotation, target)
        if self.regression == "geodesic":
            errors = geodesic_distance(rotation, mate)
        else:
            errors = (rotation - mate).square().sum((-2, -1))
        weight = self.regression_weight(progress)
        terms = {"distance": distance, "regression": errors[pairs].mean(1)}
        return LossOutput(terms, {"distance": 1 - weight, "regression": weight})
