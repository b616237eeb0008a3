"""Real functions on SO(3) as harmonic series: their values on a grid, their derivatives, their highest points."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from ..geometry.grids import so3_grid
from ..geometry.rotations import matrix_to_quaternion, quaternion_to_matrix, rotvec_to_matrix
from ..geometry.wigner import WignerD, so3_generators


def split_degrees(entries: Tensor, lmax: int) -> list[Tensor]:
    """(..., K) in the order of :class:`WignerD` -> for each degree its transposed matrix (..., 2l + 1, 2l + 1)."""
    sizes = range(1, 2 * lmax + 2, 2)
    return [x.unflatten(-1, (n, n)) for x, n in zip(entries.split([n * n for n in sizes], -1), sizes, strict=True)]


def join_degrees(blocks: list[Tensor]) -> Tensor:
    """The inverse of :func:`split_degrees`."""
    return torch.cat([block.flatten(-2) for block in blocks], -1)


def below_maximum_(values: Tensor) -> Tensor:
    """Subtract the maximum in place and raise to -80 what is less, (B, N) -> (B, N).

    That counts for nothing in a sum of exponentials, and exp takes twenty times as long where it gives denormals.
    """
    return values.sub_(values.detach().amax(1, keepdim=True)).clamp_(min=-80)


def log_sum_exp(values: Tensor) -> Tensor:
    """(B, N) -> (B,), of any size."""
    return values.detach().amax(1) + below_maximum_(values.clone()).exp().sum(1).log()


def pick(rotation: Tensor, index: Tensor) -> Tensor:
    """One of C rotations each, (B, C, 3, 3) and (B,) -> (B, 1, 3, 3)."""
    # take_along_dim would fix B in exported programs
    return rotation.gather(1, index[:, None, None, None].expand(-1, 1, 3, 3))


@cache
def _derivatives(lmax: int) -> Tensor:
    """Factors on the right of D(R) that give F(R exp(w)) at w = 0, its gradient and Hessian, (10, K) float64.

    The Hessian in the order xx, yy, zz, xy, xz, yz. These matrices are not transposed.
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


def _is_maximum(hessian: Tensor) -> Tensor:
    """Whether -H is positive definite beyond rounding, (..., 6) -> (...), by its leading minors."""
    xx, yy, zz, xy, xz, yz = (-hessian).unbind(-1)
    size = torch.linalg.vector_norm(hessian, dim=-1)
    least = 16 * torch.finfo(size.dtype).eps * size
    adjugate, determinant = _adjugate(xx, yy, zz, xy, xz, yz)
    return (xx > least) & (adjugate[..., 2, 2] > least * size) & (determinant > least * size * size)


def _newton_step(gradient: Tensor, hessian: Tensor, radius: Tensor | float) -> Tensor:
    """Ascent (..., 3) from gradient (..., 3) and Hessian (..., 6), at most ``radius`` (or (..., 1)) long.

    Differentiable in the gradient only. Where -H is not positive definite, twice its norm is added to its diagonal:
    roughly a step along the gradient. LAPACK, matrix by matrix, would take several times as long.
    """
    xx, yy, zz, xy, xz, yz = (-hessian.detach()).unbind(-1)
    size = torch.linalg.vector_norm(hessian.detach(), dim=-1)
    tiny = torch.finfo(size.dtype).tiny
    shift = torch.where(_is_maximum(hessian.detach()), 0, 2 * size)
    adjugate, determinant = _adjugate(xx + shift, yy + shift, zz + shift, xy, xz, yz)
    step = (adjugate @ gradient[..., None]).squeeze(-1) / determinant.clamp_min(tiny)[..., None]
    length = torch.linalg.vector_norm(step.detach(), dim=-1, keepdim=True)
    return step * (radius / length.clamp_min(tiny)).clamp_max(1)


