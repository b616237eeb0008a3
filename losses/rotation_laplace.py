"""Rotation Laplace: the negative log likelihood of the true rotation under a density with heavy tails."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .bingham import BinghamNLL, bingham_log_normaliser

_LEAST = 1e-4  # energy that is added to all: without it the density has a pole at the mode
_NODES = np.arange(math.log(1e-2), math.log(20 / _LEAST), 0.5)  # of log u; trapezoids of what vanishes at both ends


def laplace_log_normaliser(dispersions: Tensor) -> Tensor:
    """log of the mean over all rotations of exp(-sqrt(E)) / sqrt(E), where E = 1e-4 - z2 x2^2 - z3 x3^2 - z4 x4^2.

    (..., 3) with 0 >= z2 >= z3 >= z4 -> (...); x is the unit quaternion along the axes of the density. As

        exp(-sqrt(E)) / sqrt(E) = pi^(-1/2) int_0^inf u^(-1/2) exp(-u E - 1 / (4 u)) du,

    the density is a mixture of Bingham densities of all widths, and so is its normaliser: an integral over log u.
    Yin et al. sum over a grid of rotations instead, which a narrow density falls through.
    """
    nodes = dispersions.new_tensor(_NODES)
    u = nodes.exp()
    log_weight = nodes / 2 - u * _LEAST - 1 / (4 * u) + math.log(float(_NODES[1] - _NODES[0])) - math.log(math.pi) / 2
    return torch.logsumexp(log_weight + bingham_log_normaliser(dispersions[..., None, :] * u[:, None]), -1)


class RotationLaplace(BinghamNLL):
    """Mean negative log likelihood of the true rotation under exp(-sqrt(E)) / (sqrt(E) F) (Yin et al. 2023, ICLR).

    E is the energy of the Bingham density above that of its mode: tr(S - M^T R) for the 9 numbers of the 9D head, whose
    singular values are S. Far from the mode it grows with the angle, not its square, so that outliers pull less. 0 is
    what knowing nothing scores.
    """

    def nll(self, energy: Tensor, dispersions: Tensor) -> Tensor:
        """As of :class:`BinghamNLL`."""
        energy = energy.clamp_min(0) + _LEAST
        return energy.sqrt() + energy.log() / 2 + laplace_log_normaliser(dispersions)
