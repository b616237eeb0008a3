"""Wigner-D matrices: how real spherical harmonics turn with a rotation.

The basis of degree l are the real spherical harmonics Y_m in the order m = -l..l, without Condon-Shortley phase: for
m > 0 Y_m goes as cos(m azimuth) and Y_-m as sin(m azimuth), so degree 1 is (y, z, x). D^l(R) is the matrix with
Y(R x) = D^l(R) Y(x), hence D^l(A B) = D^l(A) D^l(B). With R = Rz(a) Ry(b) Rz(c) it is ``e3nn.o3.wigner_D(l, a, b, c)``
(whose axes have other names) and lie_learn's ``wigner_D_matrix(l, a, b, c, field="real", normalization="quantum",
order="centered", condon_shortley="cs")``; geometry's Euler angles are rot = -c, tilt = -b, psi = -a.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..constants import Constants, constant
from ..rotations import matrix_to_euler


@constant
def so3_generators(degree: int) -> Tensor:
    """X_a = d/dt D^l(exp(t e_a)) at t = 0 for a = x, y, z, real and antisymmetric, (3, 2l+1, 2l+1) float64."""
    m = torch.arange(-degree, degree + 1, dtype=torch.float64)
    up = ((degree - m[:-1]) * (degree + m[:-1] + 1)).sqrt().diag(-1)  # <m + 1| J+ |m>
    angular = torch.stack([(up + up.T) / 2, (up - up.T) / 2j, m.diag().to(torch.complex128)])
    # Rows: the real harmonics in terms of the complex ones, which carry the Condon-Shortley phase.
    real = torch.zeros(2 * degree + 1, 2 * degree + 1, dtype=torch.complex128)
    real[degree, degree] = 1
    for k in range(1, degree + 1):
        sign = (-1) ** k
        real[degree + k, [degree + k, degree - k]] = torch.tensor([sign, 1], dtype=torch.complex128) / 2**0.5
        real[degree - k, [degree + k, degree - k]] = torch.tensor([-1j * sign, 1j], dtype=torch.complex128) / 2**0.5
    return (real.conj() @ (-1j * angular) @ real.T).real


@constant
def _tables(lmax: int) -> tuple[Tensor, Tensor]:
    """What makes D of the Euler angles' sines and cosines: float64 (2, 2 lmax + 1, K) and indices (2, K).

    A turn about z mixes m with -m only, and one about y, d(b), mixes cosines among each other and sines among each
    other. So an entry of D is d_|m||n| times one product of sines and cosines of m a and n c, plus d_-|m|-|n| times
    another: here are the coefficients of d as a trigonometric polynomial, and which products.
    """
    width = 2 * lmax + 1  # cosines of 0..lmax times an angle, then sines of 1..lmax
    polynomials, products = [], []
    for degree in range(lmax + 1):
        # d(b) = exp(b X_y) = sum of exp(i k b) times the projectors on the eigenvectors of X_y
        vectors = torch.linalg.eigh(-1j * so3_generators(degree)[1]).eigenvectors.T[degree:]
        projectors = 2 * vectors[:, :, None] * vectors[:, None, :].conj()
        small = torch.zeros(width, 2 * degree + 1, 2 * degree + 1, dtype=torch.float64)
        small[: degree + 1] = projectors.real
        small[0] /= 2
        small[lmax + 1 : lmax + 1 + degree] = -projectors[1:].imag
        n, m = torch.cartesian_prod(*2 * [torch.arange(-degree, degree + 1)]).unbind(-1)
        row, column = m.abs(), n.abs()
        same = small[:, degree + row, degree + column] * torch.where(n < 0, -1, 1)
        crossed = small[:, degree - row, degree - column] * torch.where(m > 0, -1, 1) * (m * n != 0)
        polynomials.append(torch.stack([same, crossed]))
        a, c = (torch.where(sine, lmax + k, k) for sine, k in ((m < 0, row), (n < 0, column)))
        other_a, other_c = (torch.where(sine, lmax + k, k) for sine, k in ((m > 0, row), (n > 0, column)))
        products.append(torch.stack([a * width + c, other_a * width + other_c]))
    return torch.cat(polynomials, -1), torch.cat(products, -1)


def _multiples(angle: Tensor, lmax: int) -> Tensor:
    """Cosines of 0..lmax times the angle, then sines of 1..lmax, (...) -> (..., 2 lmax + 1)."""
    multiples = angle[..., None] * torch.arange(lmax + 1, dtype=angle.dtype, device=angle.device)
    return torch.cat([multiples.cos(), multiples[..., 1:].sin()], dim=-1)


class WignerD(Constants):
    """All entries of D^0 to D^lmax as one vector, (..., 3, 3) -> (..., K), K = (lmax + 1)(2 lmax + 1)(2 lmax + 3) / 3.

    Degree after degree, and inside a degree column after column: entry (m, n) of degree l is number
    (n + l) (2 l + 1) + m + l of its (2 l + 1)^2. A module, so that its tables follow the device.

    Differentiable away from tilt 0 and pi, where Euler angles have no derivative.
    """

    polynomials: Tensor
    products: Tensor

    def __init__(self, lmax: int) -> None:
        super().__init__()
        self.lmax = lmax
        polynomials, products = _tables(lmax)
        self.set_constants(polynomials=polynomials.float(), products=products)

    def forward(self, rotation: Tensor) -> Tensor:
        """Float32 or float64."""
        c, b, a = self._waves(rotation.reshape(-1, 3, 3))
        polynomials = self._polynomials(b)
        turns = (a[:, :, None] * c[:, None, :]).flatten(1)
        # index_select is fast of two dimensions only
        same, crossed = (turns.index_select(1, p) * (b @ t) for p, t in zip(self.products, polynomials, strict=True))
        return (same + crossed).reshape(*rotation.shape[:-2], polynomials.shape[-1])

    def series(self, coefficients: Tensor, rotation: Tensor) -> Tensor:
        """Sums of coefficients times entries, (B, K) and (B, M, 3, 3) -> (B, M), many times as fast for large M."""
        c, b, a = self._waves(rotation)
        table = coefficients.new_zeros(coefficients.shape[0], b.shape[-1], b.shape[-1] ** 2)
        for products, polynomials in zip(self.products, self._polynomials(b), strict=True):
            table = table.index_add(2, products, coefficients[:, None] * polynomials)
        return ((b @ table) * (a[..., :, None] * c[..., None, :]).flatten(-2)).sum(-1)

    def _waves(self, rotation: Tensor) -> tuple[Tensor, ...]:
        return _multiples(-matrix_to_euler(rotation), self.lmax).unbind(-2)

    def _polynomials(self, like: Tensor) -> Tensor:
        return (_tables(self.lmax)[0] if like.dtype == torch.float64 else self.polynomials).to(like)


def wigner_d(degree: int, rotation: Tensor) -> Tensor:
    """D^l(R), (..., 3, 3) -> (..., 2 l + 1, 2 l + 1); see the module for the basis.

    Differentiable away from tilt 0 and pi, where Euler angles have no derivative.

    Raises:
        ValueError: the degree is negative.
    """
    if degree < 0:
        raise ValueError(f"degree {degree}, expected 0 or more")
    size = 2 * degree + 1
    entries = WignerD(degree).to(rotation.device)(rotation)[..., -(size**2) :]
    return entries.unflatten(-1, (size, size)).mT
