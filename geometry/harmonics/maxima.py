"""The maxima of functions on SO(3) that are harmonic series: from a coarse grid uphill by Newton's method."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..constants import Constants, constant
from ..rotations import matrix_to_quaternion, quaternion_to_matrix, rotvec_to_matrix
from .series import SO3Series, join_degrees, split_degrees
from .wigner import WignerD, so3_generators


class Ascent(NamedTuple):
    """Rotations on their way uphill.

    Attributes:
        rotation: (B, C, 3, 3).
        taylor: F(R exp(w)), its gradient and its Hessian at w = 0, (B, C, 10), the last as xx, yy, zz, xy, xz, yz.
    """

    rotation: Tensor
    taylor: Tensor

    @property
    def height(self) -> Tensor:
        """F, (B, C)."""
        return self.taylor[..., 0]

    @property
    def settled(self) -> Tensor:
        """Whether the next step would be under half a degree, (B, C)."""
        return torch.linalg.vector_norm(_newton_step(self.taylor, 1.0), dim=-1) < 0.01

    def take(self, index: Tensor) -> Ascent:
        """One of C each, (B,) -> an ascent with C = 1."""
        # take_along_dim would fix B in exported programs
        index = index[:, None, None]
        rotation = self.rotation.flatten(2).gather(1, index.expand(-1, 1, 9)).unflatten(2, (3, 3))
        return Ascent(rotation, self.taylor.gather(1, index.expand(-1, 1, 10)))


@constant
def _derivatives(lmax: int) -> Tensor:
    """Factors on the right of D(R) that give F(R exp(w)) at w = 0, its gradient and Hessian, (10, K) float64.

    These matrices are not transposed.
    """
    blocks = []
    for degree in range(lmax + 1):
        x = so3_generators(degree)
        second = [(x[a] @ x[b] + x[b] @ x[a]) / 2 for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))]
        blocks.append(torch.stack([torch.eye(2 * degree + 1, dtype=x.dtype), *x, *second]))
    return join_degrees(blocks)


def _adjugate(xx: Tensor, yy: Tensor, zz: Tensor, xy: Tensor, xz: Tensor, yz: Tensor) -> tuple[Tensor, Tensor]:
    """Of a symmetric 3x3 matrix: its adjugate's rows, (..., 3, 3), and its determinant."""
    a, b, c = yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy
    d, e, f = xx * zz - xz * xz, xy * xz - xx * yz, xx * yy - xy * xy
    return torch.stack([a, b, c, b, d, e, c, e, f], -1).unflatten(-1, (3, 3)), xx * a + xy * b + xz * c


def is_maximum(hessian: Tensor) -> Tensor:
    """Whether -H is positive definite beyond rounding, (..., 6) -> (...), by its leading minors."""
    xx, yy, zz, xy, xz, yz = (-hessian).unbind(-1)
    size = torch.linalg.vector_norm(hessian, dim=-1)
    least = 16 * torch.finfo(size.dtype).eps * size
    adjugate, determinant = _adjugate(xx, yy, zz, xy, xz, yz)
    return (xx > least) & (adjugate[..., 2, 2] > least * size) & (determinant > least * size * size)


def _least_eigenvalue(matrix: Tensor) -> Tensor:
    """Of symmetric 3x3 matrices (..., 6), by their characteristic equation, which LAPACK would take far longer for."""
    mean = matrix[..., :3].mean(-1, keepdim=True)
    diagonal, beside = matrix[..., :3] - mean, matrix[..., 3:]
    spread = ((diagonal**2).sum(-1) / 6 + (beside**2).sum(-1) / 3).sqrt()
    _, determinant = _adjugate(*diagonal.unbind(-1), *beside.unbind(-1))
    cosine = (determinant / (2 * spread**3).clamp_min(torch.finfo(spread.dtype).tiny)).clamp(-1, 1)
    return mean.squeeze(-1) + 2 * spread * ((cosine.acos() + 2 * torch.pi) / 3).cos()


