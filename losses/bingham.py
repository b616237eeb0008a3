"""Bingham: the negative log likelihood of the true rotation under the density that the QCQP head describes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..geometry.pose import Pose
from ..geometry.rotations import matrix_to_quaternion
from ..heads.eigenvector import lowest_eigenpair
from ..heads.qcqp_bingham import bingham_matrix
from .base import Loss, LossOutput

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)


def bingham_log_normaliser(dispersions: Tensor) -> Tensor:
    """log of the mean of exp(z2 x2^2 + z3 x3^2 + z4 x4^2) over the unit sphere in 4D.

    (..., 3) with 0 >= z2 >= z3 >= z4 -> (...). It is 0 at 0, and the confluent hypergeometric function 1F1(1/2; 2; .)
    of the diagonal matrix (0, z2, z3, z4). Splitting the sphere into two circles leaves one integral over u in [0, 1],
    of exp(z3 u) i0e(z2 (1 - u) / 2) i0e((z3 - z4) u / 2) with i0e(x) = exp(-|x|) I0(x), which neither overflows nor
    cancels. All its scales lie between 1 / |z4| and 1, so the nodes are Gauss-Legendre nodes in log(1 + |z4| u): the
    absolute error is 1e-11 in float64 down to z4 = -1e3 and 2e-6 down to -1e6; 1e-6 in float32.
    """
    near, middle, far = (-dispersions).unbind(-1)
    nodes = dispersions.new_tensor((_NODES + 1) / 2)
    weights = dispersions.new_tensor(_WEIGHTS / 2)
    # The nodes are no part of the derivative, and nothing has a scale above 1, so neither 1e-3 nor detaching is felt.
    reach = far.detach().clamp_min(1e-3)[..., None]
    u = torch.expm1(torch.log1p(reach) * nodes) / reach
    du = torch.log1p(reach) * (u + 1 / reach) * weights
    near, middle, far = near[..., None], middle[..., None], far[..., None]
    # i0e has a kink at 0, where its derivative would be read as 0; what is needed is the one for positive arguments
    tiny = torch.finfo(u.dtype).tiny
    integrand = (
        torch.exp(-middle * u)
        * torch.special.i0e(near * (1 - u) / 2 + tiny)
        * torch.special.i0e((far - middle) * u / 2 + tiny)
    )
    return (integrand * du).sum(-1).log()


class BinghamNLL(Loss):
    """Mean negative log likelihood of the true quaternion q under exp(-q^T A q) / C(A).

    A is that of the QCQP-Bingham head. With the 9D head it is Davenport's -K(M), and the loss is the negative log
    likelihood of the matrix-Fisher density exp(tr(M^T R)) (Mohlin et al. 2020, arXiv:2006.09740), whose mode is the
    rotation that the head returns.

    The density is relative to the uniform one: 0 is what knowing nothing scores, and ``exp(-loss)`` is how many times
    likelier than that the truth was. The loss sees the scale of A, so the head's confidence becomes calibrated
    (Gilitschenski et al. 2020, ICLR, without their table of C: see :func:`bingham_log_normaliser`).
    """

    def compare(self, pose: Pose, target: Tensor, progress: float) -> LossOutput:
        """Term "nll": negative log likelihood."""
        expected = "the 10 or 9 numbers of the QCQPBingham head or the 9 of NineDSVD"
        raw = self.raw_vector(pose, expected, lambda length: length in (9, 10))
        matrix = bingham_matrix(raw)
        if len(self.group) > 1:
            target = self.mate(self.predicted_rotation(pose), target)
        values, _ = lowest_eigenpair(matrix)
        quaternion = matrix_to_quaternion(target.to(matrix.dtype))
        energy = torch.einsum("bi,bij,bj->b", quaternion, matrix, quaternion) - values[:, 0]
        return LossOutput({"nll": self.nll(energy, values[:, :1] - values[:, 1:])})

    def nll(self, energy: Tensor, dispersions: Tensor) -> Tensor:
        """Of rotations whose energy is (B,) above that of the mode, where it grows by -(B, 3) along the axes."""
        return energy + bingham_log_normaliser(dispersions)
