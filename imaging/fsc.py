"""Fourier shell correlation of two volumes (or ring correlation of two images), its resolution, and what a mask adds.

Half maps that are multiplied by one mask correlate by that mask alone. How much is seen where there is nothing else to
correlate: the phases beyond some frequency are replaced by random ones, and the masked correlation that remains there
is taken off (Chen et al. 2013, Ultramicroscopy 135, 24).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .fourier import rfft_shells


def fourier_shell_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Correlation per shell of one Fourier voxel, FSC(s) = Re sum a b* / sqrt(sum |a|^2 sum |b|^2).

    Args:
        a: (L, ..., L) volume or image.
        b: the same shape.

    Returns:
        (L // 2 + 1,) shell 0 (the mean) to the Nyquist shell; an empty shell counts 0.
    """
    if a.shape != b.shape or len(set(a.shape)) != 1:
        raise ValueError(f"two cubes of one size are needed, got {tuple(a.shape)} and {tuple(b.shape)}")
    size = a.shape[0]
    shell = rfft_shells(size, a.ndim, a.device)
    fa, fb = torch.fft.rfftn(a.double()), torch.fft.rfftn(b.double())
    # Of the columns that the half-space has, the first, and the last of an even box, are their own conjugates.
    share = torch.full((size // 2 + 1,), 2.0, dtype=torch.float64, device=a.device)
    share[0] = 1
    if size % 2 == 0:
        share[-1] = 1

    def total(values: Tensor) -> Tensor:
        return torch.bincount(shell.flatten(), (values * share).flatten())[: size // 2 + 1]

    power = total(fa.abs() ** 2) * total(fb.abs() ** 2)
    return total((fa * fb.conj()).real) / power.clamp_min(torch.finfo(torch.float64).tiny).sqrt()


def resolution_at(fsc: Tensor, threshold: float, pixel_size: float, *, size: int | None = None) -> float:
    """Resolution in Angstrom where the curve first falls below ``threshold``, linear between shells.

    The last shell if never, which in an even box is at the Nyquist frequency.

    Args:
        fsc: (L // 2 + 1,) as :func:`fourier_shell_correlation` returns it.
        threshold: 0.143 between half maps (Rosenthal and Henderson 2003), 0.5 against a reference.
        pixel_size: Angstrom.
        size: L; without it the box is taken to be even.

    Raises:
        ValueError: the curve has values that are not finite.
    """
    if not fsc.isfinite().all():
        raise ValueError("the correlation is not finite in all shells, so there is no resolution to read off")
    box = pixel_size * (size or 2 * (len(fsc) - 1))
    below = (fsc[1:] < threshold).nonzero()
    if not len(below):
        return box / (len(fsc) - 1)
    shell = int(below[0]) + 1
    if shell == 1:
        return box
    high, low = float(fsc[shell - 1]), float(fsc[shell])
    return box / (shell - 1 + (high - threshold) / (high - low))


@dataclass(frozen=True)
class MaskedFSC:
    """Correlations of two half maps in one mask, each (L // 2 + 1,) float64.

    Attributes:
        unmasked: of the maps as they are.
        masked: inside the mask.
        randomised: inside the mask, of maps whose phases are random from shell ``randomised_from`` on.
        corrected: ``(masked - randomised) / (1 - randomised)``, not below 0, from two shells further on; before that
            ``masked``.
        randomised_from: the first shell where ``unmasked`` is below 0.8.
    """

    unmasked: Tensor
    masked: Tensor
    randomised: Tensor
    corrected: Tensor
    randomised_from: int


def masked_fsc(a: Tensor, b: Tensor, mask: Tensor, *, seed: int = 0) -> MaskedFSC:
    """FSC of half maps in a mask, corrected for the mask by phase randomisation; thresholds as in RELION.

    Args:
        a: (L, L, L) half map.
        b: the other one.
        mask: (L, L, L) from 0 to 1.
        seed: of the random phases.
    """
    unmasked, masked = fourier_shell_correlation(a, b), fourier_shell_correlation(a * mask, b * mask)
    below = (unmasked[1:] < 0.8).nonzero()
    start = int(below[0]) + 1 if len(below) else len(unmasked)
    generator = torch.Generator(a.device).manual_seed(seed)
    first, second = (randomise_phases(volume, start, generator) for volume in (a, b))
    randomised = fourier_shell_correlation(first * mask, second * mask)
    corrected = torch.where(masked > randomised, (masked - randomised) / (1 - randomised), 0)
    corrected[: start + 2] = masked[: start + 2]
    return MaskedFSC(unmasked, masked, randomised, corrected, start)


def randomise_phases(volume: Tensor, start: int, generator: torch.Generator) -> Tensor:
    """(L, L, L) with the same amplitudes, and from shell ``start`` on the phases of white noise."""
    noise = torch.fft.rfftn(torch.randn(volume.shape, generator=generator, dtype=torch.float64, device=volume.device))
    spectrum = torch.fft.rfftn(volume.double())
    beyond = rfft_shells(volume.shape[0], volume.ndim, volume.device) >= start
    return torch.fft.irfftn(torch.where(beyond, spectrum.abs() * noise / noise.abs(), spectrum), s=volume.shape)
