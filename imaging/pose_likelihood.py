"""The likelihood of a pose given an image and a map, and the steps that climb it.

For white noise the log-likelihood of an image F is -|F - s a|^2 / 2 in units of the noise, with ``a`` the map's
projection at the pose, shifted and times the CTF, and s its amplitude. The best amplitude is <a, F> / <a, a>, and what
is left to maximise is the score <a, F>^2 / <a, a>, twice the log-likelihood over that of noise alone.

The products of image, projection and its five derivatives (rotation vector in the camera frame, shift) are one small
matrix, from which score, slope and curvature are read off. The steps are those of Gauss and Newton, damped, with the
amplitude eliminated (variable projection: Golub and Pereyra 1973, SIAM J. Numer. Anal. 10, 413).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from ..geometry.rotations import rotvec_to_matrix
from .fourier_samples import FourierSamples
from .fourier_table import FourierTable
from .gauss_newton import FIRST_DAMPING, damped_step, next_damping
from .volumes import Volume

_FARTHEST = 0.12  # radian, of one step
_PROJECTION, _IMAGE = 5, 6  # rows of the products, behind the five derivatives


@dataclass(frozen=True)
class Placed:
    """Poses of B images, and the products that belong to them.

    Attributes:
        rotation: (B, 3, 3) float32.
        shift: (B, 2) in Angstrom.
        products: (B, 7, 7) of five derivatives, projection and image.
    """

    rotation: Tensor
    shift: Tensor
    products: Tensor

    def __getitem__(self, rows: Tensor | slice) -> Placed:
        return Placed(self.rotation[rows], self.shift[rows], self.products[rows])

    @property
    def amplitude(self) -> Tensor:
        """(B,) of the projection in the image; negative where contrasts are opposite."""
        return self.products[:, _PROJECTION, _IMAGE] / self.products[:, _PROJECTION, _PROJECTION]

    @property
    def score(self) -> Tensor:
        """(B,) twice the log-likelihood over that of noise alone; 0 where the best amplitude is not positive."""
        return self.products[:, _PROJECTION, _IMAGE].clamp_min(0) * self.amplitude

    @property
    def energy(self) -> Tensor:
        """(B,) of the image; of noise alone 2 for each sample."""
        return self.products[:, _IMAGE, _IMAGE]

    def information(self) -> Tensor:
        """(B, 5, 5) Fisher information of rotation vector (radian) and shift (Angstrom), the amplitude unknown."""
        slope = self.products[:, :5, _PROJECTION]
        power = self.products[:, _PROJECTION, _PROJECTION, None, None]
        curvature = self.products[:, :5, :5] - slope[:, :, None] * slope[:, None] / power
        return curvature * self.amplitude[:, None, None] ** 2

    def slope(self) -> Tensor:
        """(B, 5) of half the score."""
        amplitude = self.amplitude[:, None]
        return amplitude * (self.products[:, :5, _IMAGE] - amplitude * self.products[:, :5, _PROJECTION])


class PoseLikelihood(FourierSamples):
    """Scores and climbs poses of images of one size against one map.

    Args:
        volume: the map.
        image_size: L, pixels along an edge of the images.
        pixel_size: Angstrom per pixel of the images.
        highest: the largest frequency that is compared, in 1/Angstrom; at most, and by default, the smaller Nyquist
            frequency of images and map.
    """

    def __init__(self, volume: Volume, image_size: int, pixel_size: float, *, highest: float | None = None) -> None:
        nyquist = 0.5 / max(pixel_size, volume.pixel_size) * (1 - 1e-6)
        highest = nyquist if highest is None else min(highest, nyquist)
        super().__init__(image_size, pixel_size, highest=highest, device=volume.data.device)
        self._box = volume.size * volume.pixel_size
        self._table = FourierTable(volume.data.float(), highest * self._box, gradient=True)
        # Sums over voxels become sums over pixels of another size; a sample stands for its conjugate, too.
        self._scale = 2**0.5 * (volume.pixel_size / pixel_size) ** 2

    def limited(self, highest: float, scale: float = 1.0) -> PoseLikelihood:
        """The same up to a lower frequency, against the map with voxels ``scale`` times as wide; the table is shared.

        There is no more than ``1 / scale`` of the frequencies to be had.
        """
        other, n = copy.copy(self), self.below(highest)
        other.frequency, other.radius, other.highest = self.frequency[:n], self.radius[:n], highest
        other._places, other._to_centre = self._places[:n], self._to_centre[:n]
        other._box = scale * self._box
        return other

    def projections(self, rotation: Tensor, shift: Tensor, transfer: Tensor | None = None) -> Tensor:
        """The noiseless samples (B, P) at poses (B, 3, 3) and (B, 2) in Angstrom; ``transfer`` as in :meth:`at`."""
        ramp = self.ramp(shift, transfer, len(self.frequency), scale=self._scale)
        return self._table(self._slices(rotation, len(self.frequency)))[..., 0] * ramp

    def at(self, rotation: Tensor, shift: Tensor, samples: Tensor, transfer: Tensor | None = None) -> Placed:
        """Compare images with the map at poses.

        Args:
            rotation: (B, 3, 3) object to camera.
            shift: (B, 2) in Angstrom.
            samples: (B, n) of the images, the lowest n frequencies, in units of the noise.
            transfer: (B, n) what the projection is multiplied by: the CTF, in the same units; 1 without it.
        """
        n = samples.shape[1]
        k = self.frequency[:n]
        values = self._table(self._slices(rotation, n), gradient=True)
        ramp = self.ramp(shift, transfer, n, scale=self._scale)[..., None]
        here, slope = values[..., :1] * ramp, torch.view_as_real(values[..., 1:] * ramp)
        # R^T k changes by R^T (k x w) when the rotation is followed by a small one about w; k has no z.
        x, y, z = torch.einsum("bij,bnjc->bnic", rotation * self._box, slope).unbind(2)
        kx, ky = k[:, :1], k[:, 1:]
        turned = torch.view_as_complex(torch.stack([-z * ky, z * kx, x * ky - y * kx], 2))
        moved = here * (-2j * torch.pi * k)
        rows = torch.cat([turned, moved, here, samples[..., None]], -1)
        rows = torch.view_as_real(rows).transpose(-1, -2).flatten(1, 2)  # (B, 2 n, 7)
        return Placed(rotation, shift, rows.mT @ rows)

    def score(self, rotation: Tensor, shift: Tensor, samples: Tensor, transfer: Tensor) -> Tensor:
        """(B,) the score of poses alone, as :attr:`Placed.score`; the arguments are those of :meth:`at`."""
        projection = torch.view_as_real(self.projections(rotation, shift, transfer)).flatten(1)
        product = torch.linalg.vecdot(projection, torch.view_as_real(samples).flatten(1))
        return product.clamp_min(0).square() / projection.square().sum(1)

    def climb(self, placed: Placed, samples: Tensor, transfer: Tensor | None, steps: int) -> Placed:
        """Take damped Gauss-Newton steps from poses; those that do not raise the score are not taken."""
        damping = torch.full_like(placed.shift[:, 0], FIRST_DAMPING)
        for _ in range(steps):
            step = damped_step(placed.information(), placed.slope(), damping)
            step = step * (_FARTHEST / step[:, :3].norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1)
            trial = self.at(
                rotvec_to_matrix(step[:, :3]) @ placed.rotation, placed.shift + step[:, 3:], samples, transfer
            )
            better = trial.score > placed.score
            placed = chosen(better, trial, placed)
            damping = next_damping(damping, better)
        return placed

    def _slices(self, rotation: Tensor, n: int) -> Tensor:
        """(B, n, 3) frequencies of the map, in steps of its box's transform."""
        return (self.frequency[:n] * self._box) @ rotation[:, :2]


def chosen(first: Tensor, a: Placed, b: Placed) -> Placed:
    """``a`` where ``first`` (B,) is true, else ``b``."""
    return Placed(
        torch.where(first[:, None, None], a.rotation, b.rotation),
        torch.where(first[:, None], a.shift, b.shift),
        torch.where(first[:, None, None], a.products, b.products),
    )