def _newton_step(taylor: Tensor, radius: Tensor | float) -> Tensor:
    """Ascent (..., 3) from F, gradient and Hessian (..., 10), at most ``radius`` (or (..., 1)) long.

    Differentiable in the gradient only. Where -H is not positive definite, its diagonal is raised until it is: a step
    along the gradient, longest in the direction in which F is least curved downwards.
    """
    gradient, hessian = taylor[..., 1:4], taylor[..., 4:].detach()
    xx, yy, zz, xy, xz, yz = (-hessian).unbind(-1)
    size = torch.linalg.vector_norm(hessian, dim=-1)
    tiny = torch.finfo(size.dtype).tiny
    shift = torch.where(is_maximum(hessian), 0, 0.03 * size - _least_eigenvalue(-hessian))
    adjugate, determinant = _adjugate(xx + shift, yy + shift, zz + shift, xy, xz, yz)
    step = (adjugate @ gradient[..., None]).squeeze(-1) / determinant.clamp_min(tiny)[..., None]
    length = torch.linalg.vector_norm(step.detach(), dim=-1, keepdim=True)
    return step * (radius / length.clamp_min(tiny)).clamp_max(1)


class SO3Maxima(Constants):
    """Maxima of F(R) = sum of f^l_mn D^l_mn(R), l = 0..lmax, for coefficients (B, K) of unit size.

    They are sought from the coarsest grid with four points to a wavelength of the highest degree, or that of order 2,
    whatever the grid on which exp(F) is to be summed.

    Args:
        lmax: highest degree.
    """

    wigner: WignerD
    derivatives: Tensor
    near_directions: Tensor
    near_turns: Tensor

    def __init__(self, lmax: int) -> None:
        super().__init__()
        self.lmax = lmax
        self.reach = 1.5 / (lmax + 2)  # of a step, in radians: half the width of the narrowest peaks of F
        self.wigner = WignerD(lmax)
        self.coarse = SO3Series(lmax, max(2, math.ceil(math.log2(lmax / 1.5))))
        n_psi = len(self.coarse.turns)
        grid = self.coarse.grid(torch.arange(len(self.coarse))).flatten(1)
        # For each direction the neighbours of its first point, as many of them as there are at most.
        trace = grid[::n_psi] @ grid.T
        count = int((trace > 1 + 2 * math.cos(5 / 3 * self.coarse.spacing)).sum(1).max())
        near = trace.topk(count).indices
        self.set_constants(
            derivatives=_derivatives(lmax).float(), near_directions=near // n_psi, near_turns=near % n_psi
        )

    def expansion(self, coefficients: Tensor) -> Tensor:
        """What D(R) is multiplied with to give F(R exp(w)) at w = 0 and its derivatives, (B, K) -> (B, 10, K)."""
        double = coefficients.dtype == torch.float64
        factors = (_derivatives(self.lmax) if double else self.derivatives).to(coefficients)
        products = []
        for factor, f in zip(*(split_degrees(x, self.lmax) for x in (factors, coefficients)), strict=True):
            products.append((factor.flatten(0, 1) @ f).unflatten(1, (10, -1)))
        return join_degrees(products)

    def at(self, expansion: Tensor, rotation: Tensor) -> Ascent:
        """From any rotations (B, C, 3, 3)."""
        return Ascent(rotation, self.wigner(rotation) @ expansion.mT)

    @torch.no_grad()
    def starts(self, coefficients: Tensor, count: int) -> Tensor:
        """The highest points of the grid of which none is another's neighbour, (B, K) -> (B, count, 3, 3)."""
        values, n_psi = self.coarse.values(coefficients), len(self.coarse.turns)
        starts = []
        for _ in range(count):
            start = _highest_place(values)
            starts.append(start)
            direction, turn = start // n_psi, start % n_psi
            turns = (self.near_turns[direction] + turn[:, None]) % n_psi
            values.scatter_(1, self.near_directions[direction] * n_psi + turns, -torch.inf)
        return self.coarse.grid(torch.stack(starts, 1)).to(coefficients.dtype)

    @torch.no_grad()
    def ascend(self, expansion: Tensor, ascent: Ascent, steps: int) -> Ascent:
        """Newton's method. A step that lowers F by more than rounding is not taken, and the next is far shorter."""
        tolerance = 8 * torch.finfo(expansion.dtype).eps
        radius = torch.full_like(ascent.taylor[..., :1], self.reach)
        for _ in range(steps):
            trial = self.at(expansion, ascent.rotation @ rotvec_to_matrix(_newton_step(ascent.taylor, radius)))
            height = ascent.taylor[..., :1]
            better = trial.taylor[..., :1] >= height - tolerance * height.abs()
            radius = torch.where(better, radius, radius / 4)
            ascent = Ascent(
                torch.where(better[..., None], trial.rotation, ascent.rotation),
                torch.where(better, trial.taylor, ascent.taylor),
            )
        return ascent

    def highest(self, coefficients: Tensor) -> Tensor:
        """Where F is highest, (B, K) -> (B, 3, 3).

        It has the derivative of an implicit function: the gradient of F stays 0, so exp(w) with w = -H^-1 d(gradient)
        is what a change of the coefficients adds to the rotation.
        """
        expansion = self.expansion(coefficients)
        fixed = expansion.detach()
        found = self._highest_of(fixed, self.at(fixed, self.starts(coefficients, 5)))
        if expansion.requires_grad:
            found = self.at(expansion, _orthonormal(found.rotation))
        step = _newton_step(found.taylor, self.reach)  # the last, which squares a small error
        return _orthonormal(found.rotation @ rotvec_to_matrix(step)).squeeze(1)

    def _highest_of(self, expansion: Tensor, ascent: Ascent) -> Ascent:
        """Of the maxima above C points, following each as far as may be needed to tell which is the highest."""
        if torch.compiler.is_compiling():  # exported programs treat every image alike
            ascent = self.ascend(expansion, ascent, 4 if expansion.dtype == torch.float32 else 9)
            return ascent.take(ascent.height.argmax(1))
        ascent = self.ascend(expansion, ascent, 1)
        # how high the next step would lead if F were quadratic, wrong by 2 % at most
        promised = ascent.height + (ascent.taylor[..., 1:4] * _newton_step(ascent.taylor, self.reach)).sum(-1) / 2
        most, first = promised.max(1, keepdim=True)
        flat = ascent.rotation.flatten(2)
        traces = (flat @ ascent.take(first[:, 0]).rotation.flatten(2).mT).squeeze(2)
        rivals = (traces < 1 + 2 * math.cos(2 * self.reach)) & (promised > most - 0.02 * most.abs())
        image, place = rivals.scatter(1, first, True).nonzero().unbind(1)
        found = self._settle(expansion[image], Ascent(*(part[image, place, None] for part in ascent)))
        height = torch.full_like(promised, -torch.inf).index_put((image, place), found.height[:, 0])
        highest = (height.argmax(1)[image] == place).nonzero()[:, 0]  # pairs are in the order of images
        return Ascent(*(part[highest] for part in found))

    def _settle(self, expansion: Tensor, ascent: Ascent) -> Ascent:
        """Upwards until one more step is the last: two do for nearly all."""
        found = self.ascend(expansion, ascent, 2)
        for _ in range(6):
            length = torch.linalg.vector_norm(_newton_step(found.taylor, self.reach)[:, 0], dim=-1)
            few = (length > torch.finfo(expansion.dtype).eps ** 0.5).nonzero()[:, 0]
            if len(few) == 0:
                break
            further = self.ascend(expansion[few], Ascent(*(part[few] for part in found)), 2)
            found = Ascent(*(part.index_copy(0, few, more) for part, more in zip(found, further, strict=True)))
        return found


def _orthonormal(rotation: Tensor) -> Tensor:
    """Without the rounding of products."""
    return quaternion_to_matrix(matrix_to_quaternion(rotation))


def _highest_place(values: Tensor) -> Tensor:
    """argmax of rows (B, N), N a multiple of 16; torch finds what the maximum is ten times as fast as where it is."""
    rows = values.unflatten(1, (16, values.shape[1] // 16))
    column = rows.amax(1).max(1).indices
    row = rows.gather(2, column[:, None, None].expand(-1, 16, 1)).squeeze(2).max(1).indices
    return row * rows.shape[2] + column
