"""Sums over SO(3) of densities exp(F), however narrow: on a grid, and around narrow peaks on lattices of their own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..constants import Constants
from ..rotations import matrix_to_rotvec, rotvec_to_matrix
from ..scale import unit_scale
from .maxima import SO3Maxima
from .series import SO3Series, log_sum_exp

_PEAKS = 6
_REACH = 4.5
"""Of lattices and windows, in standard deviations; of a normal density 0.0002 lies beyond."""


class Samples(NamedTuple):
    """S rotations per image, N of the grid and others, that together stand for SO(3).

    Attributes:
        value: F, (B, S), on the grid first.
        weighted: F plus the logarithm of the weight, (B, S); weights add up to N.
        lattice: the rotations that are not on the grid, (B, S - N, 3, 3).
    """

    value: Tensor
    weighted: Tensor
    lattice: Tensor

    @property
    def log_sum(self) -> Tensor:
        """Logarithm of the sum of exp(weighted), (B,)."""
        return log_sum_exp(self.weighted)

    @property
    def probability(self) -> Tensor:
        """Of each under the density, (B, S)."""
        # exp takes far longer where it gives denormals
        return (self.weighted - self.log_sum[:, None]).clamp_min(-80).exp()


class _Peaks(NamedTuple):
    """Maxima R (B, C, 3, 3) with F = F(R) - |u|^2 / 2 nearby, at R exp(directions (width u)), and their windows.

    A window at R' is a function of 2 (size - <form, R'>). This is nearly |u|^2 close to the peak, grows up to half a
    turn, and takes one product for all R': it is the exponent of a matrix-Fisher density.
    """

    rotation: Tensor
    directions: Tensor  # (B, C, 3, 3), in columns
    width: Tensor  # (B, C, 3)
    form: Tensor  # (B, C, 3, 3)
    size: Tensor  # (B, C)
    narrow: Tensor  # (B, C), whether it needs a lattice


def _window(product: Tensor) -> Tensor:
    """1 near a peak, smoothly 0 where its lattice ends, (...) -> (...), of <form, R'> - size."""
    return (1 - (-2 / _REACH**2 * product).clamp(0, 1) ** 3) ** 3


