"""A recipe that nobody has to write: for the molecule of a map, and for images like those of a table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..imaging.extent import measure_extent
from ..imaging.noise import RadialNoise
from ..imaging.simulate import Imaging
from ..imaging.volumes import load_volume
from ..particles.ctf import CTF
from ..particles.files import find_data
from ..particles.stack import ParticleStack
from ..zoo.match import evenly_spread, match
from .data import Simulated
from .recipe import Recipe

_SIZE = 64  # pixels of the network's input
_ROOM = 1.25  # of the molecule's diameter; and four standard deviations of the shift
_SHIFT = 1 / 30  # of the box, where there are no images
_SNR = (0.05, 2.0)
_DEFOCUS = (5_000.0, 30_000.0)
_SLOPE = 1.0  # of the steepest noise
_SAMPLE = 64  # images that are looked at
_STEPS = 1_200
_STEEP = 0.2  # slope of the noise below which it is white


def recipe_from_map(
    map: str | Path,
    particles: str | Path | None = None,
    *,
    symmetry: str = "C1",
    progress: bool = False,
    **open_args: Any,
) -> Recipe:
    """What to train for a molecule, on images that are simulated from its map.

    The network's box holds the molecule and its shifts. Some particles are matched to the map: that says their shifts,
    SNR and noise; their table says the CTF. Without particles these are ranges that most data sets lie in.

    Args:
        map: a map or an atomic model, or phantom:SEED.
        particles: a .star, .cs or .mrcs file.
        symmetry: point group of the map, in RELION's axes.
        progress: show a bar while particles are matched.
        **open_args: of :meth:`ParticleStack.open`, for instance ``datadir`` or ``invert``.

    Raises:
        BadInput: map or particles cannot be used, or the molecule is larger than the particles' box.

    Warns:
        BadInputWarning: as :func:`match`, of map and particles that do not belong together.
    """
    name = str(map) if str(map).startswith("phantom:") else str(find_data(map).resolve())
    if particles is not None:
        return _like(ParticleStack.open(particles, **open_args), name, symmetry, progress)
    # An atomic model tells its diameter in any box that holds it, a map knows its own.
    coarse = 5.0 if name.startswith("phantom:") else 20.0
    diameter = measure_extent(load_volume(name, image_size=_SIZE, pixel_size=coarse)).diameter
    box = _ROOM * diameter / (1 - 4 * _SHIFT)
    shift = float(f"{_SHIFT * box:.2g}")
    imaging = Imaging(snr=_SNR, noise_slope=_SLOPE, shift_sigma=shift, defocus=_DEFOCUS)
    return _recipe(Simulated(name, imaging, symmetry, ctf="phase_flip"), _SIZE, box / _SIZE)


def _like(stack: ParticleStack, name: str, symmetry: str, progress: bool) -> Recipe:
    """For images like those of a stack."""
    volume = load_volume(name, image_size=stack.image_size, pixel_size=stack.pixel_size)
    diameter = measure_extent(volume).diameter
    rows = evenly_spread(np.arange(len(stack)), _SAMPLE)
    # Nothing finer than what the network is going to see.
    resolution = 2 * max(_ROOM * diameter / _SIZE, stack.pixel_size)
    found = match(stack.subset(rows), name, symmetry=symmetry, resolution=resolution, progress=progress)
    shift = 1.48 * float(np.median(np.abs(found.shift)))  # of a Gaussian the standard deviation, whatever junk says
    whole = stack.image_size * stack.pixel_size
    box = min(whole, _ROOM * diameter + 4 * shift)
    pixel_size = max(box / _SIZE, stack.pixel_size)
    image_size = min(_SIZE, 16 * int(np.ceil(box / pixel_size / 16)))
    slope = _slope(found.noise)
    imaging = Imaging(
        snr=1.0, shift_sigma=float(f"{shift:.2g}"), noise_slope=slope if slope > _STEEP else 0.0, **_optics(stack.ctf)
    )
    correction: Literal["none", "phase_flip"] = "none" if stack.ctf is None else "phase_flip"
    data = Simulated(name, imaging, symmetry, ctf=correction)
    snr = found.matches.score.double().numpy() / _score(data, image_size, pixel_size)
    low, middle, high = np.quantile(snr, (0.1, 0.5, 0.9))
    limits = max(low / 1.5, middle / 5), min(high * 1.5, middle * 5)
    imaging = replace(imaging, snr=(float(f"{limits[0]:.2g}"), float(f"{limits[1]:.2g}")))
    return _recipe(replace(data, imaging=imaging), image_size, pixel_size)


def _recipe(data: Simulated, image_size: int, pixel_size: float) -> Recipe:
    """The encoder that was the best for its time in benchmarks/results/encoders.md."""
    return Recipe(
        encoder="d4_vgg_gem_s-so3_harmonic",
        image_size=image_size,
        pixel_size=float(f"{pixel_size:.4g}"),
        data=data,
        loss="so3_nll",
        loss_args={"order": 2},
        steps=_STEPS,
        lr=3e-3,
        validate_every=200,
    )


def _optics(ctf: CTF | None) -> dict[str, Any]:
    """Fields of :class:`Imaging` for images with such a CTF."""
    if ctf is None:
        return {}
    mean = ((ctf.defocus_u + ctf.defocus_v) / 2).double().quantile(torch.tensor([0.005, 0.995], dtype=torch.float64))
    astigmatism = float((ctf.defocus_u - ctf.defocus_v).abs().double().quantile(0.99))
    lowest, highest = (float(np.clip(round(float(value)), 100, 100_000)) for value in mean)
    return {
        "defocus": (lowest, highest),
        "astigmatism": float(round(astigmatism)) if astigmatism >= 10 else 0.0,
        "voltage": float(ctf.voltage.median()),
        "spherical_aberration": float(ctf.spherical_aberration.median()),
        "amplitude_contrast": float(ctf.amplitude_contrast.median()),
    }


def _slope(noise: RadialNoise) -> float:
    """The exponent s of k^-s that the power of the noise is nearest to, from 0 to 4."""
    power = noise.shells.double().log().mean(0)[2:]
    if len(power) < 2:
        return 0.0
    k = torch.arange(2, 2 + len(power), dtype=torch.float64).log()
    weight = k.exp()  # as many samples lie on a shell
    k, power = (values - (weight * values).sum() / weight.sum() for values in (k, power))
    return round(min(4.0, max(0.0, -float((weight * k * power).sum() / (weight * k * k).sum()))), 1)


def _score(data: Simulated, image_size: int, pixel_size: float) -> float:
    """Twice the log-likelihood ratio of images at an SNR of 1 at their true poses, on average."""
    simulator = data.simulator(image_size, pixel_size)
    clean = simulator(256, torch.Generator().manual_seed(0), noise=0.0).images
    return float((clean - clean.mean((2, 3), keepdim=True)).square().sum((1, 2, 3)).mean()) / simulator.noise_sigma**2
