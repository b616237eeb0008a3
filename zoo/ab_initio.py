"""Poses and a map of particle images of which nothing else is known."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from .. import __version__
from ..geometry.point_groups import point_group
from ..imaging.fourier import crop_or_zero_pad
from ..imaging.fsc import resolution_at
from ..imaging.half_maps import half_references, joined_reference
from ..imaging.map_alignment import mirror_resolution
from ..imaging.noise import noise_levels
from ..imaging.preprocessing import fourier_resize
from ..imaging.reconstruct import Reconstruction, reconstruct, split_in_halves, without_background
from ..imaging.stochastic_em import STAGES, Stage, StochasticEM
from ..imaging.volumes import Volume
from ..particles.ctf import CTF
from ..particles.errors import BadInput, BadInputWarning
from ..particles.poses import PoseTable
from ..particles.stack import ParticleStack
from ._source import opened
from .match import evenly_spread, read_images, refine
from .match_checks import junk_doubt, looks_like_no_particle
from .pieces import Pieces, Tensors
from .unfinished import fingerprint

_SAMPLE = 10_000  # images from which the first map is made
_FAR = 9.0  # median absolute deviations, six standard ones of a normal variable
_HELD_OUT, _SHARE = 500, 5  # images that it is judged by, at most, and one in so many
_FEWEST = 100
_READ = 500  # images at a time
_WINDOW = 2.0  # diameters that are left of an image for the first map: there is nothing but noise beyond
_REACH, _MOST = 0.05, 0.15  # of the box, and diameters at most: the largest shift that is looked for at first
_WIDEST = 0.85  # of the box: a diameter beyond is none that was measured
_FEW = 2000  # images of which it is said that they are few
_ROUNDS = 4  # of refinement, at most
_BETTER = 0.98  # resolution of a round over that of the round before, above which it was the last
_OWN_MIRROR = 1.25  # detail that a map shares with its mirror image, over its resolution
_SEEN = 5.0  # standard errors by which images that were left out must fit better than noise


Show = Callable[[Volume, Tensor, str], object]
"""What draws a map, rotations (K, 3, 3) of images, and a title."""


@dataclass(frozen=True)
class AbInitioResult:
    """What :func:`abinitio` found; hand and frame are arbitrary.

    Attributes:
        poses: of all particles, with what is known of each; refined last against the map of both half-sets.
        junk: (N,) whether images look like no particles; the map is made without them.
        reconstruction: the map, half maps and their correlation, from the poses of a round before: those of either
            half-set were refined against its own map alone.
        start: the map that images were refined from.
        evidence: of every start, by how much images that were left out fit better than noise: the mean log-likelihood,
            and its standard error.
        resolutions: in Angstrom, of the half maps after every round.
        mirror_resolution: Angstrom to which the map is its own mirror image.
        diameter: of the molecule in Angstrom.
        symmetry: point group.
        doubts: what is suspicious, in words.
    """

    poses: PoseTable
    junk: NDArray[np.bool_]
    reconstruction: Reconstruction
    start: Volume
    evidence: tuple[tuple[float, float], ...]
    resolutions: tuple[float, ...]
    mirror_resolution: float
    diameter: float
    symmetry: str
    doubts: tuple[str, ...]


def abinitio(
    particles: str | Path | ParticleStack,
    *,
    symmetry: str = "C1",
    diameter: float | None = None,
    starts: int = 2,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = False,
    say: Callable[[str], object] | None = None,
    show: Show | None = None,
    keep: Path | None = None,
    **open_args: Any,
) -> AbInitioResult:
    """Find poses of particles and their map from the images alone.

    A coarse map is found by stochastic expectation maximisation from several random starts; the one is kept with which
    images that were left out agree best. From there the poses of two half-sets are refined, each against its own map,
    until the half maps agree no better; last all are refined against the map of both, which has less noise. Which hand
    the map has, images cannot tell.

    Args:
        particles: a .star or .cs file, or an open stack; particles bright.
        symmetry: point group of the molecule; its axes will lie where RELION has them.
        diameter: of the molecule in Angstrom; by default what the images show.
        starts: random starts.
        seed: of all random numbers.
        device: where the work is done.
        progress: show bars with the time left.
        say: told in lines what is being done and what came of it.
        show: given the map of the moment, rotations (K, 3, 3) of some images and what this is, whenever there is news.
        keep: a folder in which finished parts are kept: the same call goes on from there, and ends in the same poses,
            bit for bit on a CPU. Who has saved the result removes it.
        **open_args: of :meth:`ParticleStack.open` for files.

    Raises:
        BadInput: too few images, or all of them the same; images that do not show how large the molecule is, or in
            which there is nothing that several of them share; or particles that are darker than what is around them.
    """
    stack = opened(particles, None, open_args)
    if not isinstance(stack, ParticleStack):
        raise BadInput("images", "images in memory", expected="particles in files")
    if len(stack) < _FEWEST:
        raise BadInput(stack.path, f"{len(stack):,} images", expected=f"at least {_FEWEST}, better thousands")
    tell = say or (lambda line: None)
    rows = evenly_spread(np.arange(len(stack)), _SAMPLE)
    box = stack.image_size * stack.pixel_size
    if diameter is None:
        whole = (stack.image_size, stack.image_size)
        diameter = image_diameter(_prepared(stack, rows[:: max(1, len(rows) // 2000)], *whole)[0])
        diameter *= stack.pixel_size
        if diameter > _WIDEST * box:
            found, hint = "images that do not show how large the molecule is", "say it: diameter (--diameter)"
            raise BadInput(stack.path, found, hint=hint)
        tell(f"the molecule measures about {diameter:.0f} A")
    window = min(stack.image_size, 2 * math.ceil(_WINDOW / 2 * diameter / stack.pixel_size))
    seen = window * stack.pixel_size
    size = min(window, 2 * math.ceil(1.1 * max(stage.detail for stage in STAGES) * seen / diameter))
    images, ctf = _prepared(stack, rows, size, window)
    if bool((images == images[0]).all()):
        raise BadInput(stack.path, "images that are all the same", expected="many views of a molecule")
    if ctf is None:
        tell("the table tells of no CTF: images are taken as they are")
    power = _power(images)
    ordinary = power <= (highest := _highest(power))
    if odd := int((~ordinary).sum()):
        tell(f"{odd:,} images have far more power than the others (ice, an edge?): the first map is made without them")
        images, ctf = images[ordinary], None if ctf is None else ctf[ordinary]
    tell(f"{len(images):,} images of {size} pixels of {seen / size:.3g} A, {starts} random starts")
    key = fingerprint(stack, (symmetry, diameter, seed, window, size, _versions()))
    pieces = Pieces(keep, key)
    if len(pieces):
        tell(f"goes on after {len(pieces)} finished parts that are kept in {keep}")
    group = point_group(symmetry)
    with pieces.told_on_failure():
        runs, evidence = [], []
        for k in range(starts):
            run = _begun(
                images, ctf, seen / size, diameter, min(_REACH * box, _MOST * diameter), group, seed + k, device
            )
            mean, error = _first_map(run, f"start {k + 1}", pieces, progress, show)
            tell(f"start {k + 1}: images that were left out fit by {mean:.1f} +- {error:.1f}")
            runs.append(run)
            evidence.append((mean, error))
        best = max(range(starts), key=lambda k: evidence[k][0])
        if evidence[best][0] < _SEEN * evidence[best][1]:
            hint = "are there particles in them, and is the diameter right (--diameter)?"
            raise BadInput(stack.path, "nothing that the images have in common but noise", hint=hint)
        start = runs[best].volume
        assert start is not None
        if _is_dark(start):
            found = "a map whose density is lower than what is around it"
            raise BadInput(stack.path, found, expected="bright particles", hint="invert=True (--invert)")
        coarse = partial(_coarse_poses, stack, runs[best], window, highest, progress)
        halved = _in_halves(stack, seed)
        poses, junk = _posed(halved, pieces.get(f"start{best + 1}-poses", coarse))
        resolutions: list[float] = []
        while True:
            good = np.flatnonzero(~junk)
            made = reconstruct(halved.subset(good), poses.subset(good), symmetry=symmetry, device=device)
            resolutions.append(made.resolution)
            tell(f"round {len(resolutions)}: the half maps agree to {made.resolution:.1f} A")
            if show is not None:
                show(made.map, torch.from_numpy(poses.rotation), f"round {len(resolutions)}, {made.resolution:.1f} A")
            if len(resolutions) > _ROUNDS or (
                len(resolutions) > 2 and resolutions[-1] > _BETTER * min(resolutions[:-1])
            ):
                break
            name = f"start{best + 1}-round{len(resolutions)}"
            refined = partial(_refined, halved, poses, _own_halves(halved, made, diameter), symmetry, device, progress)
            poses, junk = _posed(halved, pieces.get(name, refined))
        tell("last, all images against the map of both half-sets")
        everything = [(np.arange(len(halved)), joined_reference(made, diameter))]
        last = partial(_refined, halved, poses, everything, symmetry, device, progress)
        poses, _ = _posed(halved, pieces.get(f"start{best + 1}-last", last))
        if junk.any():
            tell(f"{junk.sum():,} images look like no particles, and are left out of the map")
        mirror = mirror_resolution(made.map)
        return AbInitioResult(
            poses=poses,
            junk=junk,
            reconstruction=made,
            start=start,
            evidence=tuple(evidence),
            resolutions=tuple(resolutions),
            mirror_resolution=mirror,
            diameter=diameter,
            symmetry=symmetry,
            doubts=_doubts(junk, made, mirror, diameter),
        )


def image_diameter(images: Tensor) -> float:
    """Pixels across what images (N, L, L) show beyond noise: it holds 98 % of their variance that is no noise's.

    Images of far more power than most are left out.
    """
    power = _power(images)
    images = images[power <= _highest(power)]
    size = images.shape[-1]
    axis = torch.arange(size) - size // 2
    radius = (axis[:, None] ** 2 + axis**2).double().sqrt()
    variance = images.double().var(0)
    outside = radius > 0.47 * size
    excess = variance - variance[outside].mean()
    ring = radius.round().long().flatten()
    of_rings = ring.bincount(excess.flatten())[: size // 2]
    share = of_rings.cumsum(0) / of_rings.sum()
    return 2.0 * float((share < 0.98).sum())


def _prepared(stack: ParticleStack, rows: NDArray[np.int64], size: int, window: int) -> tuple[Tensor, CTF | None]:
    """The middle of images, (N, size, size) of ``window`` pixels, without background; and their CTF.

    Noise has a variance of about 1 per original pixel.
    """
    parts, ctfs = [], []
    for first in range(0, len(rows), _READ):
        images, ctf = read_images(stack, rows[first : first + _READ])
        level = noise_levels(images)
        images = without_background(images).float() / torch.where(level > 0, level, 1)[:, None, None]
        parts.append(fourier_resize(crop_or_zero_pad(images, window, dims=2), size))
        ctfs.append(ctf)
    known = [ctf for ctf in ctfs if ctf is not None]
    return torch.cat(parts), type(known[0]).join(known) if known else None


def _power(images: Tensor) -> Tensor:
    """(N,) of images (N, L, L)."""
    return images.square().mean((1, 2))


def _highest(power: Tensor) -> float:
    """Of what is about the power that most images have; a map would be drawn to what has much more."""
    middle = power.median()
    return float(middle + _FAR * (power - middle).abs().median())


def _versions() -> tuple[object, ...]:
    return torch.get_num_threads(), torch.__version__, __version__


def _begun(
    images: Tensor,
    ctf: CTF | None,
    pixel_size: float,
    diameter: float,
    reach: float,
    group: Tensor,
    seed: int,
    device: torch.device | str | None,
) -> StochasticEM:
    """Before the first step, of all images but those that are held out."""
    return StochasticEM(
        images.to(device),
        pixel_size,
        ctf if ctf is None or device is None else ctf.to(device),
        diameter=diameter,
        reach=reach,
        group=None if len(group) == 1 else group.float(),
        trained=len(images) - _held_out(len(images)),
        seed=seed,
    )


def _held_out(count: int) -> int:
    """How many of so many images judge the first map."""
    return min(_HELD_OUT, count // _SHARE)


def _first_map(run: StochasticEM, name: str, pieces: Pieces, progress: bool, show: Show | None) -> tuple[float, float]:
    """Take all stages.

    Returns:
        the mean log-likelihood of images that the run has not seen, and its standard error.
    """

    def taken(stage: Stage) -> Tensors:
        for _ in range(stage.steps):
            run.step()
            bar.update()
        run.estimate_noise()
        return run.state()

    steps = sum(stage.steps for stage in STAGES)
    with tqdm(total=steps, desc=f"first map, {name}", unit="step", disable=not progress) as bar:
        for number, stage in enumerate(STAGES, 1):
            run.begin(stage)
            run.restore(pieces.get(f"{name.replace(' ', '')}-stage{number}", partial(taken, stage)))
            bar.n = sum(stage.steps for stage in STAGES[:number])
            if show is not None and run.volume is not None:
                show(run.volume, run.rotation, f"{name}, stage {number} of {len(STAGES)}")
    _, _, evidence = run.poses(torch.arange(run.trained, len(run.images)))
    return float(evidence.mean()), float(evidence.std() / len(evidence) ** 0.5)


def _doubts(junk: NDArray[np.bool_], made: Reconstruction, mirror: float, diameter: float) -> tuple[str, ...]:
    doubts = [f"{doubt}; the map is made without them" for doubt in junk_doubt(torch.from_numpy(junk))]
    resolution, detail = made.resolution, diameter / STAGES[-1].detail
    if mirror < _OWN_MIRROR * resolution_at(made.fsc, 0.5, made.map.pixel_size, size=made.map.size):
        said = f"the map is its own mirror image to {mirror:.1f} A, as far as it is resolved"
        doubts.append(f"{said}: the poses are between the two hands (try another seed), or nothing finer is seen")
    if resolution > detail:
        said = f"the half maps agree to {resolution:.1f} A, no finer than the first map shows ({detail:.0f} A)"
        doubts.append(f"{said}: refinement found nothing more, and the poses may be wrong")
    if (count := int((~junk).sum())) < _FEW:
        doubts.append(f"{count:,} images are few: try other seeds, and believe what they agree about")
    return tuple(doubts)


def _is_dark(volume: Volume) -> bool:
    """Density is rare and its surroundings are not: what is far from the mean is brighter than it."""
    values = volume.data.double() - volume.data.double().mean()
    return bool(values.pow(3).mean() < 0)


def _coarse_poses(stack: ParticleStack, run: StochasticEM, window: int, highest: float, progress: bool) -> Tensors:
    """Poses of all images against the first map; junk is what has more power than ``highest``."""
    device = run.images.device
    parts = []
    with tqdm(total=len(stack), desc="coarse poses", unit="image", disable=not progress) as bar:
        for first in range(0, len(stack), _READ):
            rows = np.arange(first, min(first + _READ, len(stack)))
            images, ctf = _prepared(stack, rows, run.images.shape[-1], window)
            rotation, shift, _ = run.poses_of(images.to(device), None if ctf is None else ctf.to(device))
            parts.append((rotation, shift, _power(images) > highest))
            bar.update(len(rows))
    rotation, shift, junk = (torch.cat(part) for part in zip(*parts, strict=True))
    return {"rotation": rotation, "shift": shift, "junk": junk}


def _posed(stack: ParticleStack, found: Tensors) -> tuple[PoseTable, NDArray[np.bool_]]:
    """The particles with poses that were found, and (N,) which of them look like none."""
    rotation, shift = found["rotation"].double().numpy(), found["shift"].double().numpy()
    confidence = found["confidence"].numpy() if "confidence" in found else None
    return stack.with_poses(rotation, shift, confidence), found["junk"].numpy()


def _in_halves(stack: ParticleStack, seed: int) -> ParticleStack:
    """The stack with half-sets, random where its table has none; rows of one image stay together."""
    if stack.table.checked_half_set() is not None:
        return stack
    halved = stack.subset(np.arange(len(stack)))
    halved.table = replace(halved.table, half_set=split_in_halves(stack, seed))
    return halved


def _refined(
    stack: ParticleStack,
    poses: PoseTable,
    against: Sequence[tuple[NDArray[np.int64], Volume]],
    symmetry: str,
    device: torch.device | str | None,
    progress: bool,
) -> Tensors:
    """Poses of particles, some rows against one map, others against another."""
    rotation, shift, confidence = poses.rotation.copy(), poses.shift.copy(), np.zeros(len(stack))
    junk = np.zeros(len(stack), dtype=bool)
    for rows, volume in against:
        start = PoseTable(
            poses.rotation[rows], poses.shift[rows], image_size=stack.image_size, pixel_size=stack.pixel_size
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BadInputWarning)  # of a map that is on its way
            some = stack.subset(rows)
            found = refine(some, volume, poses=start, symmetry=symmetry, device=device, progress=progress)
        rotation[rows], shift[rows] = found.rotation, found.shift
        assert found.confidence is not None
        confidence[rows] = found.confidence
        junk[rows] = looks_like_no_particle(found.matches).numpy()
    columns = {"rotation": rotation, "shift": shift, "confidence": confidence, "junk": junk}
    return {name: torch.from_numpy(values) for name, values in columns.items()}


def _own_halves(stack: ParticleStack, made: Reconstruction, diameter: float) -> list[tuple[NDArray[np.int64], Volume]]:
    """Either half-set, and its own map."""
    half_set = stack.table.half_set
    assert half_set is not None
    maps = half_references(made, diameter)
    return [(np.flatnonzero(half_set == half), volume) for half, volume in enumerate(maps, 1)]
