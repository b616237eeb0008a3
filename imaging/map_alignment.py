"""Laying one map over another: rotation, shift and hand.

All is done in Fourier space, where V(R^T (x - t)) is F[V](R^T k) exp(-2 pi i k t). Every rotation of a grid is tried
with every shift and both hands at low resolution; Gauss-Newton steps take the best of them further, with more and more
shells. What is maximised is the mean of the FSC over the shells, so that none outweighs another, and at last, when the
FSC is known, the likelihood.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from ..geometry.distances import geodesic_distance
from ..geometry.grids import so3_grid
from ..geometry.rotations import rotvec_to_matrix
from .fourier import centred_fft, centred_ifft, crop_or_zero_pad, shell_number
from .fourier_table import FourierTable
from .fsc import fourier_shell_correlation, resolution_at
from .gauss_newton import FIRST_DAMPING, damped_step, next_damping
from .volumes import Volume

_BOX = 64  # voxels; larger boxes are coarsened to this for the search
_MIRROR_BOX = 128  # voxels; the same where a map is compared with its mirror image
_GRID_ORDER = 2  # rotations 15 degrees apart
_GRID_SHELLS = 8  # that are compared with them
_BLOCK = 256  # of them at a time
_STAGES = ((32, 8), (4, 16), (1, None))  # candidates of either hand, and the shells to which they are refined
_STEPS = 8
_TRUSTED = 0.143  # FSC; shells from where it falls below are not used in the end
_MIRROR = torch.diag(torch.tensor([1.0, 1.0, -1.0]))  # as in geometry.alignment


@dataclass(frozen=True)
class MapAlignment:
    """What :func:`align_map` found: what is at x in the moving map is at ``rotation @ x + shift`` in the reference.

    Where ``mirrored`` it is at ``rotation @ M @ x + shift``, M = diag(1, 1, -1). An image of the moving map from P with
    its content shifted by s is one of the aligned map from ``Q = P @ rotation.T``, or ``M @ P @ M @ rotation.T``, with
    its content shifted by ``s - (Q @ shift)[:2]``.

    Attributes:
        rotation: (3, 3) float64.
        shift: (3,) float64, xyz in Angstrom.
        mirrored: whether the mirrored hand fits better.
        correlation: Pearson's, of the voxels of the aligned map and the reference.
        aligned: the moving map in the frame of the reference.
    """

    rotation: Tensor
    shift: Tensor
    mirrored: bool
    correlation: float
    aligned: Volume


@dataclass(frozen=True)
class _Placements:
    """B ways to lay the moving map: rotations (B, 3, 3), shifts (B, 3) in boxes, mirrored (B,)."""

    rotation: Tensor
    shift: Tensor
    mirrored: Tensor

    def __getitem__(self, rows: Tensor | slice) -> _Placements:
        return _Placements(self.rotation[rows], self.shift[rows], self.mirrored[rows])

    def frame(self) -> Tensor:
        """(B, 3, 3) rotation and mirror."""
        return torch.where(self.mirrored[:, None, None], self.rotation @ _MIRROR.to(self.rotation), self.rotation)


def align_map(moving: Volume, reference: Volume, *, mirror: bool = True) -> MapAlignment:
    """Find the rotation, the shift and the hand with which ``moving`` fits ``reference`` best; deterministic.

    Where several fit equally well, as with symmetric molecules, it is one of them.

    Args:
        moving: a map.
        reference: a map of the same box and voxels.
        mirror: try the other hand too.

    Raises:
        ValueError: the maps differ in box or voxels, or one is constant or not finite.
    """
    _check(moving, reference)
    size = min(moving.size, _BOX)
    spectra = _spectrum(moving.data, size), _spectrum(reference.data, size)
    found = _found(*spectra, so3_grid(_GRID_ORDER), mirror)
    rotation, shift = found.rotation[0].double(), found.shift[0].double() * moving.size * moving.pixel_size
    mirrored = bool(found.mirrored[0])
    aligned = transform_map(moving, rotation, shift, mirrored=mirrored)
    a, b = (volume.data.double() - volume.data.double().mean() for volume in (aligned, reference))
    return MapAlignment(rotation, shift, mirrored, float((a * b).sum() / (a.norm() * b.norm())), aligned)


def self_alignment(volume: Volume, turns: Tensor, within: float) -> tuple[Tensor, Tensor]:
    """The turn and the shift that lay a map best over itself, ``within`` radians of one of ``turns``, (N, 3, 3).

    Returns:
        (3, 3) float64 and (3,) in Angstrom: what is at x is at ``rotation @ x + shift`` after them.
    """
    spectrum = _spectrum(volume.data, min(volume.size, _BOX))
    found = _found(spectrum, spectrum, turns, mirror=False, within=within)
    return found.rotation[0].double(), found.shift[0].double() * volume.size * volume.pixel_size


def mirror_resolution(volume: Volume) -> float:
    """Angstrom to which a map is its own mirror image, in whatever plane: where they correlate to 0.5.

    No molecule of amino or nucleic acids is so to fine detail. Maps learnt from images alone may be: the outlines of a
    projection and of its mirror image are alike, and poses can settle in between (Levy et al. 2022, arXiv:2203.08138).
    """
    volume = volume.coarsen(min(volume.size, _MIRROR_BOX))
    mirrored = Volume(volume.data.flip(0), volume.pixel_size)
    laid = align_map(mirrored, volume, mirror=False).aligned
    curve = fourier_shell_correlation(laid.data, volume.data.to(laid.data))
    return resolution_at(curve, 0.5, volume.pixel_size, size=volume.size)


def transform_map(volume: Volume, rotation: Tensor, shift: Tensor, *, mirrored: bool = False) -> Volume:
    """Rotate a map and then shift it, after mirroring it at z = 0 if asked; its corners in Fourier space become zero.

    Args:
        volume: the map.
        rotation: (3, 3).
        shift: (3,) in Angstrom, xyz.
        mirrored: mirror it first.
    """
    size = volume.size
    placement = _Placements(rotation[None], shift[None] / (size * volume.pixel_size), torch.tensor([mirrored]))
    last = (size - 1) // 2
    table = _Table(volume.data, last)
    spectrum = torch.zeros(size, size, size // 2 + 1, dtype=torch.complex64)
    ky = torch.fft.fftfreq(size, 1 / size).round().long()
    for plane in ky.tolist():
        y, x = torch.meshgrid(ky, ky[: last + 1], indexing="ij")
        inside = plane**2 + y**2 + x**2 <= last**2
        k = torch.stack([x, y, torch.full_like(x, plane)], -1)[inside].float()
        spectrum[plane][:, : last + 1][inside] = table.placed(k, placement)[0, :, 0]
    return Volume(torch.fft.fftshift(torch.fft.irfftn(spectrum, s=(size,) * 3)), volume.pixel_size)


def _found(moving: Tensor, reference: Tensor, grid: Tensor, mirror: bool, within: float = torch.pi) -> _Placements:
    """The best way to lay a map with one spectrum over one with another, from rotations (N, 3, 3)."""
    last = (len(moving) - 1) // 2
    table = _Table(centred_ifft(moving), last, gradient=True)
    found = _searched(_Shells(moving, reference, min(_GRID_SHELLS, last)), table, grid.float(), mirror)
    for candidates, shells in _STAGES:
        # The best come first. Some of either hand are kept, for at low resolution the hands differ by little.
        kept = torch.cat([(found.mirrored == hand).nonzero()[:candidates, 0] for hand in (False, True)])
        found = found[kept.sort().values]
        compared = _Shells(moving, reference, min(shells or last, last))
        if shells is None:
            compared = compared.weighted(compared.correlations(table, found[:1])[0])
        found, before = _refined(compared, table, found), found
        near = geodesic_distance(found.rotation[:, None].double(), grid.double()).amin(1) <= within
        found = found[near] if near.any() else before
    return found


def _check(moving: Volume, reference: Volume) -> None:
    for name, volume in (("moving", moving), ("reference", reference)):
        if len(set(volume.data.shape)) > 1:
            raise ValueError(f"{name}: {' x '.join(map(str, volume.data.shape))} voxels, expected a cube")
        if not volume.data.isfinite().all():
            raise ValueError(f"{name}: voxels that are NaN or infinite")
        if volume.data.min() == volume.data.max():
            raise ValueError(f"{name}: a constant map, which fits in any orientation")
    if moving.size != reference.size or abs(moving.pixel_size / reference.pixel_size - 1) > 0.01:
        sizes = [f"{volume.size} voxels of {volume.pixel_size:g} A" for volume in (moving, reference)]
        raise ValueError(f"moving: {sizes[0]}; expected {sizes[1]} as in the reference")


def _spectrum(data: Tensor, size: int) -> Tensor:
    """(L, L, L) -> (size, size, size) the lowest frequencies, both with their origin at the centre."""
    return crop_or_zero_pad(centred_fft(data.float()), size)


class _Table(FourierTable):
    """The transform of the moving map wherever it is laid."""

    def at(self, k: Tensor, frame: Tensor, *, gradient: bool = False) -> Tensor:
        """F[V](frame^T k) for frequencies (P, 3), xyz in steps of the box, and (B, 3, 3) -> (B, P, channels)."""
        return self(k @ frame, gradient=gradient)

    def placed(self, k: Tensor, placements: _Placements, *, gradient: bool = False) -> Tensor:
        """The transform of the placed map; with ``gradient`` also the table's derivatives. (B, P, channels)"""
        angle = -2 * torch.pi * placements.shift.to(k) @ k.T
        values = self.at(k, placements.frame().to(k), gradient=gradient)
        return values * torch.polar(torch.ones_like(angle), angle)[:, :, None]


