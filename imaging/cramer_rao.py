"""The physical limit of pose estimation: the Cramer-Rao bound of a simulator's images.

For white noise of standard deviation s the Fisher information of the five pose parameters (rotation vector in the
camera frame, shift) is J^T J / s^2 with J the derivative of the noiseless image; other stationary noise is made white
first, and J with it. No unbiased estimator has a smaller covariance than its inverse; the rotation block of the inverse
accounts for the unknown shift. (Kay 1993, Eq. 3.31.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..geometry.rotations import rotvec_to_matrix
from ..particles.ctf import CTF
from .noise import RadialNoise
from .projector import Projector


@dataclass(frozen=True)
class PoseBound:
    """Bound per image.

    Attributes:
        rotation: (B, 3, 3) covariance of the rotation vector in radian^2.
        shift: (B, 2, 2) covariance of the shift in Angstrom^2.
    """

    rotation: Tensor
    shift: Tensor

    def angles(self, draws: int = 64, seed: int = 0) -> Tensor:
        """(B, draws) angular errors in radians of an efficient estimator: norms of normal draws at the bound."""
        noise = torch.randn(
            len(self.rotation), 3, draws, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
        return (torch.linalg.cholesky(self.rotation) @ noise).norm(dim=1)


def cramer_rao_bound(
    projector: Projector,
    rotation: Tensor,
    noise: float | RadialNoise,
    *,
    shift: Tensor | None = None,
    ctf: CTF | None = None,
    known_shift: bool = False,
    mask: Tensor | None = None,
) -> PoseBound:
    """Bound at given poses.

    Args:
        projector: makes the noiseless images.
        rotation: (B, 3, 3).
        noise: standard deviation of white noise per pixel, or the power of other noise.
        shift: (B, 2) in Angstrom; default 0.
        ctf: of the B images.
        known_shift: the shift is given and not estimated.
        mask: (L, L) boolean, the pixels an estimator sees; default all. For white noise only.

    Raises:
        ValueError: a mask, and noise that is not white.
    """
    if mask is not None and isinstance(noise, RadialNoise):
        raise ValueError("a mask, which bounds for noise that is not white do not take")
    shift = torch.zeros(len(rotation), 2) if shift is None else shift
    columns = []
    for axis in range(5):
        direction = torch.eye(5)[axis].expand(len(rotation), 5)

        def image(move: Tensor) -> Tensor:
            return projector(rotvec_to_matrix(move[:, :3]) @ rotation, shift + move[:, 3:], ctf)

        # Central differences: the rotation enters through an interpolation whose derivative jumps between grid points.
        step = 0.01 if axis < 3 else 0.1 * projector.pixel_size
        columns.append((image(step * direction) - image(-step * direction)) / (2 * step))
    if isinstance(noise, RadialNoise):
        columns = [noise.whitened(column, projector.pixel_size) for column in columns]
    jacobian = torch.stack(columns, -1).double()
    jacobian = jacobian[:, mask] if mask is not None else jacobian.flatten(1, 2)
    fisher = jacobian.mT @ jacobian / (1.0 if isinstance(noise, RadialNoise) else noise) ** 2
    if known_shift:
        return PoseBound(torch.linalg.inv(fisher[:, :3, :3]), torch.zeros(len(rotation), 2, 2))
    bound = torch.linalg.inv(fisher)
    return PoseBound(bound[:, :3, :3], bound[:, 3:, 3:])
