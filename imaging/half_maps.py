"""Maps to compare images with, made of half maps: what these have in common, as far as it can be told."""

from __future__ import annotations

import torch
from torch import Tensor

from .fourier import rfft_shells
from .fsc import fourier_shell_correlation
from .masks import blurred, spherical_mask
from .reconstruct import Reconstruction
from .volumes import Volume

_MARGIN = 1.2  # diameters of the sphere that maps are cut to
_EDGE = 3.0  # voxels, of the sphere
_AROUND = 12.0  # voxels: the scale of the Gaussian in which half maps are compared around each
_BY_CHANCE, _NOTHING = 0.2, 1e-6  # correlation that noise may have there, and power that is nothing at all
_RESOLVED = 0.143  # correlation below which there is nothing (Rosenthal and Henderson 2003)


def half_references(made: Reconstruction, diameter: float) -> tuple[Volume, Volume]:
    """Either half map times its signal over signal and noise, for the poses of its own half-set.

    Args:
        made: the half maps.
        diameter: of the molecule in Angstrom.
    """
    share, fsc = agreement(made, diameter)
    first, second = (_weighted(_filtered(volume, fsc, diameter), share) for volume in made.half_maps)
    return first, second


def joined_reference(made: Reconstruction, diameter: float) -> Volume:
    """The mean of both half maps, as :func:`half_references`; it has half of their noise."""
    share, fsc = agreement(made, diameter)
    first, second = made.half_maps
    mean = Volume((first.data + second.data) / 2, first.pixel_size)
    return _weighted(_filtered(mean, _of_both(fsc), diameter), _of_both(share))


def agreement(made: Reconstruction, diameter: float) -> tuple[Tensor, Tensor]:
    """Signal over signal and noise of half maps: around every voxel (L, L, L), and of every shell where that is.

    Most of the sphere is empty, and its noise would be compared with images as if it were the molecule's; a mask would
    have to know where the molecule is weak. What half maps have in common around a voxel tells it as well.
    """
    first, second = (_filtered(volume, made.fsc, diameter).data for volume in made.half_maps)
    pixel_size = made.map.pixel_size
    common, power = (
        blurred(Volume(product, pixel_size), _AROUND * pixel_size)
        for product in (first * second, (first**2 + second**2) / 2)
    )
    share = torch.where(power > _NOTHING * power.max(), common / power, 0)
    share = ((share - _BY_CHANCE) / (1 - _BY_CHANCE)).clamp(0, 1)
    return share, fourier_shell_correlation(*(volume.data * share for volume in made.half_maps))


def _of_both(share: Tensor) -> Tensor:
    """Signal over signal and noise of the mean of two halves, of which either has this share."""
    share = share.clamp(0, 1)
    return 2 * share / (1 + share)


def _weighted(volume: Volume, weight: Tensor) -> Volume:
    return Volume(volume.data * weight, volume.pixel_size, reach=volume.reach)


def _filtered(volume: Volume, fsc: Tensor, diameter: float) -> Volume:
    """A map times its signal over signal and noise, for a half map the FSC, in a sphere about the molecule.

    At the rim of the sphere it is 0 on average: what junk puts everywhere would project to a disc.
    """
    signal = fsc.clamp(0, 1)
    first = int((fsc < _RESOLVED).nonzero()[0]) if (fsc < _RESOLVED).any() else len(fsc)
    signal[max(first, 2) :] = 0
    shells = rfft_shells(volume.size, 3, volume.data.device)
    factor = torch.cat([signal, signal.new_zeros(1)])[shells.clamp_max(len(signal))]
    spectrum = torch.fft.rfftn(volume.data) * factor.to(volume.data)
    data = torch.fft.irfftn(spectrum, s=volume.data.shape)
    radius = min(_MARGIN * diameter / 2 / volume.pixel_size, volume.size / 2 - _EDGE)
    inner, outer = (spherical_mask(volume.size, radius - edge, _EDGE).to(data) for edge in (_EDGE, 0.0))
    data = inner * (data - (data * (outer - inner)).sum() / (outer - inner).sum())
    return Volume(data, volume.pixel_size, reach=diameter / 2)
