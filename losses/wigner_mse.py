"""Wigner-D regression: the coefficients of a harmonic head against the Wigner-D matrices of the true rotation."""

from __future__ import annotations

from torch import Tensor

from ..geometry.harmonics.sums import so3_sums
from ..geometry.pose import Pose
from ..heads.so3_harmonic import harmonic_degree
from .base import Loss, LossOutput
from .so3_nll import HARMONIC, SO3NLL


class WignerMSE(Loss):
    """Mean of |f - D(R)|^2 over all entries of D^0 to D^lmax, relative to what f = 0 has (Lee and Cho 2024, NeurIPS).

    It is least where f is the posterior mean of D: the highest point of F is then that of the posterior as far as
    degree lmax tells, and F is the lower the less is known. It costs nothing beside ``so3_nll``. Under a symmetry the
    truth is the mean of D over its mates.

    Args:
        nll_weight: of the negative log likelihood as a second term, which makes the density calibrated (their joint
            form); 0 leaves it away.
        order: of the grid of that.
        symmetry: point group of the object.
    """

    reads_rotation = False

    def __init__(self, *, nll_weight: float = 0.0, order: int = 2, symmetry: str = "C1") -> None:
        super().__init__(symmetry=symmetry)
        if not nll_weight >= 0:
            raise ValueError(f"nll_weight {nll_weight}, expected 0 or more")
        self.nll_weight = nll_weight
        self.nll = SO3NLL(order=order, symmetry=symmetry)

    def compare(self, pose: Pose, target: Tensor, progress: float) -> LossOutput:
        """Terms "mse": 0 for what is known, 1 for f = 0; and "nll": negative log likelihood."""
        raw = self.raw_vector(pose, HARMONIC, lambda length: harmonic_degree(length) is not None)
        lmax = harmonic_degree(raw.shape[1])
        assert lmax is not None
        wigner = so3_sums(lmax, self.nll.order, raw.device).maxima.wigner
        truth = wigner(target[:, None] @ self.group.to(target)).mean(1)
        terms = {"mse": (raw - truth).square().sum(1) / (lmax + 1) ** 2}  # sum of |D^l|^2 = 2 l + 1
        if not self.nll_weight:
            return LossOutput(terms)
        return LossOutput(terms | dict(self.nll.compare(pose, target, progress).terms), {"nll": self.nll_weight})
