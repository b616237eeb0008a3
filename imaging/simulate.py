"""Simulated particle images with known poses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from ..geometry.pose import Pose
from ..geometry.sampling import random_rotations
from ..particles.ctf import CTF, make_ctf
from ..particles.errors import BadInput
from .batch import Batch
from .projector import Projector
from .volumes import Volume


@dataclass(frozen=True)
class Imaging:
    """How simulated particles are imaged.

    Attributes:
        snr: variance of the CTF-ed, shifted projection inside the inscribed circle, averaged over random poses, over
            the variance of the white Gaussian noise; None adds no noise.
        shift_sigma: standard deviation of the normal shift along x and y, in Angstrom.
        defocus: (lowest, highest) defocus in Angstrom, uniform; None images without a CTF.
        astigmatism: largest difference between defocus U and V in Angstrom, uniform from 0.
        voltage: kV.
        spherical_aberration: mm.
        amplitude_contrast: fraction.
        b_factor: Angstrom^2.

    Raises:
        BadInput: a value that cannot be.
    """

    snr: float | None = None
    shift_sigma: float = 0.0
    defocus: tuple[float, float] | None = None
    astigmatism: float = 0.0
    voltage: float = 300.0
    spherical_aberration: float = 2.7
    amplitude_contrast: float = 0.1
    b_factor: float = 0.0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Imaging:
        """Make it from plain data (lists for ranges); an unknown name raises BadInput with the known ones."""
        known = [f.name for f in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise BadInput("imaging", f"unknown field {unknown[0]!r}", expected=f"one of {', '.join(known)}")
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        try:
            return cls(**plain)
        except TypeError as error:
            raise BadInput("imaging", f"a value of the wrong kind: {error}", expected="numbers") from None

    def __post_init__(self) -> None:
        # Written so that NaN, which compares with nothing, is refused.
        possible = {
            "snr": (self.snr is None or 0 < self.snr < math.inf, "a positive number, or None for no noise"),
            "shift_sigma": (0 <= self.shift_sigma < math.inf, "0 or more Angstrom"),
            "defocus": (
                self.defocus is None or (len(self.defocus) == 2 and 0 < self.defocus[0] <= self.defocus[1] < math.inf),
                "(lowest, highest) in Angstrom, underfocus positive; or None for no CTF",
            ),
            "astigmatism": (0 <= self.astigmatism < math.inf, "0 or more Angstrom"),
            "voltage": (10 < self.voltage < 3000, "between 10 and 3000 kV"),
            "spherical_aberration": (0 <= self.spherical_aberration < math.inf, "0 or more mm"),
            "amplitude_contrast": (0 <= self.amplitude_contrast <= 1, "0 to 1"),
            "b_factor": (0 <= self.b_factor < math.inf, "0 or more Angstrom^2"),
        }
        for name, (fine, expected) in possible.items():
            if not fine:
                raise BadInput("imaging", f"{getattr(self, name)}", where=name, expected=expected)


def inscribed_circle(size: int) -> Tensor:
    """(L, L) boolean mask of the pixels within L / 2 of the origin at pixel L // 2."""
    axis = torch.arange(size) - size // 2
    return axis[:, None] ** 2 + axis**2 <= (size / 2) ** 2


class Simulator(nn.Module):
    """Draws particles of one volume; the same seed gives the same noise level, a generator the same particles.

    Args:
        volume: the object.
        imaging: noise, shifts and CTF.
        image_size: pixels; default the volume's box.
        pixel_size: Angstrom; default the volume's.
    """

    def __init__(
        self,
        volume: Volume,
        imaging: Imaging,
        *,
        image_size: int | None = None,
        pixel_size: float | None = None,
    ) -> None:
        super().__init__()
        self.imaging = imaging
        self.projector = Projector(volume, image_size=image_size, pixel_size=pixel_size)
        self.noise_sigma = 0.0
        if imaging.snr is not None:
            reference = torch.Generator().manual_seed(0)
            clean = self._clean(256, reference).images[:, 0]
            inside = clean[:, inscribed_circle(self.projector.image_size).to(clean.device)]
            self.noise_sigma = float((inside.var(dim=1).mean() / imaging.snr).sqrt())

    def forward(self, n: int, generator: torch.Generator | None = None, *, noise: float = 1.0) -> Batch:
        """Draw ``n`` particles with uniform orientations, with this share of the simulator's noise."""
        clean = self._clean(n, generator)
        images = self.add_noise(clean.images, generator, share=noise)
        return Batch(images, clean.pose, clean.ctf)

    def add_noise(self, images: Tensor, generator: torch.Generator | None = None, *, share: float = 1.0) -> Tensor:
        """The images plus white noise at this share of the simulator's level."""
        if not self.noise_sigma:
            return images
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        return images + share * self.noise_sigma * noise

    def random_ctf(self, n: int, generator: torch.Generator | None = None) -> CTF | None:
        """CTF parameters of ``n`` images."""
        imaging, device = self.imaging, self.projector.frequency.device
        if imaging.defocus is None:
            return None
        lowest, highest = imaging.defocus
        u, spread, angle = torch.rand(3, n, generator=generator, device=device)
        mean = lowest + (highest - lowest) * u
        half = imaging.astigmatism * spread / 2
        return make_ctf(
            n,
            defocus_u=mean + half,
            defocus_v=mean - half,
            defocus_angle=180 * angle,
            voltage=imaging.voltage,
            spherical_aberration=imaging.spherical_aberration,
            amplitude_contrast=imaging.amplitude_contrast,
            b_factor=imaging.b_factor,
        )

    @torch.no_grad()
    def _clean(self, n: int, generator: torch.Generator | None) -> Batch:
        device = self.projector.frequency.device
        rotation = random_rotations(n, generator=generator, device=device)
        shift = self.imaging.shift_sigma * torch.randn(n, 2, generator=generator, device=device)
        ctf = self.random_ctf(n, generator)
        return Batch(self.projector(rotation, shift, ctf)[:, None], Pose(rotation, shift), ctf)
