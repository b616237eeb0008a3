"""Poses of particle images by maximum likelihood against a map: found from nothing, or refined; no network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..geometry.point_groups import point_group
from ..imaging.map_fit import MapFit, Sample, measure_fit
from ..imaging.match import Matcher
from ..imaging.noise import RadialNoise, noise_levels
from ..imaging.pose_posterior import Matches
from ..imaging.preprocessing import divide_by_modulus
from ..imaging.projector import Projector
from ..imaging.volumes import Volume
from ..particles.ctf import CTF, CTFModulus
from ..particles.errors import BadInput, BadInputWarning
from ..particles.poses import PoseTable
from ..particles.row_matching import matched_poses
from ..particles.stack import ParticleStack
from ..particles.star import StarFile
from ..particles.table import ParticleTable
from ._source import Images, Particles, opened, pose_table, read_ahead
from .match_checks import check_arguments, fit_doubts, image_doubts, looks_like_no_particle, opened_map, symmetry_doubt
from .predict import PredictionStopped

_SAMPLE = 256  # images of a group, from which its noise is estimated
_FEWEST = 32  # images of a group that has an estimate of its own
_LOST = 0.01  # share of the information about the pose that frequencies which are left out may have
_BATCH = 64
_MOST_PERIODS = 64  # per box, of the finest detail that is compared unless a resolution is given; a matter of memory
# A refined pose is not believed where the amplitude is by so many standard errors less than in half of the images, or
# the expected error so many times what a quarter of the images have.
_WEAK, _VAGUE = 1.5, 1.6
_FIT = 48  # images on which it is tried whether anything else fits better


@dataclass(frozen=True)
class Compared:
    """What was compared, for who wants to look at it.

    Attributes:
        images: those of the poses, row for row; more of them where the work was stopped.
        volume: the map, its box cut to about that of the molecule.
        map_name: of the map, in messages.
        symmetry: point group of the map.
        reach: Angstrom, of the shifts that were looked at first; None where poses were refined.
        resolution: Angstrom, of the finest detail that was compared.
        doubts: what speaks against the map, or what the table says of the images; as it was warned of.
    """

    images: ParticleStack | Images
    volume: Volume
    map_name: str
    symmetry: str
    reach: float | None
    resolution: float
    doubts: tuple[str, ...]


class MatchedTable(PoseTable):
    """Poses with what their likelihood says; the confidence is one over the expected angular error in radian.

    Attributes:
        matches: rotation, shift, covariance, probability, error, score, amplitude and misfit of every particle, whose
            image was brought to the noise of its optics group's median.
        noise: the power of the noise, a row for each optics group.
        fit: how the map fits to a sample of the images.
        compared: the images and the map.

    In a STAR file they are ``rlnMaxValueProbDistribution``, the probability, and ``rlnLogLikeliContribution``, half of
    the merit, under the names that RELION has for them.
    """

    matches: Matches
    noise: RadialNoise
    fit: MapFit
    compared: Compared

    def _star(self, path: str | Path) -> StarFile:
        star = super()._star(path)
        table = self.particles
        block = table.block if table is not None and isinstance(table.origin, StarFile) else "particles"
        said = {
            "rlnMaxValueProbDistribution": self.matches.probability.double().numpy(),
            "rlnLogLikeliContribution": self.matches.merit.double().numpy() / 2,
        }
        return star.with_columns(block, said)


def match(
    particles: Particles,
    map: str | Path | Volume,
    *,
    symmetry: str = "C1",
    reach: float | None = None,
    resolution: float | None = None,
    pixel_size: float | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
    done: Matches | None = None,
    on_batch: Callable[[Matches], None] | None = None,
    **open_args: Any,
) -> MatchedTable:
    """Find the poses of particle images against a map, whatever they are.

    All directions, in-plane angles and shifts of a grid are compared with every image, and the best are climbed from by
    Gauss-Newton steps, up to the frequency beyond which nothing more is to be learnt. The power of the noise is
    estimated from the images, for each optics group; the amplitude of each image is free.

    Args:
        particles: a .star, .cs or .mrcs file, an open stack, or images (N, L, L); particles bright.
        map: the map, as a file or in memory; its hand is that of the poses.
        symmetry: point group of the map, in RELION's axes. Poses are those of one of the mates.
        reach: the largest shift in Angstrom that is looked at first, and twice that where nothing fits well; by default
            a tenth of the images' box.
        resolution: Angstrom, of the highest frequency that is compared; by default as high as it helps, and at
            most a 64th of the box: finer detail takes memory, 16 times as much for half of that.
        pixel_size: Angstrom per pixel, instead of what a file says; needed for images in memory.
        device: where the work is done.
        progress: show a bar with the time left.
        done: of the first particles, from an earlier call with the same arguments; they are not compared again.
        on_batch: called with those of each batch as soon as they are there.
        **open_args: of :meth:`ParticleStack.open` for files, for instance ``datadir`` or ``invert``.

    Returns:
        One row per particle in their order, with all else that the file says about them.

    Raises:
        BadInput: map or particles cannot be used, or do not belong together; with file and row.
        PredictionStopped: Ctrl-C, with what was finished.

    Warns:
        BadInputWarning: the map seems to be of another molecule, of another pixel size or, where poses are given, of
            the other hand; or the images fit better as negatives, or with another CTF than their table says.
    """
    source = opened(particles, pixel_size, open_args)
    work = _Work(source, map, symmetry, reach, resolution, device)
    return work.run(None, progress, done, on_batch)


def fit_map(
    particles: Particles,
    map: str | Path | Volume,
    *,
    symmetry: str = "C1",
    pixel_size: float | None = None,
    device: torch.device | str | None = None,
    **open_args: Any,
) -> MapFit:
    """How well a map fits to some particle images, without the poses; arguments and warnings as of :func:`match`."""
    work = _Work(opened(particles, pixel_size, open_args), map, symmetry, None, None, device)
    with torch.inference_mode():
        work.prepare(None)
    return work.fit


def refine(
    particles: Particles,
    map: str | Path | Volume,
    *,
    poses: PoseTable | None = None,
    symmetry: str = "C1",
    resolution: float | None = None,
    pixel_size: float | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
    done: Matches | None = None,
    on_batch: Callable[[Matches], None] | None = None,
    **open_args: Any,
) -> MatchedTable:
    """Refine poses of particle images against a map, from where they are; as :func:`match` without its search.

    Images in which the projection at the refined pose is weaker than in others, or tells less of the pose, were perhaps
    started too far off: of those all poses are searched.

    Args:
        poses: of the same particles, matched as by :func:`matched_poses`; by default those in the particles' table.
            Most of them may be off by some ten degrees and a few pixels.

    The other arguments, what is returned and what is raised are those of :func:`match`. Particles without a pose are
    left out.
    """
    source = opened(particles, pixel_size, open_args)
    if poses is None:
        poses = source.poses if isinstance(source, ParticleStack) else None
        if poses is None:
            raise BadInput(source.path, "no poses to refine", hint="give poses, or use match")
    else:
        matched = matched_poses(
            poses, source.table if isinstance(source, ParticleStack) else None, len(source), source.path
        )
        poses = matched.poses
        if len(matched.rows) < len(source):
            assert isinstance(source, ParticleStack)
            source = source.subset(matched.rows)
    return _Work(source, map, symmetry, None, resolution, device).run(poses, progress, done, on_batch)


class _Work:
    """One map and one set of images: what they have in common is prepared, then batches are worked through."""

    def __init__(
        self,
        source: ParticleStack | Images,
        map: str | Path | Volume,
        symmetry: str,
        reach: float | None,
        resolution: float | None,
        device: torch.device | str | None,
    ) -> None:
        self.source = source
        self.device = torch.device("cpu") if device is None else torch.device(device)
        check_arguments(source.path, reach, resolution, source.image_size * source.pixel_size)
        volume, self.name = opened_map(map, source.image_size, source.pixel_size)
        self.given = volume
        self.volume = Volume(volume.data.float().to(self.device), volume.pixel_size, volume.reach)
        self.symmetry = symmetry
        self.group = point_group(symmetry)
        self.table = source.table if isinstance(source, ParticleStack) else ParticleTable(Path("images"), len(source))
        self.table.warn_unmodelled()
        groups = np.zeros(len(source), dtype=np.int64) if self.table.group is None else self.table.group
        self.group_of = torch.from_numpy(_pooled(groups))
        self.reach = reach
        self.highest = None if resolution is None else 1 / resolution
        self.doubts: list[str] = []
        if len(self.group) > 1:
            self._doubt(symmetry_doubt(Projector(self.volume), self.name, symmetry))

    def run(
        self,
        poses: PoseTable | None,
        progress: bool,
        done: Matches | None,
        on_batch: Callable[[Matches], None] | None,
    ) -> MatchedTable:
        """Estimate the noise, and find or refine all poses."""
        start = 0 if done is None else len(done.score)
        if start > len(self.source) or (start < len(self.source) and start % _BATCH):
            raise ValueError(f"{start} are done: no whole batches of {_BATCH} of {len(self.source)} particles")
        parts = [] if done is None else [done]
        batches = [range(k, min(k + _BATCH, len(self.source))) for k in range(start, len(self.source), _BATCH)]
        with torch.inference_mode():
            noise = self.prepare(poses)
            reach = self.matcher.reach if poses is None else None
            desc = "match" if poses is None else "refine"
            try:
                with read_ahead(batches, self._images, total=len(self.source), progress=progress, desc=desc) as work:
                    for rows, (images, ctf) in work:
                        group = self.group_of[rows.start : rows.stop].to(self.device)
                        parts.append(self._compared(images, ctf, noise, group, self._poses(poses, rows)))
                        if on_batch is not None:
                            on_batch(parts[-1])
            except KeyboardInterrupt as stop:
                finished = self._table(parts, noise, reach) if parts else None
                raise PredictionStopped(finished, len(self.source), getattr(stop, "signum", None)) from None
        return self._table(parts, noise, reach)

    def _compared(
        self, images: Tensor, ctf: CTF | None, noise: RadialNoise, group: Tensor, start: tuple[Tensor, Tensor] | None
    ) -> Matches:
        """The poses of a batch, (B,) of these optics groups; searched for where refined ones are not believed."""
        level = noise_levels(images) / self.levels[group]
        images = images / torch.where(level > 0, level, 1)[:, None, None]
        found = self.matcher(images, ctf, noise.rows(group), start)
        believed = (found.amplitude > self.weak[group]) & (found.error < self.vague[group])
        weak = (~believed).nonzero()[:, 0]
        if start is not None and len(weak):
            sought = self.matcher(images[weak], None if ctf is None else ctf[weak], noise.rows(group[weak]))
            better = sought.score > found.score[weak]
            found.put(weak[better], sought.of(better))
        return Matches(**{name: values.cpu() for name, values in vars(found).items()})

    def _matcher(self, volume: Volume, highest: float | None) -> Matcher:
        source = self.source
        group = None if len(self.group) == 1 else self.group.float().to(self.device)
        return Matcher(volume, source.image_size, source.pixel_size, group=group, reach=self.reach, highest=highest)

    def _images(self, rows: range | NDArray[np.int64]) -> tuple[Tensor, CTF | None]:
        return read_images(self.source, rows, self.device)

    def _poses(self, poses: PoseTable | None, rows: range | NDArray[np.int64]) -> tuple[Tensor, Tensor] | None:
        if poses is None:
            return None
        rotation, shift = (torch.from_numpy(v[np.asarray(rows)]).float() for v in (poses.rotation, poses.shift))
        return rotation.to(self.device), shift.to(self.device)

    def prepare(self, poses: PoseTable | None) -> RadialNoise:
        """The noise of every optics group, from some of its images, and how the map fits to those of the largest.

        The matcher is left with the frequencies that tell something.
        """
        highest = _MOST_PERIODS / (self.source.image_size * self.source.pixel_size)
        self.matcher = self._matcher(self.volume, highest if self.highest is None else self.highest)
        shells, levels, weak, vague, informative = [], [], [], [], 0.0
        for number in range(int(self.group_of.max()) + 1):
            rows = evenly_spread(np.flatnonzero(self.group_of.numpy() == number), _SAMPLE)
            images, ctf = self._images(rows)
            level = noise_levels(images)
            levels.append(level.median())
            images = images * torch.where(level > 0, levels[-1] / level, 1)[:, None, None]
            start = self._poses(poses, rows)
            noise, found = self.matcher.estimate_noise(images, ctf, start)
            shells.append(noise.shells)
            weak.append(found.amplitude.median() * (1 - _WEAK * found.score.median().clamp_min(1).rsqrt()))
            vague.append(_VAGUE * found.error.quantile(0.25))
            informative = max(informative, self.matcher.informative(found, ctf, noise, _LOST))
            if number == 0:
                sample = Sample(images, ctf, noise, found, start)
        self.levels, self.weak, self.vague = torch.stack(levels), torch.stack(weak), torch.stack(vague)
        if self.highest is None and informative < 0.95 * self.matcher.likelihood.highest:
            self.matcher = self._matcher(self.volume, informative)
        particles = np.flatnonzero(~looks_like_no_particle(sample.found).cpu().numpy())
        few = evenly_spread(particles if len(particles) > _FIT // 2 else np.arange(len(sample.images)), _FIT)
        self.fit = self._measured_fit(sample.of(torch.from_numpy(few).to(self.device)))
        return RadialNoise(torch.stack(shells), self.matcher.likelihood.box)

    def _measured_fit(self, sample: Sample) -> MapFit:
        """How the map fits to some images; says what fits better."""
        fit = measure_fit(self.matcher, self.volume.pixel_size, sample)
        given, has_ctf = sample.start is not None, sample.ctf is not None
        self._doubt(fit_doubts(fit, self.name, self.volume.pixel_size, given=given, has_ctf=has_ctf))
        return fit

    def _doubt(self, doubts: Iterable[str]) -> None:
        for doubt in doubts:
            self.doubts.append(doubt)
            warnings.warn(BadInputWarning(f"{self.source.path}: {doubt}"), stacklevel=6)

    def _table(self, parts: list[Matches], noise: RadialNoise, reach: float | None) -> MatchedTable:
        matches = Matches.join(parts)
        if not self.doubts:  # else they are reason enough
            self._doubt(image_doubts(matches, reach))
        plain = pose_table(
            self.source,
            matches.rotation.double().numpy(),
            matches.shift.double().numpy(),
            (1 / matches.error.double()).numpy(),
        )
        table = MatchedTable(
            plain.rotation,
            plain.shift,
            plain.confidence,
            image_size=plain.image_size,
            pixel_size=plain.pixel_size,
            particles=plain.particles,
            source=plain.source,
        )
        table.matches, table.noise, table.fit = matches, noise, self.fit
        finest = 1 / self.matcher.likelihood.highest
        table.compared = Compared(self.source, self.given, self.name, self.symmetry, reach, finest, tuple(self.doubts))
        return table


def read_images(
    source: ParticleStack | Images, rows: range | NDArray[np.int64], device: torch.device | None = None
) -> tuple[Tensor, CTF | None]:
    """Images (B, L, L) as they are compared with a map, and what the CTF has done to them."""
    images = torch.as_tensor(source.images(rows), dtype=torch.float32).to(device)
    if not isinstance(source, ParticleStack) or source.table.ctf is None:
        return images, None
    ctf = source.table.ctf[np.asarray(rows)].to(torch.float32).to(device)
    if "premultiplied" in source.table.corrected:
        images = divide_by_modulus(images, source.pixel_size, ctf)
    return images, CTFModulus(**vars(ctf)) if source.table.corrected else ctf


def _pooled(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) numbers from 0 of the groups, the largest first; those with few images are one, or belong to the largest."""
    _, number, count = np.unique(groups, return_inverse=True, return_counts=True)
    number = np.where(count[number] < _FEWEST, len(count), number).reshape(-1)
    count = np.bincount(number, minlength=len(count) + 1)
    if count[-1] < _FEWEST:
        number = np.where(number == len(count) - 1, count[:-1].argmax(), number)
    found, place, count = np.unique(number, return_inverse=True, return_counts=True)
    rank = np.argsort(np.argsort(-count, kind="stable"))
    assert len(rank) == len(found)
    return rank[place.reshape(-1)]


def evenly_spread(rows: np.ndarray, count: int) -> NDArray[np.int64]:
    """At most so many of the rows, evenly."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64))]