class SO3Series(nn.Module):
    """F(R) = sum of f^l_mn D^l_mn(R) over l = 0..lmax, for coefficients (B, K) in the order of :class:`WignerD`.

    On the grid R = Rz(-k step) R_p, with a rotation R_p for each of P directions and k the in-plane angle. The first
    factor mixes only m with -m, so F is a Fourier series in the in-plane angle, and one matrix product for each |m|
    gives its amplitudes at all directions: 15 times fewer products than the dense K x N matrix at order 3, and a
    fortieth of its numbers. The values are those of float32 tables, also in float64.

    Args:
        lmax: highest degree.
        order: of the grid (:func:`cryozoo.geometry.grids.so3_grid`).
    """

    wigner: WignerD
    directions: Tensor
    turns: Tensor
    by_order: Tensor
    amplitudes: Tensor
    waves: Tensor
    derivatives: Tensor

    def __init__(self, lmax: int, order: int) -> None:
        super().__init__()
        self.lmax = lmax
        self.order = order
        n_psi = 6 * 2**order
        self.counts = [(2 if k else 1) * sum(2 * degree + 1 for degree in range(k, lmax + 1)) for k in range(lmax + 1)]
        self.wigner = WignerD(lmax)
        directions = so3_grid(order)[::n_psi]
        at_directions = WignerD(lmax)(directions)
        steps = torch.arange(n_psi, dtype=torch.float64) * (2 * torch.pi / n_psi)
        m = torch.cat([torch.arange(-k, k + 1).repeat(2 * k + 1) for k in range(lmax + 1)])
        mirrored = join_degrees([block.flip(-1) for block in split_degrees(at_directions, lmax)])
        by_order = m.abs().argsort(stable=True)
        # F = sum of f_m (cos(m k step) D_m + sin(m k step) D_-m)
        amplitudes = torch.stack([at_directions, mirrored * torch.where(m < 0, -1, 1)], 1)
        waves = [f(k * steps) for k in range(lmax + 1) for f in ((torch.cos, torch.sin) if k else (torch.cos,))]
        for name, table in {
            "directions": directions.float(),
            "turns": rotvec_to_matrix(steps[:, None] * torch.tensor([0.0, 0, -1], dtype=torch.float64)).float(),
            "by_order": by_order,
            "amplitudes": amplitudes[..., by_order].permute(2, 1, 0).flatten(1).float().contiguous(),
            "waves": torch.stack(waves).float(),
            "derivatives": _derivatives(lmax).float(),
        }.items():
            self.register_buffer(name, table, persistent=False)

    def __len__(self) -> int:
        """Points of the grid."""
        return len(self.directions) * len(self.turns)

    def grid(self, index: Tensor) -> Tensor:
        """Rotations of the grid, (...) -> (..., 3, 3)."""
        n_psi = len(self.turns)
        return self.turns[index % n_psi] @ self.directions[index // n_psi]

    def values(self, coefficients: Tensor) -> Tensor:
        """F on the grid, (B, K) -> (B, N) in the order of ``so3_grid``."""
        f = coefficients.index_select(1, self.by_order).split(self.counts, 1)
        tables = self.amplitudes.to(coefficients.dtype).split(self.counts)
        cosines = f[0] @ tables[0][:, : len(self.directions)]
        rows = torch.cat([cosines, *(x @ table for x, table in zip(f[1:], tables[1:], strict=True))], 1)
        return (rows.unflatten(1, (2 * self.lmax + 1, -1)).mT @ self.waves.to(coefficients.dtype)).flatten(1)

    def at(self, coefficients: Tensor, rotation: Tensor) -> Tensor:
        """F at one rotation each, (B, K) and (B, 3, 3) -> (B,)."""
        return (coefficients * self.wigner(rotation)).sum(-1)

    def turned(self, coefficients: Tensor, rotation: Tensor) -> Tensor:
        """The coefficients (B, K) of R -> F(A R), with A (B, 3, 3)."""
        f, d = (split_degrees(x, self.lmax) for x in (coefficients, self.wigner(rotation)))
        return join_degrees([x @ y.mT for x, y in zip(f, d, strict=True)])

    def highest(self, values: Tensor, count: int) -> Tensor:
        """Where on the grid F is high, (B, N) -> indices (B, count) of the highest point of each of the highest cells.

        The cells are those of the grid of order 1, 28 degrees wide, or the points of a coarser grid.
        """
        depth = max(self.order - 1, 0)
        pixels, angles = 4**depth, 2**depth
        nested = values.unflatten(1, (-1, pixels, len(self.turns) // angles, angles))
        # in two steps, the short last dimension last: fourfold faster than in one
        cells = nested.flatten(3).amax(2).unflatten(2, (-1, angles)).amax(3)
        best = cells.flatten(1).topk(count).indices
        pixel, angle = best // cells.shape[2], best % cells.shape[2]
        inside = (
            nested[torch.arange(values.shape[0], device=values.device)[:, None], pixel, :, angle].flatten(2).argmax(2)
        )
        return (pixel * pixels + inside // angles) * len(self.turns) + angle * angles + inside % angles

    def expansion(self, coefficients: Tensor) -> Tensor:
        """What D(R) is multiplied with to give F(R exp(w)) at w = 0 and its derivatives, (B, K) -> (B, 10, K)."""
        double = coefficients.dtype == torch.float64
        factors = (_derivatives(self.lmax) if double else self.derivatives).to(coefficients)
        products = []
        for factor, f in zip(*(split_degrees(x, self.lmax) for x in (factors, coefficients)), strict=True):
            products.append((factor.flatten(0, 1) @ f).unflatten(1, (10, -1)))
        return join_degrees(products)

    @torch.no_grad()
    def ascend(self, expansion: Tensor, rotation: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """Newton steps from rotations (B, C, 3, 3) -> rotations (B, C, 3, 3), F there, and whether it is a maximum.

        A step that lowers F by more than rounding is not taken, and the next one is a quarter as long at most. Of the
        maxima, (B, C) each, those count whose next step is under half a degree.
        """
        best = self._evaluate(expansion, rotation)
        tolerance = 8 * torch.finfo(rotation.dtype).eps
        radius = torch.full_like(best[..., :1], 1 / (self.lmax + 2))
        for _ in range(steps):
            trial = rotation @ rotvec_to_matrix(_newton_step(best[..., 1:4], best[..., 4:], radius))
            found = self._evaluate(expansion, trial)
            better = found[..., :1] >= best[..., :1] - tolerance * best[..., :1].abs()
            radius = torch.where(better, radius, radius / 4)
            rotation, best = torch.where(better[..., None], trial, rotation), torch.where(better, found, best)
        left = torch.linalg.vector_norm(_newton_step(best[..., 1:4], best[..., 4:], 1.0), dim=-1)
        return rotation, best[..., 0], _is_maximum(best[..., 4:]) & (left < 0.01)

    def summit(self, expansion: Tensor, rotation: Tensor) -> Tensor:
        """The last Newton step, from next to a maximum (B, 3, 3) -> the maximum (B, 3, 3).

        It has the derivative of an implicit function: the gradient of F stays 0, so exp(w) with w = -H^-1 d(gradient)
        is what a change of the coefficients adds to the rotation.
        """
        rotation = quaternion_to_matrix(matrix_to_quaternion(rotation))  # without the products' rounding
        found = self._evaluate(expansion, rotation[:, None])[:, 0]
        step = _newton_step(found[:, 1:4], found[:, 4:], 1 / (self.lmax + 2))
        return rotation @ rotvec_to_matrix(step)

    def _evaluate(self, expansion: Tensor, rotation: Tensor) -> Tensor:
        """F, its gradient and Hessian, (B, C, 3, 3) -> (B, C, 10)."""
        return self.wigner(rotation) @ expansion.mT
