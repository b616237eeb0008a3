"""SO(3) harmonics: a density over all rotations, a series in Wigner-D functions, whose mode is the rotation."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..geometry.harmonics.maxima import SO3Maxima, is_maximum
from ..geometry.harmonics.series import SO3Series, join_degrees, log_sum_exp, split_degrees
from ..geometry.harmonics.sums import SO3Sums
from ..geometry.harmonics.wigner import WignerD, wigner_d
from ..geometry.point_groups import point_group
from ..geometry.pose import Pose
from ..geometry.rotations import special_procrustes
from ..geometry.scale import unit_scale
from .base import Head

_HIGHEST, _FINEST = 16, 5
"""Of degrees and grids: a stranger's file must not ask for tables of any size."""


def harmonic_dim(lmax: int) -> int:
    """Coefficients of degrees 0 to lmax: the sum of (2l + 1)^2."""
    return (lmax + 1) * (2 * lmax + 1) * (2 * lmax + 3) // 3


def harmonic_degree(dim: int) -> int | None:
    """The lmax of a raw vector of so many numbers, or None where no head has one."""
    return next((lmax for lmax in range(2, dim) if harmonic_dim(lmax) == dim), None)


class Modes(NamedTuple):
    """Several rotations for each image, the one where the density is highest first.

    Attributes:
        rotation: (B, k, 3, 3), NaN where there are fewer than k modes.
        probability: (B, k), that the truth lies within 15 degrees of it; 0 where there is no mode.
    """

    rotation: Tensor
    probability: Tensor


