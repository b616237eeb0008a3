"""How probable the modes of an image's likelihood are, and how far from the best one the true pose may be.

Where an image tells much, its likelihood is a Gaussian around each mode (Laplace). Where it tells little, modes have
long tails and run into each other, and there are more of them than were found: there poses drawn from these Gaussians,
somewhat widened, and around the best poses of a grid are weighed by the likelihood (importance sampling with the
balance heuristic: Veach and Guibas 1995, SIGGRAPH, 419).
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
_WITHIN = 5.0  # standard deviations of a mode that a pose beside the grid belongs to
_SCORED = 64  # poses at a time


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
class Grid:
    """The best G poses of a grid for each of B images, beside which there may be modes that were not found.

    Attributes:
        rotation: (B, G, 3, 3).
        shift: (B, G, 2) in Angstrom.
        turn: standard deviation of the poses that are drawn around them, in radian.
        move: the same of their shifts, in Angstrom.
    """

    rotation: Tensor
    shift: Tensor
    turn: float
    move: float


@dataclass(frozen=True)
class Drawn:
    """N poses for each of B images with K modes, which stand for its posterior over all poses.

    Attributes:
        rotation: (B, N, 3, 3) float64, object to camera.
        shift: (B, N, 2) in Angstrom.
        weight: (B, N), its sum over N is 1.
        turn: (B, N, K, 3) rotation vectors that take the modes, or their nearest mates, there.
        mode: (B, N) which one the pose belongs to, K where to none.
    """

    rotation: Tensor
    shift: Tensor
    weight: Tensor
    turn: Tensor
    mode: Tensor

    @property
    def probability(self) -> Tensor:
        """(B, K) of the modes: the weight of their poses."""
        b, _, k, _ = self.turn.shape
        return self.weight.new_zeros(b, k + 1).scatter_add(1, self.mode, self.weight)[:, :k]


class Modes:
    """K modes of each of B images; several of them may be one.

    Args:
        placed: B times K poses, those of an image together.
        count: B.
        samples: how many Fourier samples of each image were compared.
        group: (G, 3, 3) point group of the map.
    """

    def __init__(self, placed: Placed, count: int, samples: int, group: Tensor | None) -> None:
        self._placed, self._samples = placed, samples
        self._group = torch.eye(3)[None] if group is None else group
        self._shape = count, len(placed.score) // count
        information = placed.information().double()
        # Of an image without any signal it is nothing: then the pose is not known to a thousand radian.
        self._precision, self._axes = torch.linalg.eigh(information.unflatten(0, self._shape))
        self._precision = self._precision.clamp_min(1e-6)
        self.covariance = self._axes / self._precision[..., None, :] @ self._axes.mT
        self.rotation = placed.rotation.double().unflatten(0, self._shape)
        self._mates = self.rotation[:, :, None] @ self._group.to(self.rotation)  # (B, K, G, 3, 3)
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

    def drawn(
        self,
        likelihood: PoseLikelihood,
        samples: Tensor,
        transfer: Tensor,
        count: int = _DRAWN,
        grid: Grid | None = None,
    ) -> Drawn:
        """Poses that stand for the posterior.

        Args:
            likelihood: with which the modes were found.
            samples: (B, P) of the images.
            transfer: (B, P).
            count: poses around each mode, an even number.
            grid: poses around each of which one is drawn.
        """
        b, k = self._shape
        root = self._axes * self._precision.rsqrt()[..., None, :]
        step = (_WIDER * _normal_points(count).to(root)) @ root.mT  # (B, K, M, 5)
        shift = self._placed.shift.double().unflatten(0, self._shape)
        rotation = (rotvec_to_matrix(step[..., :3]) @ self.rotation[:, :, None]).flatten(1, 2)
        moved = (shift[:, :, None] + step[..., 3:]).flatten(1, 2)
        worth = (self.probability > _NEGLIGIBLE).repeat_interleave(count, 1)
        if grid is not None:
            g = grid.rotation.shape[1]
            step = _normal_points(2 * g)[:g].to(root)
            turned = rotvec_to_matrix(grid.turn * step[:, :3]) @ grid.rotation.double()
            rotation = torch.cat([rotation, turned], 1)
            moved = torch.cat([moved, grid.shift.double() + grid.move * step[:, 3:]], 1)
            worth = torch.cat([worth, worth.new_ones(b, g)], 1)

        score = torch.full(worth.shape, -torch.inf, dtype=torch.float64, device=step.device)
        for some in worth.nonzero().split(_SCORED):
            image, place = some.unbind(1)
            turned, beside = rotation[image, place].float(), moved[image, place].float()
            score[image, place] = likelihood.score(turned, beside, samples[image], transfer[image]).double()

        # The density of the poses that were drawn is that of all they were drawn around, whatever one came from.
        off = torch.cat([self.turns(rotation), moved[:, :, None] - shift[:, None]], -1)
        white = torch.einsum("bnki,bkij->bnkj", off, self._axes) * self._precision.sqrt()[:, None]
        away = white.square().sum(-1)  # (B, N, K)
        density = math.log(count) - away / (2 * _WIDER**2) - self._logdet[:, None] / 2 - 5 * math.log(_WIDER)
        density = density.masked_fill((self.probability <= _NEGLIGIBLE)[:, None], -torch.inf)
        mode = density.argmax(2)
        if grid is not None:
            beyond = away.gather(2, mode[:, :, None])[:, :, 0] > _WITHIN**2
            beyond[:, : k * count] = False  # what was drawn around a mode belongs to one
            mode = mode.masked_fill(beyond, k)
            density = torch.cat([density, self._around(grid, rotation, moved)], 2)
        weight = (score / 2 - density.logsumexp(2)).softmax(1)
        return Drawn(rotation, moved, weight, off[..., :3], mode)

    def _around(self, grid: Grid, rotation: Tensor, shift: Tensor) -> Tensor:
        """(B, N, G) log-density of poses, as those of a grid are drawn."""
        g = grid.shift.shape[1]
        mates = (grid.rotation[:, :, None] @ self._group.to(grid.rotation)).flatten(1, 2).flatten(2)
        cosine = (rotation.to(mates).flatten(2) @ mates.mT).unflatten(2, (g, -1)).amax(-1) / 2 - 0.5
        turned = cosine.clamp(-1, 1).arccos().double() / grid.turn
        moved = torch.cdist(shift, grid.shift.double()) / grid.move
        return -(turned.square() + moved.square()) / 2 - 3 * math.log(grid.turn) - 2 * math.log(grid.move)

    def sampled(
        self, likelihood: PoseLikelihood, samples: Tensor, transfer: Tensor, grid: Grid | None = None
    ) -> Matches:
        """The best mode of each image, by poses that are drawn; the arguments are those of :meth:`drawn`."""
        drawn = self.drawn(likelihood, samples, transfer, grid=grid)
        probability = drawn.probability
        chosen = (probability + 1e-9 * self.probability).argmax(1)  # where all that is probable lies elsewhere
        image = torch.arange(len(chosen), device=chosen.device)
        squares = drawn.turn[image, :, chosen].square().sum(-1)
        own = drawn.weight * (drawn.mode == chosen[:, None])
        covariance = self.covariance[image, chosen]
        spread = (own * squares).sum(1) / own.sum(1)
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
