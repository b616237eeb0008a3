"""SO(3) likelihood: the negative log density of the true rotation under a harmonic head's density."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ..heads import Pose
from ..heads._centred_grid import CentredGrid
from ..heads._so3_series import SO3Series, log_sum_exp, pick
from ..heads.so3_harmonic import harmonic_degree
from .base import Loss, LossOutput


class SO3NLL(Loss):
    """Mean negative log likelihood of the true rotation R under the density exp(F(R)) / Z of the SO3Harmonic head.

    The density is relative to the uniform one: 0 is what knowing nothing scores, and ``exp(-loss)`` is how many times
    likelier than that the truth was. Under a symmetry the truth is all its mates: their mean density counts.

    - "exact": F at the truth itself; Z by a sum that is finer around the truth. At order 3 it is right to 2 % for a
      peak there of one degree (standard deviation) or more.
    - "cross_entropy": the truth is the nearest point of the fixed grid, and the density a probability for each point,
      as in Klee et al. 2023 (Image2Sphere, ICLR). The rounding, 3.5 degrees on average at order 3, counts as an error
      of the truth: it learns densities that are too wide by it.

    Args:
        form: one of the two.
        order: of the grid; each one more takes eight times as long.
        symmetry: point group of the object.
        shift_weight: weight of the shift term.
        shift_scale: Angstrom that count as an error of 1.
    """

    def __init__(
        self,
        *,
        form: Literal["exact", "cross_entropy"] = "exact",
        order: int = 3,
        symmetry: str = "C1",
        shift_weight: float = 0.0,
        shift_scale: float = 1.0,
    ) -> None:
        super().__init__(symmetry=symmetry, shift_weight=shift_weight, shift_scale=shift_scale)
        if form not in ("exact", "cross_entropy"):
            raise ValueError(f"form {form!r}, expected 'exact' or 'cross_entropy'")
        if order < 0:
            raise ValueError(f"order {order}, expected 0 or more")
        self.form = form
        self.order = order
        self.grid: CentredGrid | None = None  # made when the length of the raw vector is known

    def rotation_term(self, pose: Pose, target: Tensor, progress: float) -> LossOutput:
        """Part "nll": mean negative log likelihood."""
        raw, grid = self._prepare(pose.rotation_raw)
        mates = target[:, None] @ self.group.to(target)
        if self.form == "exact":
            heights = (grid.series.wigner(mates) @ raw[..., None]).squeeze(-1)
            best = pick(mates, heights.argmax(1)).squeeze(1)
            log_z = grid.log_z(raw, best)
        else:
            values = grid.series.values(raw)
            points = grid.series.grid(torch.arange(len(grid.series), device=raw.device)).to(raw).flatten(1).T
            nearest = [(mate.flatten(1) @ points).argmax(1) for mate in mates.unbind(1)]
            heights = values.gather(1, torch.stack(nearest, 1))
            log_z = log_sum_exp(values) - math.log(len(grid.series))
        nll = (log_z - torch.logsumexp(heights, 1) + math.log(len(self.group))).mean()
        return LossOutput(nll, {"nll": nll})

    def _prepare(self, raw: Tensor | None) -> tuple[Tensor, CentredGrid]:
        lmax = None if raw is None else harmonic_degree(raw.shape[1])
        if raw is None or lmax is None:
            found = "no raw vector" if raw is None else f"a raw vector of {raw.shape[1]} numbers, shift not counted"
            expected = "the 35, 84, 165, 286, 455, ... numbers of the SO3Harmonic head (lmax 2, 3, 4, 5, 6, ...)"
            raise ValueError(f"{self._name}: needs {expected}, the prediction has {found}")
        if self.grid is None or self.grid.series.lmax != lmax:
            self.grid = CentredGrid(SO3Series(lmax, self.order))
        return raw, self.grid.to(raw.device)
