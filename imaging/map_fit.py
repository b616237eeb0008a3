"""Does a map belong to some images, and are they as their table says? What fits better is tried on a sample of them.

Scores of poses say little of that: the best of thousands of poses fits noise and strangers, too. Two other things do.
Poses that are found from the coarser half of what tells them predict the finer half where the map is right, as well as
they do in images that are simulated with it, and nothing where it is another molecule's. And of two ways to read the
same images the right one has the higher scores, image for image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..particles.ctf import CTF, CTFModulus, CTFSquare
from .match import Matcher
from .noise import RadialNoise
from .pose_posterior import Matches

_SCALE = 0.03  # of the pixel sizes that are tried
_FEW = 16  # images of which the negatives are searched for: the difference is large
_CLEARLY = 5.0  # standard errors
_LEAST = 0.5  # of the finer half in simulated images; with less, poses from the coarser half are hardly known


@dataclass(frozen=True)
class Sample:
    """Some images that were matched.

    Attributes:
        images: (N, L, L).
        ctf: that of their table.
        noise: their noise.
        found: their poses.
        start: rotations and shifts that were refined; None where the poses were searched for. Only of given poses the
            hand can be told, as a mirrored map has the same projections.
    """

    images: Tensor
    ctf: CTF | None
    noise: RadialNoise
    found: Matches
    start: tuple[Tensor, Tensor] | None

    def of(self, rows: Tensor) -> Sample:
        """Some of them."""
        start = None if self.start is None else (self.start[0][rows], self.start[1][rows])
        ctf = None if self.ctf is None else self.ctf[rows]
        return Sample(self.images[rows], ctf, self.noise, self.found.of(rows), start)


@dataclass(frozen=True)
class MapFit:
    """How a map fits to a sample of images.

    Attributes:
        agreement: the amplitude of the finer half of the map's signal in the images, over that of the coarser half from
            which alone the poses were found, and over the same in images that are simulated with the map: 1 for the
            right map, 0 for another molecule. Where pixels or maps show no more than outlines, below some 12 Angstrom,
            outlines agree.
        agreement_error: its standard error.
        pixel_size: Angstrom per voxel of the map, for which it fits best.
        pixel_size_error: the standard error of that; infinite where no pixel size fits better than its neighbours.
        better: what fits clearly better than what was given, and by what share of the score.
        images: how many.
    """

    agreement: float
    agreement_error: float
    pixel_size: float
    pixel_size_error: float
    better: dict[str, float]
    images: int


def measure_fit(matcher: Matcher, voxel: float, sample: Sample) -> MapFit:
    """Try other readings of some images.

    Args:
        matcher: of the map.
        voxel: edge of the map's voxels in Angstrom.
        sample: the images.
    """
    images, ctf, noise, start = sample.images, sample.ctf, sample.noise, sample.start
    poses = sample.found.rotation, sample.found.shift
    simulated = replace(sample, images=_simulated(matcher, sample))
    half = _half(matcher, sample)
    coarse = matcher.limited(float(matcher.likelihood.radius[half]))
    measured, of_simulated = (_finer_over_coarser(matcher, coarse, half, these) for these in (sample, simulated))
    agreement = measured[0] / max(of_simulated[0], _LEAST)
    error = measured[1] / max(of_simulated[0], _LEAST)

    def scores(matcher: Matcher, images: Tensor = images, ctf: CTF | None = ctf) -> Tensor:
        return matcher(images, ctf, noise, poses).score.double()

    here = scores(matcher)
    few = sample.of(torch.arange(min(_FEW, len(here)), device=here.device))
    others = {"negatives": matcher(-few.images, few.ctf, noise, few.start).score.double()}
    if ctf is not None:
        others["no CTF"] = scores(matcher, ctf=None)
        others["phases flipped"] = scores(matcher, ctf=CTFModulus(**vars(ctf)))
        others["multiplied by the CTF"] = scores(matcher, ctf=CTFSquare(**vars(ctf)))
    if start is not None:
        # The mirror image of a map, z turned about, has the projections that the map has at these poses.
        mirror = torch.tensor([1.0, 1.0, -1.0], device=images.device)
        mates = mirror[:, None] * start[0] * mirror, start[1]
        others["mirrored map"] = matcher(images, ctf, noise, mates).score.double()
    better = {}
    for name, values in others.items():
        of_these = here[: len(values)]
        if _above(values - of_these):
            better[name] = float(values.sum() / of_these.sum() - 1)
    common = matcher.likelihood.highest / (1 + _SCALE)  # which all pixel sizes have
    smaller, middle, larger = (scores(matcher.limited(common, 1 + sign * _SCALE)) for sign in (-1, 0, 1))
    # The vertex of the parabola through three scores, and its error by leaving out each image in turn.
    slope, curvature = larger - smaller, 2 * middle - larger - smaller
    n = len(slope)
    without = [(total.sum() - total) for total in (slope, curvature)]
    if curvature.sum() <= 0 or (without[1] <= 0).any():
        return MapFit(agreement, error, voxel, torch.inf, better, n)
    scale = _SCALE / 2 * slope.sum() / curvature.sum()
    parts = _SCALE / 2 * without[0] / without[1]
    spread = ((n - 1) * (parts - parts.mean()).square().mean()).sqrt()
    return MapFit(agreement, error, voxel * (1 + float(scale)), voxel * float(spread), better, n)


def _simulated(matcher: Matcher, sample: Sample) -> Tensor:
    """Images of the map (N, L, L) at the poses that were found, in noise as it was found."""
    likelihood, found = matcher.likelihood, sample.found
    passed = None if sample.ctf is None else sample.ctf(likelihood.frequency)
    projections = likelihood.projections(found.rotation, found.shift, passed)
    clean = likelihood.images(found.amplitude[:, None] * projections)
    white = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).to(clean.device)
    return clean + sample.noise.coloured(white, likelihood.pixel_size)


def _half(matcher: Matcher, sample: Sample) -> int:
    """How many of the samples, from low to high, tell half of what is told about poses."""
    likelihood, ctf, found = matcher.likelihood, sample.ctf, sample.found
    passed = None if ctf is None else ctf(likelihood.frequency)
    here = likelihood.projections(found.rotation, found.shift, passed)
    # Turning the molecule moves a sample in proportion to its frequency.
    told = (here.abs() * likelihood.radius).square().mean(0).double() / sample.noise.power(likelihood.radius)
    return int((told.cumsum(0) < told.sum() / 2).sum())


def _finer_over_coarser(matcher: Matcher, coarser: Matcher, half: int, sample: Sample) -> tuple[float, float]:
    """The amplitude of the finer half over that of the coarser one, and its error by leaving out each image in turn."""
    likelihood, ctf = matcher.likelihood, sample.ctf
    passed = None if ctf is None else ctf(likelihood.frequency)
    whitening = sample.noise.power(likelihood.radius).rsqrt()
    coarse = coarser(sample.images, ctf, sample.noise, sample.start)
    projections = likelihood.projections(coarse.rotation, coarse.shift, passed) * whitening
    samples = likelihood.samples(sample.images) * whitening
    products = (projections.conj() * samples).real.double()
    squares = projections.abs().square().double()
    halves = [products[:, :half].sum(1), squares[:, :half].sum(1), products[:, half:].sum(1), squares[:, half:].sum(1)]

    def ratio(pc: Tensor, sc: Tensor, pf: Tensor, sf: Tensor) -> Tensor:
        return pf / sf / (pc / sc)

    without = ratio(*(total.sum() - total for total in halves))
    n = len(without)
    spread = ((n - 1) * (without - without.mean()).square().mean()).sqrt()
    return float(ratio(*(total.sum() for total in halves))), float(spread)


def _above(gain: Tensor) -> bool:
    return len(gain) > 1 and bool(gain.mean() > _CLEARLY * gain.std() / len(gain) ** 0.5)