class SO3Harmonic(Head):
    """Coefficients f^l_mn -> the density exp(F(R)) / Z on SO(3), F = sum of f^l_mn D^l_mn(R) over l = 0..lmax.

    The raw vector is f, degree after degree, and inside a degree column after column: 2l + 1 copies of D^l, which turn
    with the image. D^l is that of ``geometry.wigner``. Densities are relative to the uniform one, so Z is the mean of
    exp(F). The idea of densities from harmonics on a grid is that of Klee et al. 2023 (Image2Sphere, ICLR).

    The rotation is the mode: from the highest points of a coarse HEALPix grid Newton's method ascends to the maxima of
    F themselves, and the highest counts; among six or more of nearly the same height it is sometimes missed. The mode
    is deterministic, and differentiable as an implicit function, once, but the likelihood (``SO3NLL``) is what trains
    it: the gradient of the mode knows nothing of other modes.

    Args:
        lmax: highest degree: 6 (455 numbers) has peaks about 30 degrees wide in F, and after the exponential as narrow
            as the coefficients are large.
        order: of the grid for entropies, probabilities and :meth:`log_prob_grid`, on which the rotation does not
            depend. At order 3 its points are 7.5 degrees apart; a density that is narrower than them is summed on
            points of its own, too.
        symmetry: point group of the object in RELION's axes: f is replaced by its mean over the group, also in
            ``Pose.raw``, which makes all mates equally likely: any of them may be the rotation, and that of a turned
            image the mate of the turned rotation.
        decode: "mode", the highest point of the density; "mean", the rotation of least mean square distance to those
            that it holds for likely (the projection of their mean, Moakher 2002), by which errors of
            images of two minds become smaller on average, and few are right. It is summed on the grid, so that turned
            images turn it but for a fraction of a degree, and of a density that knows nothing it is any rotation: for
            predictions, not for losses of rotations.
        confidence: "height", how far the log density at the mode is above its mean over all rotations; "entropy", the
            negative entropy, 0 for the uniform density; both in nats; "probability", that of the truth within 15
            degrees of the mode. The last two are sums over all rotations, which take longer than everything else.

    Raises:
        ValueError: lmax is below 2 (degree 1 is the matrix-Fisher density, see NineDSVD), above 16 or too low for the
            symmetry (n for Cn and Dn, 3, 4 and 6 for T, O and I), order is negative or above 5, symmetry unknown.
    """

    has_confidence = True
    mean_factors: Tensor

    def __init__(
        self,
        *,
        lmax: int = 6,
        order: int = 3,
        symmetry: str = "C1",
        decode: Literal["mode", "mean"] = "mode",
        confidence: Literal["height", "entropy", "probability"] = "height",
    ) -> None:
        super().__init__()
        if lmax < 2:
            raise ValueError(
                f"lmax {lmax}, expected at least 2; degree 1 alone is what nined_svd and bingham_nll are for"
            )
        if lmax > _HIGHEST or order > _FINEST:
            raise ValueError(
                f"lmax {lmax} and order {order}, expected at most {_HIGHEST} and {_FINEST}: its tables grow with both"
            )
        if confidence not in ("height", "entropy", "probability"):
            raise ValueError(f"confidence {confidence!r}, expected 'height', 'entropy' or 'probability'")
        group = point_group(symmetry)
        if decode not in ("mode", "mean") or (decode == "mean" and len(group) > 1):
            raise ValueError(f"decode {decode!r}, expected 'mode', or 'mean' of densities without symmetry")
        self.lmax = lmax
        self.symmetry = symmetry
        self.decode = decode
        self.confidence = confidence
        self.raw_dim = harmonic_dim(lmax)
        self.series = SO3Series(lmax, order)
        self.maxima = SO3Maxima(lmax)
        self.sums = SO3Sums(self.series, self.maxima)
        if lmax < (needed := _lowest_degree(symmetry)):
            raise ValueError(f"lmax {lmax} tells no poses of {symmetry} apart, expected at least {needed}")
        self.set_constants(mean_factors=WignerD(lmax)(group).mean(0).float())
        self.symmetric = len(group) > 1

    def representation(self, phi: Tensor) -> list[tuple[int, Tensor]]:
        """2l + 1 copies of D^l(phi) for every degree."""
        return [(2 * degree + 1, wigner_d(degree, phi)) for degree in range(self.lmax + 1)]

    def symmetrised(self, raw: Tensor) -> Tensor:
        """The mean of F over the point group as coefficients, (B, raw_dim) -> (B, raw_dim)."""
        if not self.symmetric:
            return raw
        factors, f = (split_degrees(x, self.lmax) for x in (self.mean_factors.to(raw.dtype), raw))
        return join_degrees([x @ y for x, y in zip(factors, f, strict=True)])

    def forward(self, raw: Tensor, *, decode: bool = True) -> Pose:
        """As the base says; ``Pose.raw`` is symmetrised."""
        pose = super().forward(raw, decode=decode)
        if not self.symmetric or pose.raw is None:
            return pose
        with torch.autocast(raw.device.type, enabled=False):
            return pose._replace(raw=self.symmetrised(pose.raw))

    def rotation(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """(B, raw_dim) -> the mode (B, 3, 3) and the confidence (B,)."""
        f = self.symmetrised(raw)
        mode = self.maxima.highest(unit_scale(f)[0])
        confidence = self._confidence(f, mode)
        return (self._mean(f) if self.decode == "mean" else mode), confidence

    def _confidence(self, f: Tensor, mode: Tensor) -> Tensor:
        if self.confidence == "entropy":
            return -self._entropy(f)
        if self.confidence == "probability":
            return self._probability(f, mode.detach()[:, None]).squeeze(1)
        # the mean over all rotations is the coefficient of degree 0
        return (f * self.maxima.wigner(mode.detach())).sum(1) - f[:, 0]

    def log_prob_grid(self, raw: Tensor) -> Tensor:
        """Log density at the rotations of ``so3_grid(order)``, (B, raw_dim) -> (B, N).

        It is normalised on the grid, the mean of its exp is 1 there: of a narrower density the highest points count for
        all that is between them.
        """
        values = self.series.values(self.symmetrised(raw))
        return values - log_sum_exp(values)[:, None] + math.log(values.shape[1])

    def entropy(self, raw: Tensor) -> Tensor:
        """(B, raw_dim) -> entropy (B,) relative to that of the uniform density, in nats, at most 0."""
        return self._entropy(self.symmetrised(raw))

    @torch.no_grad()
    def modes(self, raw: Tensor, k: int) -> Modes:
        """The k highest maxima of the density that are at least 30 degrees apart, (B, raw_dim) -> :class:`Modes`.

        The first is the mode that :meth:`forward` gives, unless another is as high.
        """
        f = self.symmetrised(raw)
        unit, _ = unit_scale(f)
        expansion = self.maxima.expansion(unit)
        found = self.maxima.ascend(expansion, self.maxima.at(expansion, self.maxima.starts(unit, 4 * k)), 6)
        height = found.height.masked_fill(~(is_maximum(found.taylor[..., 4:]) & found.settled), -torch.inf)
        chosen = []
        for _ in range(k):
            best, index = height.max(1)
            picked = found.take(index).rotation
            chosen.append(torch.where(best[:, None, None, None] > -torch.inf, picked, torch.nan))
            height = height.masked_fill(_traces(found.rotation, picked).squeeze(1) > _trace(30), -torch.inf)
        modes = torch.cat(chosen, 1)
        return Modes(modes, self._probability(f, modes))

    def _entropy(self, f: Tensor) -> Tensor:
        entropies = []
        for samples in self.sums.samples(f):
            information = samples.value - samples.log_sum[:, None] + math.log(len(self.series))
            entropies.append(-torch.linalg.vecdot(samples.probability, information))
        return torch.cat(entropies)

    def _mean(self, f: Tensor) -> Tensor:
        """The rotation nearest to the mean over the density, (B, raw_dim) -> (B, 3, 3)."""
        grid = self.series.grid(torch.arange(len(self.series), device=f.device)).to(f.dtype).flatten(1)
        means = []
        for samples in self.sums.samples(f):
            on_grid, others = samples.probability.split([len(grid), samples.lattice.shape[1]], 1)
            mean = on_grid @ grid + (others[:, None] @ samples.lattice.flatten(2)).squeeze(1)
            means.append(mean.unflatten(1, (3, 3)))
        return special_procrustes(torch.cat(means))

    def _probability(self, f: Tensor, modes: Tensor) -> Tensor:
        """Of the truth within 15 degrees of rotations, (B, K) and (B, k, 3, 3) -> (B, k)."""
        grid = self.series.grid(torch.arange(len(self.series), device=f.device)).to(f.dtype)
        # Smoothly over the width of a cell, else the number of points inside would depend on where the grid has them.
        half = min(math.degrees(self.series.spacing), 15) / 2
        outer, inner = _trace(15 + half), _trace(15 - half)
        shares = []
        for samples, near in zip(self.sums.samples(f), self.series.parts(modes), strict=True):
            traces = torch.cat([_traces(grid, near), _traces(samples.lattice, near)], 2).nan_to_num(-1)
            inside = ((traces - outer) / (inner - outer)).clamp(0, 1)
            shares.append((inside @ samples.probability[..., None]).squeeze(2))
        return torch.cat(shares)


def _lowest_degree(symmetry: str) -> int:
    """Up to which functions on SO(3) that a point group leaves as they are tell all poses apart, but for the group.

    Those of C_n and D_n depend on the angle about the axis from degree n on; those of T, O and I begin at 3, 4 and 6.
    """
    return {"T": 3, "O": 4, "I": 6}.get(symmetry[0]) or int(symmetry[1:])


def _trace(degrees: float) -> float:
    """Of a rotation matrix with this angle."""
    return 1 + 2 * math.cos(math.radians(degrees))


def _traces(a: Tensor, b: Tensor) -> Tensor:
    """Of the rotations between two, (..., M, 3, 3) and (..., k, 3, 3) -> (..., k, M)."""
    return b.flatten(-2) @ a.flatten(-2).mT