class SO3Sums(Constants):
    """Means over SO(3) of functions of F(R) = sum of f^l_mn D^l_mn(R), for coefficients (B, K).

    On a grid alone, a density narrower than it would have its peaks between points, where nobody counts them, or on
    one, where they count too much. Here those of the six highest maxima that are so narrow are summed on lattices of
    their own, cubic in coordinates in which F falls equally fast in all directions. Windows w_1, w_2, ... divide SO(3):
    the i-th lattice has w_i times 1 - w_j of all before, the grid what all leave. Gradients are those at fixed points.

    At order 3 sums are right to 2 % whatever the width; with coarser grids many wide peaks cost more. Not so of narrow
    ridges, along which F hardly changes: lattices are no longer than the grid is good for, and more than six would be
    needed.

    Args:
        series: F on the grid.
        maxima: of the same degree.
        spacing: of the lattices, in standard deviations of the peak.
    """

    lattice: Tensor

    def __init__(self, series: SO3Series, maxima: SO3Maxima, spacing: float = 1.5) -> None:
        super().__init__()
        self.series = series
        self.maxima = maxima
        self.spacing = spacing
        count = math.floor(_REACH / spacing)
        steps = spacing * torch.arange(-count, count + 1)
        lattice = torch.cartesian_prod(steps, steps, steps)
        self.set_constants(lattice=lattice[lattice.norm(dim=1) < _REACH])
        # Lattices are no wider than the grid is good for, and windows no narrower than a third of that.
        self.widest = min(0.8 * series.spacing, math.radians(24))
        reach = min(_REACH * math.hypot(self.widest, self.widest / 3) + series.spacing, math.pi)
        share = min(1.1 * (1 - math.cos(reach)) / 2, 1)
        self.near = math.ceil(share * len(series.directions))  # how many directions a window may reach

    def log_z(self, coefficients: Tensor) -> Tensor:
        """Logarithm of the mean of exp(F), (B, K) -> (B,)."""
        sums = [samples.log_sum for samples in self.samples(coefficients)]
        return torch.cat(sums) - math.log(len(self.series))

    def samples(self, coefficients: Tensor, through: Tensor | None = None) -> Iterator[Samples]:
        """Where to sum, (B, K), some images at a time as in :meth:`SO3Series.parts`.

        With rotations ``through`` (B, 3, 3), lattices that reach to them have them among theirs.
        """
        with torch.no_grad():
            peaks = self._peaks(coefficients.detach())
        # matrix products want the whole batch, what becomes of them a processor's cache
        columns = coefficients, self.series.amplitudes(coefficients), *peaks, *([] if through is None else [through])
        for f, amplitudes, *rest in zip(*map(self.series.parts, columns), strict=True):
            yield self._samples(f, amplitudes, _Peaks(*rest[: len(peaks)]), *rest[len(peaks) :])

    def _samples(
        self, coefficients: Tensor, amplitudes: Tensor, peaks: _Peaks, through: Tensor | None = None
    ) -> Samples:
        batch = coefficients.shape[0]  # of which len would make a constant of exported programs
        with torch.no_grad():
            rows = torch.arange(batch * _PEAKS, device=coefficients.device)
            if not torch.compiler.is_compiling():  # exported programs have as many lattices for every image
                rows = rows[peaks.narrow.flatten()]
            points, log_weight = self._lattices(peaks, rows, through)
            pixels, log_left = self._left_to_grid(peaks, rows)
        heights = self.maxima.wigner.series(coefficients[rows // _PEAKS], points)
        value = self.series.from_amplitudes(amplitudes)
        left = value.view(-1, len(self.series.turns)).index_add(0, pixels, log_left).view_as(value)

        def of_images(found: Tensor, missing: float) -> Tensor:
            full = found.new_full((batch * _PEAKS, *found.shape[1:]), missing)
            return full.index_copy(0, rows, found).unflatten(0, (batch, _PEAKS)).flatten(1, 2)

        return Samples(
            torch.cat([value, of_images(heights, 0.0)], 1),
            torch.cat([left, of_images(heights + log_weight, -torch.inf)], 1),
            of_images(points, 0.0),
        )

    def _peaks(self, coefficients: Tensor) -> _Peaks:
        coefficients, scale = unit_scale(coefficients)
        expansion = self.maxima.expansion(coefficients)
        start = self.maxima.at(expansion, self.maxima.starts(coefficients, _PEAKS))
        rotation, taylor = self.maxima.ascend(expansion, start, 5)
        height, gradient, curvature = (scale[..., None] * taylor).nan_to_num().split([1, 3, 6], -1)
        curvatures, directions = torch.linalg.eigh(-curvature[..., [0, 3, 4, 3, 1, 5, 4, 5, 2]].unflatten(-1, (3, 3)))
        # A direction in which F hardly falls, or a little upwards by rounding, is as wide as lattices are.
        width = (curvatures.clamp_min(0) + self.widest**-2).rsqrt()
        off = torch.linalg.vector_norm(width * (gradient[..., None, :] @ directions).squeeze(-2), dim=-1)
        mass = height.squeeze(-1) + width.log().sum(-1)
        narrow = (
            (self.spacing * width[..., 2] < self.widest)
            & (curvatures[..., 0] > -0.1 / self.widest**2)
            & (off < 0.3)
            & (mass > mass.amax(1, keepdim=True) - 6)
        )
        flat = rotation.flatten(2)
        same = (flat @ flat.mT > 1 + 2 * math.cos(self.widest)).tril(-1) & narrow[:, None]
        # With precision P, 2 tr(Q (1 - exp w)) = w^T P w + ... for Q = tr(P) / 2 - P.
        precision = 1 / (width**2 + (self.widest / 3) ** 2)
        size = precision.sum(-1) / 2
        form = rotation @ directions * (size[..., None] - precision)[..., None, :] @ directions.mT
        return _Peaks(rotation, directions, width, form, size, narrow & ~same.any(2))

    def _lattices(self, peaks: _Peaks, rows: Tensor, through: Tensor | None) -> tuple[Tensor, Tensor]:
        """Rotations (P, M, 3, 3) and logarithms of their weights (P, M), of the peaks numbered ``rows`` (P,)."""
        image, place = rows // _PEAKS, rows % _PEAKS
        rotation, directions, width, _, _, narrow = (x.flatten(0, 1)[rows] for x in peaks)
        u = self.lattice.to(width)
        if through is not None:
            to = (matrix_to_rotvec(rotation.mT @ through[image])[:, None] @ directions) / width[:, None]
            u = u + to - self.spacing * (to / self.spacing).round()
        w = (u * width[:, None]) @ directions.mT
        points = rotation[:, None] @ rotvec_to_matrix(w)
        products = points.flatten(2) @ peaks.form[image].flatten(2).mT - peaks.size[image][:, None]
        before = (torch.arange(_PEAKS, device=rows.device) < place[:, None]) & peaks.narrow[image]
        left = torch.where(before[:, None], torch.log1p(-_window(products)), 0).sum(2)
        own = _window(products.gather(2, place[:, None, None].expand(-1, u.shape[-2], 1)).squeeze(2))
        # a rotation vector has the share (sin(|w| / 2) / (|w| / 2))^2 dw / (8 pi^2) of all rotations
        share = torch.sinc(torch.linalg.vector_norm(w, dim=-1) / (2 * torch.pi)) ** 2
        volume = self.spacing**3 * len(self.series) / (8 * torch.pi**2)
        log_weight = (own * share * volume).log() + left + width.log().sum(1, keepdim=True)
        return points, torch.where(narrow[:, None], log_weight, -torch.inf)

    def _left_to_grid(self, peaks: _Peaks, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (P * near,) of the grid's values (B * directions, angles) and the logarithms of what windows leave."""
        rotation, _, _, form, size, narrow = (x.flatten(0, 1)[rows] for x in peaks)
        directions, turns = self.series.directions.to(form), self.series.turns.to(form)
        pixels = (rotation[:, 2] @ directions[:, 2].mT).topk(self.near).indices
        products = (form[:, None] @ directions[pixels].mT).flatten(2) @ turns.flatten(1).mT - size[:, None, None]
        log_left = torch.where(narrow[:, None, None], torch.log1p(-_window(products)), 0)
        return (rows[:, None] // _PEAKS * len(directions) + pixels).flatten(), log_left.flatten(0, 1)


@cache
def so3_sums(lmax: int, order: int, device: torch.device, spacing: float = 1.5) -> SO3Sums:
    """One for all losses and metrics: it has no state, and takes a while to make."""
    with torch.inference_mode(False), torch.device("cpu"):
        return SO3Sums(SO3Series(lmax, order), SO3Maxima(lmax), spacing).to(device)
