"""Orientations from distances by spectral methods: near enough for a descent on the loss to finish the work.

The symmetric matrices ``x_i = q_i q_i^T`` have ``<x_i, x_j> = <q_i, q_j>^2 = cos^2(d_ij / 2) = (1 + cos d_ij) / 2``, so
the kernel ``h(d) = 1 + 2 cos d = 4 <x_i, x_j> - 1`` of exact distances is a matrix of rank 10 at most. Whatever else h
of an estimated distance is, independent errors, independently wrong pairs and any monotone distortion of distances
between uniform orientations leave its expectation with the same leading eigenvectors: h is the character of the
representation of SO(3) on R^3, and a function of the angle alone acts as a number on each representation (Schur's
lemma; for Gaussian errors of deviation s that number is ``exp(-s^2 / 2)``).

Three steps, each cheaper by an order of magnitude than one look at all pairs:

1. The leading nine eigenvectors and the constant, by subspace iteration: ``H - mean(h)`` is now ``Z M Z^T``.
2. The projected power method, ``q_i <- leading eigenvector of sum_j h_ij q_j q_j^T`` (Boumal 2016, arXiv:1601.06114,
   for phases), from random starts, on Z M Z^T and some hundred particles. It maximises the correlation
   ``sum_ij h_ij (4 <q_i, q_j>^2 - 1)``, and its maximum spreads the views more evenly than they are. For uniform views
   nearly every start finds it, where they crowd around one direction about half of them do, around two one in ten; so
   starts are compared, and are more where they disagree.
3. Alternating least squares between a linear map from Z to symmetric matrices and the rank-one matrices nearest to its
   values, which has no such bias; but it goes astray where Z is noisy, and is taken only where it fits better.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .given_distances import Pairs

_CELLS = 256
_RANGES = 16
_EXTRA = 7
_SUBSET = 150

# Correlation of squared inner products above which two starts have found the same, and the share of the starts that
# must have found what fits best.
_SAME = 0.98
_AGREE = 0.4

_ROW, _COLUMN = torch.triu_indices(4, 4)


def monomials(q: Tensor) -> Tensor:
    """The ten different entries of q q^T, (..., 4) -> (..., 10)."""
    return q[..., _ROW] * q[..., _COLUMN]


def symmetric(entries: Tensor) -> Tensor:
    """The symmetric matrices with these entries on and above the diagonal, (..., 10) -> (..., 4, 4)."""
    out = entries.new_empty(*entries.shape[:-1], 4, 4)
    out[..., _ROW, _COLUMN] = entries
    out[..., _COLUMN, _ROW] = entries
    return out


def _leading(entries: Tensor) -> Tensor:
    """Leading eigenvectors of symmetric 4 x 4 matrices, (..., 10) -> (..., 4)."""
    return torch.linalg.eigh(symmetric(entries)).eigenvectors[..., -1]


def kernel(distances: Tensor) -> Tensor:
    """The table of h(d) less its mean, times the share of the right pairs, by cells of d; distances of a sample.

    Where half of the pairs are wrong, small distances are hardly ever right, since few pairs are close; nor are those
    that an estimator which saturates never gives. Wrong distances are taken to be as frequent everywhere as all are
    where these are rarest.
    """
    cell = math.pi / _CELLS
    centre = (torch.arange(_CELLS, dtype=torch.float64, device=distances.device) + 0.5) * cell
    frequency = torch.histc(distances.clamp(0, math.pi), _RANGES, 0, math.pi)
    share = 1 - frequency.min() / frequency.clamp_min(1)
    right = torch.nn.functional.interpolate(share[None, None], _CELLS, mode="linear")[0, 0]
    h = 1 + 2 * centre.cos()
    weights = _look_up(right, distances)
    return right * (h - (weights * _look_up(h, distances)).sum() / weights.sum().clamp_min(1e-9))


def _look_up(table: Tensor, distances: Tensor) -> Tensor:
    cell = (distances * (_CELLS / math.pi)).int().clamp_(0, _CELLS - 1)
    return table.index_select(0, cell.flatten()).view_as(distances)


def _off_diagonal(pairs: Pairs, table: Tensor, vectors: Tensor) -> Tensor:
    """The kernel matrix, 0 on its diagonal, times (P, k) vectors."""
    return pairs.sums(lambda _, d: [_look_up(table, d)], None, [vectors])[0]


class Subspace:
    """``Z M Z^T`` nearest to the kernel matrix of the pairs.

    Attributes:
        basis: (P, 10) Z, orthonormal; the constant is in its span.
        weights: (P, 10) Z M.
    """

    def __init__(self, pairs: Pairs, table: Tensor, generator: torch.Generator, sweeps: int = 100) -> None:
        # Particles with more pairs have longer rows; D^-1/2 H D^-1/2 has the eigenvectors D^1/2 x.
        root = pairs.degrees.sqrt()[:, None]
        constant = root[:, 0] / root.norm()

        def product(vectors: Tensor) -> Tensor:
            return _off_diagonal(pairs, table, vectors) + table[0] * vectors

        def deflated(vectors: Tensor) -> Tensor:
            image = product(vectors / root) / root
            return image - constant[:, None] * (constant @ image)

        start = torch.randn(pairs.particles, 9 + _EXTRA, generator=generator, dtype=torch.float64)
        vectors = torch.linalg.qr(start.to(root.device)).Q
        for _ in range(sweeps):
            image = deflated(vectors)
            inside = vectors.T @ image
            values, turn = torch.linalg.eigh((inside + inside.T) / 2)
            residual = ((image - vectors @ inside) @ turn[:, -9:]).norm(dim=0).max()
            vectors, last = torch.linalg.qr(image @ turn).Q, vectors @ turn
            if residual < 0.05 * values[-1]:
                break
        leading = last[:, -9:] / root
        self.basis = torch.linalg.qr(torch.cat([torch.ones_like(root), leading], 1)).Q
        # A random part of all pairs stands for all of them.
        share = 2 * pairs.count / (pairs.particles * (pairs.particles - 1))
        inside = self.basis.T @ product(self.basis) / share
        self.weights = self.basis @ ((inside + inside.T) / 2)

    def orientations(self, starts: int, generator: torch.Generator) -> Iterator[Tensor]:
        """(P, 4) unit quaternions: the maximum on which random starts agree; else all that they find, the best first.

        Of even views most starts find the same. Where few find the best, there are four times as many starts.
        """
        device = self.basis.device
        some = torch.randperm(len(self.basis), generator=generator)[:_SUBSET].to(device)
        basis, weights = self.basis[some], self.weights[some]
        inverse = torch.linalg.pinv(basis)
        i, j = torch.triu_indices(len(some), len(some), 1).to(device)
        entries = (weights @ basis.T)[i, j]

        def products(q: Tensor) -> Tensor:
            """Entries of the matrices of squared inner products, (starts, pairs)."""
            return (q @ q.mT).square()[:, i, j]

        def fit(q: Tensor) -> Tensor:
            return torch.corrcoef(torch.cat([products(q), entries[None]]))[-1, :-1]

        def climb(count: int) -> tuple[Tensor, Tensor, Tensor]:
            """(count, some, 4) where as many starts end, how well they fit, and whether by least squares."""
            start = torch.randn(count, len(some), 4, generator=generator, dtype=torch.float64).to(device)
            q = torch.nn.functional.normalize(start, dim=-1)
            for _ in range(20):
                q = _leading(weights @ (basis.T @ monomials(q)))
            alternated = q
            for _ in range(4):
                alternated = _leading(basis @ (inverse @ monomials(alternated)))
            powers, squares = fit(q), fit(alternated)
            better = squares > powers
            return torch.where(better[:, None, None], alternated, q), torch.maximum(powers, squares), better

        def alike(q: Tensor) -> Tensor:
            return torch.corrcoef(products(q)) > _SAME

        q, fits, by_squares = climb(starts)
        same = alike(q)
        left = same[fits.argmax()]
        if left.double().mean() < _AGREE:
            more = climb(3 * starts)
            q, fits, by_squares = (torch.cat(both) for both in zip((q, fits, by_squares), more, strict=True))
            same = alike(q)
            left = torch.ones_like(by_squares)
        for best in fits.argsort(descending=True).tolist():
            if not left[best]:
                continue
            left &= ~same[best]
            everywhere, here = (self.basis, inverse) if by_squares[best] else (self.weights, basis.T)
            whole = _leading(everywhere @ (here @ monomials(q[best])))
            for _ in range(2):
                whole = _leading(everywhere @ (self.basis.T @ monomials(whole)))
            yield whole


def placed(pairs: Pairs, table: Tensor, some: Tensor, q: Tensor) -> Tensor:
    """(P, 4) one step of the power method from some particles, whose orientations are known, to all."""
    values = torch.zeros(pairs.particles, 10, dtype=q.dtype, device=q.device)
    values[some] = monomials(q)
    everywhere = _leading(_off_diagonal(pairs, table, values))
    everywhere[some] = q
    return everywhere


def power_method(pairs: Pairs, table: Tensor, q: Tensor) -> Tensor:
    """Step 2 on the pairs themselves: where these are few, their eigenvectors are too noisy to be left at that."""
    for _ in range(20):
        following = _leading(_off_diagonal(pairs, table, monomials(q)))
        moved = 1 - (following * q).sum(1).square().mean()
        q = following
        if moved < 1e-3:
            break
    return q


def within_hemisphere(pairs: Pairs, generator: torch.Generator) -> Tensor:
    """(P, 4) quaternions of orientations all of which are within 90 degrees of each other.

    The sign of every inner product is then known, ``<q_i, q_j> = cos(d_ij / 2)``: a matrix of rank 4.
    """
    start = torch.randn(pairs.particles, 4 + _EXTRA, generator=generator, dtype=torch.float64)
    root = pairs.degrees.sqrt()[:, None]
    vectors = torch.linalg.qr(start.to(root.device)).Q
    for _ in range(30):
        image = pairs.sums(lambda _, d: [(d / 2).cos()], None, [vectors / root])[0] / root + vectors / root.square()
        values, turn = torch.linalg.eigh(vectors.T @ image)
        vectors, last = torch.linalg.qr(image @ turn).Q, vectors @ turn
    return torch.nn.functional.normalize(last[:, -4:] * values[-4:].clamp_min(0).sqrt() / root, dim=1)
