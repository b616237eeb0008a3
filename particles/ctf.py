"""Contrast transfer function of the electron microscope, in RELION's convention (positive at low spatial frequency).

    CTF(k) = sin(gamma(k) + phase_shift + asin(Q)) exp(-B |k|^2 / 4)
    gamma(k) = pi lambda |k|^2 D(azimuth) - (pi / 2) Cs lambda^3 |k|^4
    D(azimuth) = (U + V) / 2 + (U - V) / 2 cos(2 (azimuth - angle))

with Q the amplitude contrast and underfocus U, V positive: a bright particle stays bright. cryoDRGN and ASPIRE use the
negative. Units here are those of a STAR file: Angstrom, degrees, kV, mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def electron_wavelength(voltage: Tensor) -> Tensor:
    """Relativistic de Broglie wavelength in Angstrom for an acceleration voltage in kV."""
    volts = voltage * 1e3
    # h / sqrt(2 m e V (1 + e V / (2 m c^2))), CODATA constants folded into two numbers.
    return 12.2642596 / torch.sqrt(volts * (1 + 0.978475598e-6 * volts))


# What a microscope and its images can have: lowest, highest, unit. Beyond, a column is damaged or in another unit.
_LIMITS = {
    "defocus_u": (-1e6, 1e6, "Angstrom"),
    "defocus_v": (-1e6, 1e6, "Angstrom"),
    "defocus_angle": (-720, 720, "degrees"),
    "voltage": (10, 3000, "kV"),
    "spherical_aberration": (-100, 100, "mm"),
    "amplitude_contrast": (0, 1, "(a fraction)"),
    "phase_shift": (-720, 720, "degrees"),
    "b_factor": (-1000, 1e5, "Angstrom^2"),
}
_LEAST_DEFOCUS = 100  # Angstrom; of a whole table it is in micrometres


@dataclass(frozen=True)
class CTF:
    """CTF parameters of B images, each a tensor (B,) of any floating-point type, in the units of a STAR file.

    Attributes:
        defocus_u: larger defocus in Angstrom, underfocus positive.
        defocus_v: smaller defocus in Angstrom.
        defocus_angle: degrees from the x axis to the direction of ``defocus_u``.
        voltage: kV.
        spherical_aberration: mm.
        amplitude_contrast: fraction, 0 to 1.
        phase_shift: degrees (phase plate).
        b_factor: Angstrom^2, an envelope exp(-B k^2 / 4).
    """

    defocus_u: Tensor
    defocus_v: Tensor
    defocus_angle: Tensor
    voltage: Tensor
    spherical_aberration: Tensor
    amplitude_contrast: Tensor
    phase_shift: Tensor
    b_factor: Tensor

    def __len__(self) -> int:
        return len(self.defocus_u)

    def __getitem__(self, index: Tensor | NDArray[np.int64] | slice) -> Self:
        return type(self)(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def impossible(self) -> tuple[str, int, str] | None:
        """The first value that no microscope can have: its field, its row and what is expected; None if there is none.

        RELION refuses an amplitude contrast outside of 0 to 1, too: the arcsine of it is not a number.
        """
        for name, (low, high, unit) in _LIMITS.items():
            values = getattr(self, name)
            if len(wrong := ((values < low) | (values > high)).nonzero()):
                return name, int(wrong[0]), f"{low:g} to {high:g} {unit}"
        if len(self) and 0 < float(self.defocus_u.abs().median()) < _LEAST_DEFOCUS:
            return "defocus_u", int(self.defocus_u.abs().argmax()), "Angstrom; a micrometre is 10,000 of them"
        return None

    def to(self, *where: Any) -> Self:
        """The same on another device or in another floating-point type, as ``Tensor.to`` takes them."""
        return type(self)(**{f.name: getattr(self, f.name).to(*where) for f in fields(self)})

    @classmethod
    def join(cls, parts: Sequence[CTF]) -> CTF:
        """Those of several batches, one after the other."""
        return cls(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)})

    def __call__(self, frequency: Tensor) -> Tensor:
        """Evaluate at spatial frequencies.

        Args:
            frequency: (..., 2), (x, y) in 1/Angstrom, shared by the batch.

        Returns:
            (B, ...) the CTF, dimensionless.
        """
        extra = frequency.ndim - 1

        def column(value: Tensor) -> Tensor:
            return value.to(frequency)[(...,) + (None,) * extra]

        k2 = (frequency**2).sum(-1)
        azimuth = torch.atan2(frequency[..., 1], frequency[..., 0])
        u, v = column(self.defocus_u), column(self.defocus_v)
        defocus = (u + v) / 2 + (u - v) / 2 * torch.cos(2 * (azimuth - torch.deg2rad(column(self.defocus_angle))))
        wavelength = column(electron_wavelength(self.voltage.double()))
        cs = column(self.spherical_aberration) * 1e7
        gamma = torch.pi * wavelength * k2 * (defocus - 0.5 * cs * wavelength**2 * k2)
        phase = torch.deg2rad(column(self.phase_shift)) + torch.asin(column(self.amplitude_contrast))
        return torch.sin(gamma + phase) * torch.exp(-column(self.b_factor) / 4 * k2)


class CTFModulus(CTF):
    """What has become of the CTF of images whose phases were flipped."""

    def __call__(self, frequency: Tensor) -> Tensor:
        """As that of a CTF, without its sign."""
        return super().__call__(frequency).abs()


class CTFSquare(CTF):
    """What has become of the CTF of images that were multiplied by it."""

    def __call__(self, frequency: Tensor) -> Tensor:
        """As that of a CTF, squared."""
        return super().__call__(frequency).square()


def make_ctf(
    n: int,
    *,
    defocus_u: Tensor | float = 15000.0,
    defocus_v: Tensor | float | None = None,
    defocus_angle: Tensor | float = 0.0,
    voltage: Tensor | float = 300.0,
    spherical_aberration: Tensor | float = 2.7,
    amplitude_contrast: Tensor | float = 0.1,
    phase_shift: Tensor | float = 0.0,
    b_factor: Tensor | float = 0.0,
) -> CTF:
    """CTF of ``n`` images from numbers (shared by all) or (n,) tensors; ``defocus_v`` defaults to ``defocus_u``."""

    def column(value: Tensor | float) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float32).expand(n)

    return CTF(
        column(defocus_u),
        column(defocus_u if defocus_v is None else defocus_v),
        column(defocus_angle),
        column(voltage),
        column(spherical_aberration),
        column(amplitude_contrast),
        column(phase_shift),
        column(b_factor),
    )
