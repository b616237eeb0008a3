"""How probable the modes of an image's likelihood are, and how far from the best one the true pose may be.

Where an image tells much, its likelihood is a Gaussian around each mode (Laplace). Where it tells little, modes have
long tails and run into each other: there poses drawn from these Gaussians, somewhat widened, are weighed by the
likelihood (importance sampling with the balance heuristic: Veach and Guibas 1995, SIGGRAPH, 419).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..geometry.rotations import matrix_to_rotvec, rotvec_to_matrix
from .pose_likelihood import Placed, PoseLikelihood

_SAME = math.radians(2)  # between what steps from two starts reached, below which it is one mode
_NEGLIGIBLE = 1e-3  # probability of modes around which no poses are drawn
_DRAWN = 16  # poses around each mode
_WIDER = 1.3  # than the Gaussian of Laplace, in which they are drawn


@dataclass(frozen=True)
class Matches:
    """Poses of B images and how sure they are.

    Attributes:
        rotation: (B, 3, 3) object to camera.
        shift: (B, 2) in Angstrom.
        covariance: (B, 5, 5) of rotation vector (camera frame, radian) and shift (Angstrom): the inverse of the Fisher
            information at the pose; where poses were drawn, of the same shape and as large as theirs.
        probability: (B,) of this mode among those that were found; 1 where one pose was refined.
        error: (B,) expected angular error in radian (root mean square), over the modes that were found.
        score: (B,) twice the log-likelihood over that of noise alone.
        amplitude: (B,) of the map's projection in the image.
        misfit: (B,) power of what is left when the projection is taken off, over that of the noise: 1 for particles.
    """

    rotation: Tensor
    shift: Tensor
    covariance: Tensor
    probability: Tensor
    error: Tensor
    score: Tensor
    amplitude: Tensor
    misfit: Tensor

    @classmethod
    def join(cls, parts: Sequence[Matches]) -> Matches:
        """Those of several sets of images, one after the other."""
        return cls(**{field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)})

    @property
    def merit(self) -> Tensor:
        """(B,) the score, with the noise as strong as the image has it: low without the particle."""
        return self.score / self.misfit.clamp_min(1)

    def of(self, rows: Tensor) -> Matches:
        """Those of some images."""
        return Matches(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def put(self, rows: Tensor, others: Matches) -> None:
        """Replace the rows by those of others, in place."""
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(others, field.name)


@dataclass(frozen=True)
class Drawn:
    """N poses for each of B images with K modes, which stand for its posterior over all poses.

    Attributes:
        rotation: (B, N, 3, 3) float64, object to camera.
        shift: (B, N, 2) in Angstrom.
        weight: (B, N), its sum over N is 1.
        turn: (B, N, K, 3) rotation vectors that take the modes, or their nearest mates, there.
        mode: (B, N) which one the pose belongs to.
    """

    rotation: Tensor
    shift: Tensor
    weight: Tensor
    turn: Tensor
    mode: Tensor

    @property
    def probability(self) -> Tensor:
        """(B, K) of the modes: the weight of their poses."""
        return torch.zeros_like(self.turn[:, 0, :, 0]).scatter_add(1, self.mode, self.weight)


class Modes:
    """K modes of each of B images; several of them may be one.

    Args:
        placed: B times K poses, those of an image together.
        count: B.
        samples: how many Fourier samples of each image were compared.
        group: (G, 3, 3) point group of the map.
    """

    def __init__(self, placed: Placed, count: int, samples: int, group: Tensor | None) -> None:
        self._placed, self._samples, self._group = placed, samples, group
        self._shape = count, len(placed.score) // count
        information = placed.information().double()
        # Of an image without any signal it is nothing: then the pose is not known to a thousand radian.
        self._precision, self._axes = torch.linalg.eigh(information.unflatten(0, self._shape))
        self._precision = self._precision.clamp_min(1e-6)
        self.covariance = self._axes / self._precision[..., None, :] @ self._axes.mT
        self.rotation = placed.rotation.double().unflatten(0, self._shape)
        group = torch.eye(3)[None] if group is None else group
        self._mates = self.rotation[:, :, None] @ group.to(self.rotation)  # (B, K, G, 3, 3)
        # The volume under a mode is its height times the square root of the determinant of its covariance.
        self._logdet = -self._precision.log().sum(-1)  # of the covariance
        evidence = (placed.score.double().unflatten(0, self._shape) + self._logdet) / 2
        order = evidence.argsort(dim=1, descending=True)
        near = self.turns(self.rotation).norm(dim=-1) < _SAME
        rank = order.argsort(dim=1)
        again = (near & (rank[:, None] < rank[:, :, None])).any(2)
        self.probability = evidence.masked_fill(again, -torch.inf).softmax(1)  # (B, K); 0 for what is there already

    def of(self, rows: Tensor) -> Modes:
        """Those of some images."""
        k = self._shape[1]
        places = (k * rows[:, None] + torch.arange(k, device=rows.device)).flatten()
        return Modes(self._placed[places], len(rows), self._samples, self._group)

    def turns(self, rotation: Tensor) -> Tensor:
        """(B, N, K, 3) rotation vectors that take the modes, or their nearest mates, to rotations (B, N, 3, 3)."""
        traces = torch.einsum("bnij,bkgij->bnkg", rotation, self._mates)
        image, mode = (torch.arange(n, device=rotation.device) for n in self._shape)
        mates = self._mates[image[:, None, None], mode, traces.argmax(-1)]
        return matrix_to_rotvec(rotation[:, :, None] @ mates.mT)

    def judged(self) -> Matches:
        """The best mode of each image, by the Gaussians."""
        apart = self.turns(self.rotation).norm(dim=-1).square()
        spread = self.covariance.diagonal(dim1=2, dim2=3)[..., :3].sum(-1)
        chosen = self.probability.argmax(1)
        image = torch.arange(len(chosen), device=chosen.device)
        error = (spread[image, chosen] + (self.probability * apart[image, :, chosen]).sum(1)).sqrt()
        return self._matches(chosen, self.covariance[image, chosen], self.probability, error)

    def drawn(self, likelihood: PoseLikelihood, samples: Tensor, transfer: Tensor, count: int = _DRAWN) -> Drawn:
        """Poses around all modes, ``count`` (even) of each; samples and transfer (B, P) as the modes were found."""
        worth = self.probability > _NEGLIGIBLE
        root = self._axes * self._precision.rsqrt()[..., None, :]
        step = (_WIDER * _normal_points(count).to(root)) @ root.mT  # (B, K, M, 5)
        rotation = rotvec_to_matrix(step[..., :3]) @ self.rotation[:, :, None]
        shift = self._placed.shift.double().unflatten(0, self._shape)
        moved = shift[:, :, None] + step[..., 3:]

        score = torch.full(step.shape[:3], -torch.inf, dtype=torch.float64, device=step.device)
        image = worth.nonzero()[:, 0]
        samples, transfer = samples[image], transfer[image]
        turned, beside = rotation[worth].float(), moved[worth].float()
        for m in range(step.shape[2]):
            score[:, :, m][worth] = likelihood.score(turned[:, m], beside[:, m], samples, transfer).double()

        # The density of the poses that were drawn is that of all modes together, wherever a pose was drawn from.
        off = torch.cat([self.turns(rotation.flatten(1, 2)), moved.flatten(1, 2)[:, :, None] - shift[:, None]], -1)
        white = torch.einsum("bnki,bkij->bnkj", off, self._axes) * self._precision.sqrt()[:, None]
        density = -white.square().sum(-1) / (2 * _WIDER**2) - self._logdet[:, None] / 2
        density = density.masked_fill(~worth[:, None], -torch.inf)  # (B, K M, K)
        weight = (score.flatten(1) / 2 - density.logsumexp(2)).softmax(1)
        return Drawn(rotation.flatten(1, 2), moved.flatten(1, 2), weight, off[..., :3], density.argmax(2))

    def sampled(self, likelihood: PoseLikelihood, samples: Tensor, transfer: Tensor) -> Matches:
        """The best mode of each image, by poses that are drawn; the arguments are those of :meth:`drawn`."""
        drawn = self.drawn(likelihood, samples, transfer)
        probability = drawn.probability
        chosen = probability.argmax(1)
        image = torch.arange(len(chosen), device=chosen.device)
        squares = drawn.turn[image, :, chosen].square().sum(-1)
        own = drawn.weight * (drawn.mode == chosen[:, None])
        spread = (own * squares).sum(1) / own.sum(1)
        covariance = self.covariance[image, chosen]
        covariance = covariance * (spread / covariance.diagonal(dim1=1, dim2=2)[:, :3].sum(1))[:, None, None]
        return self._matches(chosen, covariance, probability, (drawn.weight * squares).sum(1).sqrt())

    def _matches(self, chosen: Tensor, covariance: Tensor, probability: Tensor, error: Tensor) -> Matches:
        count, k = self._shape
        image = torch.arange(count, device=chosen.device)
        placed = self._placed[chosen + k * image]
        return Matches(
            placed.rotation,
            placed.shift,
            covariance.float(),
            probability[image, chosen].float(),
            error.clamp_max(math.pi).float(),
            placed.score,
            placed.amplitude,
            (placed.energy - placed.score) / (2 * self._samples),
        )


def _normal_points(count: int) -> Tensor:
    """(count, 5), an even count, quasi-random points of the normal distribution, with the negative of each."""
    half = torch.quasirandom.SobolEngine(5, scramble=True, seed=0).draw(count // 2, dtype=torch.float64)
    points = torch.special.ndtri(half.clamp(1e-6, 1 - 1e-6))
    return torch.cat([points, -points])
