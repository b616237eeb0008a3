"""SO(3) likelihood: the negative log density of the true rotation under a harmonic head's density."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ..geometry.harmonics.series import log_sum_exp
from ..geometry.harmonics.sums import so3_sums
from ..geometry.pose import Pose
from ..heads.so3_harmonic import harmonic_degree
from .base import Loss, LossOutput

HARMONIC = "the 35, 84, 165, 286, 455, ... numbers of the SO3Harmonic head (lmax 2, 3, 4, 5, 6, ...)"


class SO3NLL(Loss):
    """Mean negative log likelihood of the true rotation R under the density exp(F(R)) / Z of the SO3Harmonic head.

    The density is relative to the uniform one: 0 is what knowing nothing scores, and ``exp(-loss)`` is how many times
    likelier than that the truth was. Under a symmetry the truth is all its mates: their mean density counts.

    - "exact": F at the truth itself; Z by a sum that is finer around the highest modes, however narrow they are.
    - "cross_entropy": the truth is the nearest point of the fixed grid, and the density a probability for each point,
      as in Klee et al. 2023 (Image2Sphere, ICLR). The rounding, 28 / 2^order degrees on average, counts as an error of
      the truth: it learns densities that are too wide by it.

    Args:
        form: one of the two.
        order: of the grid; each one more takes eight times as long.
        symmetry: point group of the object.
    """

    reads_rotation = False

    def __init__(
        self,
        *,
        form: Literal["exact", "cross_entropy"] = "exact",
        order: int = 3,
        symmetry: str = "C1",
    ) -> None:
        super().__init__(symmetry=symmetry)
        if form not in ("exact", "cross_entropy"):
            raise ValueError(f"form {form!r}, expected 'exact' or 'cross_entropy'")
        if order < 0:
            raise ValueError(f"order {order}, expected 0 or more")
        self.form = form
        self.order = order

    def compare(self, pose: Pose, target: Tensor, progress: float) -> LossOutput:
        """Term "nll": negative log likelihood."""
        raw = self.raw_vector(pose, HARMONIC, lambda length: harmonic_degree(length) is not None)
        lmax = harmonic_degree(raw.shape[1])
        assert lmax is not None
        sums = so3_sums(lmax, self.order, raw.device)
        mates = target[:, None] @ self.group.to(target)
        if self.form == "exact":
            heights = sums.maxima.wigner.series(raw, mates)
            log_z = sums.log_z(raw)
        else:
            series = sums.series
            values = series.values(raw)
            points = series.grid(torch.arange(len(series), device=raw.device)).to(raw).flatten(1).T
            nearest = [(mate.flatten(1) @ points).max(1).indices for mate in mates.unbind(1)]
            heights = values.gather(1, torch.stack(nearest, 1))
            log_z = log_sum_exp(values) - math.log(len(series))
        return LossOutput({"nll": log_z - torch.logsumexp(heights, 1) + math.log(len(self.group))})
