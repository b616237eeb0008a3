"""Fourier shell correlation of two volumes (or ring correlation of two images)."""

from __future__ import annotations

import torch
from torch import Tensor


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
    size, dims = a.shape[0], a.ndim
    axis = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    radius = sum(k**2 for k in torch.meshgrid(*[axis] * dims, indexing="ij"))
    shell = torch.as_tensor(radius).sqrt().round().long().flatten()
    fa, fb = torch.fft.fftn(a.double()).flatten(), torch.fft.fftn(b.double()).flatten()

    def total(values: Tensor) -> Tensor:
        return torch.bincount(shell, values)[: size // 2 + 1]

    power = total(fa.abs() ** 2) * total(fb.abs() ** 2)
    return total((fa * fb.conj()).real) / power.clamp_min(torch.finfo(torch.float64).tiny).sqrt()


def resolution_at(fsc: Tensor, threshold: float, pixel_size: float) -> float:
    """Resolution in Angstrom where the curve first falls below ``threshold``, linear between shells; Nyquist if never.

    Args:
        fsc: (L // 2 + 1,) as :func:`fourier_shell_correlation` returns it.
        threshold: 0.143 between half maps (Rosenthal and Henderson 2003), 0.5 against a reference.
        pixel_size: Angstrom.
    """
    box = 2 * (len(fsc) - 1)
    below = (fsc[1:] < threshold).nonzero()
    if not len(below):
        return 2 * pixel_size
    shell = int(below[0]) + 1
    if shell == 1:
        return box * pixel_size
    high, low = float(fsc[shell - 1]), float(fsc[shell])
    return box * pixel_size / (shell - 1 + (high - threshold) / (high - low))
