"""Simulated particle images with known poses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..geometry.pose import Pose
from ..geometry.sampling import random_rotations
from ..particles.ctf import CTF, make_ctf
from ..particles.fields import BOOLEAN, Rule, check_fields, documented, is_number, number, numbers, optional, setting
from .batch import Batch
from .extent import check_fits
from .projector import Projector
from .volumes import Volume

_ONE_SNR, _SNR_RANGE = number(above=0), numbers(2, lambda x: 0 < x[0] <= x[1], "[lowest, highest]")


@documented
@dataclass(frozen=True)
class Imaging:
    """How simulated particles are imaged."""

    snr: float | tuple[float, float] | None = setting(
        optional(
            Rule(lambda x: _ONE_SNR.fits(x) or _SNR_RANGE.fits(x), f"{_ONE_SNR.expected} or {_SNR_RANGE.expected}"),
            "no noise",
        ),
        "variance of the shifted projection with its CTF inside the inscribed circle, averaged over random poses, over "
        "that of the noise; of a range, the logarithm is uniform",
        None,
        example=0.1,
    )
    noise_slope: float = setting(
        number(least=0, most=4),
        "largest exponent s of noise whose power falls with frequency as k^-s, uniform from 0, which is white",
        0.0,
    )
    shift_sigma: float = setting(
        number("Angstrom", least=0, most=1000), "standard deviation of the shift along x and y", 0.0, example=5.0
    )
    defocus: tuple[float, float] | None = setting(
        optional(
            numbers(
                2,
                lambda x: 100 <= x[0] <= x[1] <= 100_000,
                "[lowest, highest] in Angstrom, 100 to 100,000 and underfocus positive (1.5 micrometres are 15,000)",
            ),
            "no CTF",
        ),
        "range of the mean defocus, uniform",
        None,
        example=[10000, 25000],
    )
    astigmatism: float = setting(
        Rule(
            lambda x: is_number(x) and (x == 0 or 10 <= x <= 100_000),
            "a number of Angstrom, 0 or 10 to 100,000 (0.1 micrometres are 1,000)",
        ),
        "largest difference of defocus U and V, uniform from 0",
        0.0,
    )
    voltage: float = setting(number("kV", above=10, below=3000), "acceleration voltage", 300.0)
    spherical_aberration: float = setting(number("mm", least=0, most=100), "spherical aberration", 2.7)
    amplitude_contrast: float = setting(number("10 % are 0.1", least=0, most=1), "share of amplitude contrast", 0.1)
    b_factor: float = setting(number("Angstrom^2", least=0, most=10_000), "of the envelope exp(-B k^2 / 4)", 0.0)
    allow_wrap: bool = setting(
        BOOLEAN, "let a molecule larger than the images come in again on the opposite side", False
    )

    def __post_init__(self) -> None:
        check_fields(self, "imaging")

    @property
    def snr_range(self) -> tuple[float, float] | None:
        """Lowest and highest; None without noise."""
        return (self.snr, self.snr) if isinstance(self.snr, int | float) else self.snr


def inscribed_circle(size: int) -> Tensor:
    """(L, L) boolean mask of the pixels within L / 2 of the origin at pixel L // 2."""
    axis = torch.arange(size) - size // 2
    return axis[:, None] ** 2 + axis**2 <= (size / 2) ** 2


def coloured(noise: Tensor, slope: Tensor) -> Tensor:
    """White noise (..., L, L) made to fall off with frequency, its power as k^-slope; its variance stays.

    ``slope`` has the shape (..., 1, 1), or one that goes with it. Below one period per box the power is constant.
    """
    size = noise.shape[-1]
    ky, kx = torch.fft.fftfreq(size, 1 / size), torch.fft.rfftfreq(size, 1 / size)
    k = (ky[:, None] ** 2 + kx**2).sqrt().clamp_min(1).to(noise.device)
    power = k**-slope
    # Every sample of the half-plane stands for its conjugate too, but those of the first and the last column.
    twice = torch.full((size // 2 + 1,), 2.0, device=noise.device)
    twice[0] = 1
    if size % 2 == 0:
        twice[-1] = 1
    mean = (power * twice).sum((-2, -1), keepdim=True) / size**2
    return torch.fft.irfft2(torch.fft.rfft2(noise) * (power / mean).sqrt(), s=(size, size))


class Simulator(nn.Module):
    """Draws particles of one volume; the same seed gives the same noise level, a generator the same particles.

    Args:
        volume: the object.
        imaging: noise, shifts and CTF.
        image_size: pixels; default the volume's box.
        pixel_size: Angstrom; default the volume's.
        name: of the volume, for messages.

    Attributes:
        noise_sigma: standard deviation of the noise per pixel, at the lowest SNR.

    Raises:
        BadInput: the molecule is larger than the images, and ``imaging.allow_wrap`` is not set.
    """

    def __init__(
        self,
        volume: Volume,
        imaging: Imaging,
        *,
        image_size: int | None = None,
        pixel_size: float | None = None,
        name: str = "volume",
    ) -> None:
        super().__init__()
        self.imaging = imaging
        if not imaging.allow_wrap:
            check_fits(volume, image_size or volume.size, pixel_size or volume.pixel_size, name=name)
        self.projector = Projector(volume, image_size=image_size, pixel_size=pixel_size)
        self.noise_sigma = 0.0
        if imaging.snr_range is not None:
            reference = torch.Generator().manual_seed(0)
            clean = self._clean(256, reference).images[:, 0]
            inside = clean[:, inscribed_circle(self.projector.image_size).to(clean.device)]
            self.noise_sigma = float((inside.var(dim=1).mean() / imaging.snr_range[0]).sqrt())

    def forward(
        self, n: int, generator: torch.Generator | None = None, *, noise: float = 1.0, junk: float = 0.0
    ) -> Batch:
        """Draw ``n`` particles with uniform orientations, with this share of the simulator's noise.

        A share ``junk`` of the images is of noise alone; their poses are random.
        """
        clean = self._clean(n, generator)
        projections = clean.images
        if junk:
            draws = torch.rand(n, 1, 1, 1, generator=generator, device=projections.device)
            projections = projections * (draws >= junk)
        images = self.add_noise(projections, generator, share=noise)
        return Batch(images, clean.pose, clean.ctf)

    def add_noise(self, images: Tensor, generator: torch.Generator | None = None, *, share: float = 1.0) -> Tensor:
        """The images plus noise at this share of the simulator's level."""
        if not self.noise_sigma:
            return images
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        lowest, highest = self.imaging.snr_range or (1.0, 1.0)
        one_each = (len(images),) + (1,) * (images.ndim - 1)
        if highest > lowest:
            place = torch.rand(one_each, generator=generator, device=images.device)
            noise = noise * (lowest / highest) ** (place / 2)
        if self.imaging.noise_slope:
            slope = self.imaging.noise_slope * torch.rand(one_each, generator=generator, device=images.device)
            noise = coloured(noise, slope)
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