class _Shells:
    """Two maps in the shells from 1 to ``shells``, each scaled to weigh as much as any other.

    Attributes:
        shells: how many.
        k: (P, 3) frequencies of half a ball, xyz in steps of the box.
        reference: (P,) the transform of the reference there; its squares sum to 1.
        scale: (P,) factors that do the same to the moving map.
    """

    def __init__(self, moving: Tensor, reference: Tensor, shells: int) -> None:
        axis = torch.arange(-shells, shells + 1)
        z, y, x = torch.meshgrid(axis, axis, axis[shells:], indexing="ij")
        self._shell = shell_number(x**2 + y**2 + z**2)
        half = (x > 0) | (y > 0) | ((y == 0) & (z > 0))
        inside = half & (self._shell >= 1) & (self._shell <= shells)
        self._shell = self._shell[inside]
        self.shells = shells
        self.k = torch.stack([x, y, z], -1)[inside].float()
        centre = len(reference) // 2
        place = tuple(centre + axis[inside] for axis in (z, y, x))
        self.scale = self._normalising(moving[place])
        self.reference = reference[place] * self._normalising(reference[place])

    def _normalising(self, values: Tensor) -> Tensor:
        power = torch.bincount(self._shell - 1, values.abs().double() ** 2) * self.shells
        return power.clamp_min(torch.finfo(torch.float32).tiny).rsqrt().float()[self._shell - 1]

    def correlations(self, table: _Table, placements: _Placements) -> Tensor:
        """FSC of the placed maps and the reference, (B, shells)."""
        products = (self.reference.conj() * self.scale * table.placed(self.k, placements)[:, :, 0]).real * self.shells
        return products.new_zeros(len(products), self.shells).index_add(1, self._shell - 1, products)

    def weighted(self, fsc: Tensor) -> _Shells:
        """The same, every sample weighted with what it tells, where the maps' correlation is ``fsc``, (shells,).

        Of two normal variables of unit variance and correlation c the log-likelihood has their product times
        c / (1 - c^2).
        """
        ends = (fsc < _TRUSTED).nonzero()
        fsc = fsc.clamp(0, 0.99)
        if len(ends):
            fsc[max(int(ends[0]), 1) :] = 0
        fsc[0] = fsc[0].clamp_min(1e-6)  # where they agree nowhere, it is the only shell that is compared
        share = (self._shell - 1).bincount() * fsc / (1 - fsc**2)
        factor = (share * self.shells / share.sum()).sqrt()[self._shell - 1]
        new = copy(self)
        new.scale, new.reference = self.scale * factor, self.reference * factor
        return new


