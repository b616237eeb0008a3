"""Real functions on SO(3) as harmonic series, and their values on a grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..constants import Constants
from ..grids import so3_grid
from ..rotations import rotvec_to_matrix
from .wigner import WignerD


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


class SO3Series(Constants):
    """F(R) = sum of f^l_mn D^l_mn(R) over l = 0..lmax on a grid, for coefficients (B, K) in :class:`WignerD`'s order.

    On the grid R = Rz(-k step) R_p, with a rotation R_p for each of P directions and k the in-plane angle. The first
    factor mixes only m with -m, so F is a Fourier series in the in-plane angle, and one matrix product for each |m|
    gives its amplitudes at all directions: 15 times fewer products than the dense K x N matrix at lmax 6 and order 3,
    and a 24th of its numbers. The values are those of float32 tables, also in float64.

    Args:
        lmax: highest degree.
        order: of the grid (:func:`cryozoo.geometry.grids.so3_grid`).
    """

    directions: Tensor
    turns: Tensor
    by_order: Tensor
    tables: Tensor
    waves: Tensor

    def __init__(self, lmax: int, order: int) -> None:
        super().__init__()
        self.lmax = lmax
        self.order = order
        n_psi = 6 * 2**order
        self.counts = [(2 if k else 1) * sum(2 * degree + 1 for degree in range(k, lmax + 1)) for k in range(lmax + 1)]
        directions = so3_grid(order)[::n_psi]
        at_directions = WignerD(lmax)(directions)
        steps = torch.arange(n_psi, dtype=torch.float64) * (2 * torch.pi / n_psi)
        m = torch.cat([torch.arange(-k, k + 1).repeat(2 * k + 1) for k in range(lmax + 1)])
        mirrored = join_degrees([block.flip(-1) for block in split_degrees(at_directions, lmax)])
        by_order = m.abs().argsort(stable=True)
        # F = sum of f_m (cos(m k step) D_m + sin(m k step) D_-m)
        amplitudes = torch.stack([at_directions, mirrored * torch.where(m < 0, -1, 1)], 1)
        waves = [f(k * steps) for k in range(lmax + 1) for f in ((torch.cos, torch.sin) if k else (torch.cos,))]
        self.set_constants(
            directions=directions.float(),
            turns=rotvec_to_matrix(steps[:, None] * torch.tensor([0.0, 0, -1], dtype=torch.float64)).float(),
            by_order=by_order,
            tables=amplitudes[..., by_order].permute(2, 1, 0).flatten(1).float().contiguous(),
            waves=torch.stack(waves).float(),
        )

    def __len__(self) -> int:
        """Points of the grid."""
        return len(self.directions) * len(self.turns)

    @property
    def spacing(self) -> float:
        """Angle between neighbours in radians, 60 / 2^order degrees."""
        return math.radians(60 / 2**self.order)

    def grid(self, index: Tensor) -> Tensor:
        """Rotations of the grid, (...) -> (..., 3, 3)."""
        n_psi = len(self.turns)
        return self.turns[index % n_psi] @ self.directions[index // n_psi]

    def amplitudes(self, coefficients: Tensor) -> Tensor:
        """Of the Fourier series in the in-plane angle at all P directions, (B, K) -> (B, 2 lmax + 1, P)."""
        f = coefficients.index_select(1, self.by_order).split(self.counts, 1)
        tables = self.tables.to(coefficients.dtype).split(self.counts)
        cosines = f[0] @ tables[0][:, : len(self.directions)]
        rows = torch.cat([cosines, *(x @ table for x, table in zip(f[1:], tables[1:], strict=True))], 1)
        return rows.unflatten(1, (2 * self.lmax + 1, -1))

    def from_amplitudes(self, amplitudes: Tensor) -> Tensor:
        """F on the grid, (B, 2 lmax + 1, P) -> (B, N) in the order of ``so3_grid``."""
        return (amplitudes.mT @ self.waves.to(amplitudes.dtype)).flatten(1)

    def values(self, coefficients: Tensor) -> Tensor:
        """F on the grid, (B, K) -> (B, N) in the order of ``so3_grid``."""
        return self.from_amplitudes(self.amplitudes(coefficients))

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """Tensors (B, ...) in chunks of so many images that their values on the grid stay in a processor's cache.

        Amplitudes are best had of a whole batch first.
        """
        if torch.compiler.is_compiling():  # exported programs have no loop over a batch of any size
            return (x,)
        return x.split(max(1, 2 ** (19 if x.device.type == "cpu" else 26) // len(self)))