def _searched(compared: _Shells, table: _Table, grid: Tensor, mirror: bool) -> _Placements:
    """All rotations of a grid, in either hand, with their best shifts; the best first."""
    size = 2 * compared.shells + 2
    x, y, z = compared.k.long().unbind(-1)
    place = ((z % size) * size + y % size) * (size // 2 + 1) + x
    # irfftn counts samples with x > 0 twice, for their conjugates; with x = 0 it expects these, and finds zeros.
    target = compared.reference * compared.scale * torch.where(x == 0, 2, 1)
    scores, cells = [], []
    for block in grid.split(_BLOCK):
        seen = table.at(compared.k, block)[:, :, 0]
        # Inversion takes the conjugate; it is the mirror after half a turn about z.
        seen = torch.stack([seen, seen.conj()] if mirror else [seen])
        cross = torch.zeros(*seen.shape[:2], size * size * (size // 2 + 1), dtype=torch.complex64)
        cross[:, :, place] = target * seen.conj()
        cross = cross.unflatten(-1, (size, size, size // 2 + 1))
        best = torch.fft.irfftn(cross, s=(size,) * 3).flatten(2).max(-1)
        scores.append(best.values)
        cells.append(best.indices)
    order = torch.cat(scores, 1).flatten().argsort(descending=True, stable=True)
    cell = torch.cat(cells, 1).flatten()[order]
    shift = torch.stack([cell % size, cell // size % size, cell // size**2], -1)
    shift = ((shift + size // 2) % size - size // 2) / size
    mirrored = order >= len(grid)
    rotation = torch.cat([grid, grid @ -_MIRROR])[order]
    return _Placements(rotation, shift, mirrored)


def _refined(compared: _Shells, table: _Table, placed: _Placements) -> _Placements:
    """Damped Gauss-Newton steps in rotation and shift on |reference - a * placed|^2, a the best factor; best first."""
    k, reference = compared.k, compared.reference[:, None]

    def look(at: _Placements) -> tuple[Tensor, Tensor]:
        values = table.placed(k, at, gradient=True) * compared.scale[:, None]
        return values, (reference.conj() * values[:, :, :1]).real.sum((1, 2))

    values, score = look(placed)
    damping = torch.full_like(score, FIRST_DAMPING)
    for _ in range(_STEPS):
        here, slope = values[:, :, :1], values[:, :, 1:]
        # frame^T k changes by frame^T (k x w) when the rotation is followed by a small one about w.
        slope = slope @ placed.frame().mT.to(slope)
        jacobian = torch.cat([torch.linalg.cross(slope, k.to(slope).expand_as(slope)), -2j * torch.pi * k * here], -1)
        factor = score / (here.abs() ** 2).sum((1, 2))
        residual = reference / factor.clamp_min(0.05)[:, None, None] - here
        step = damped_step((jacobian.mH @ jacobian).real, (jacobian.mH @ residual).real[:, :, 0], damping)
        turned = rotvec_to_matrix(step[:, :3].double()) @ placed.rotation.double()
        trial = _Placements(turned, placed.shift + step[:, 3:], placed.mirrored)
        trial_values, trial_score = look(trial)
        better = trial_score > score
        chosen = better[:, None, None]
        placed = _Placements(
            torch.where(chosen, trial.rotation, placed.rotation.double()),
            torch.where(better[:, None], trial.shift, placed.shift),
            placed.mirrored,
        )
        values, score = torch.where(chosen, trial_values, values), torch.where(better, trial_score, score)
        damping = next_damping(damping, better)
    return placed[score.argsort(descending=True, stable=True)]
