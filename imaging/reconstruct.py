"""A density map from particle images whose poses are known, with half maps that say how far it can be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..geometry.point_groups import point_group
from ..particles.errors import BadInput
from ..particles.files import Tally
from ..particles.poses import PoseTable
from ..particles.relion import missing_angles
from ..particles.row_matching import matched_poses
from ..particles.stack import ParticleStack
from ..particles.table import Floats, ParticleTable
from .back_projector import BackProjector
from .fsc import fourier_shell_correlation, resolution_at
from .simulate import inscribed_circle
from .volumes import Volume

_SAMPLES = 1 << 18  # Fourier samples that are inserted at a time
_LEAST = 2  # images of a half map: one is a plane and no volume


@dataclass(frozen=True)
class Reconstruction:
    """What :func:`reconstruct` made of N images of L x L pixels; all tensors are on the CPU.

    Attributes:
        map: from all images, Wiener-filtered with the signal-to-noise ratio that the half maps show.
        half_maps: from the two half-sets, unfiltered.
        counts: images in the half-sets.
        fsc: (L // 2 + 1,) correlation of the half maps, without a mask but that of the box's sphere.
        coverage: (L // 2 + 1,) share of the Fourier voxels of a shell that images have reached. Missing orientations
            leave it below 1.
        weight: (2 L + 1, 2 L + 1, L + 1) sum of CTF^2 per Fourier voxel, as in ``BackProjector``: where it was reached.
        ctf_source: the table whose CTF the images were corrected for; None when no CTF was.
        half_sets_source: the table whose half-sets these are; None when they are random.
    """

    map: Volume
    half_maps: tuple[Volume, Volume]
    counts: tuple[int, int]
    fsc: Tensor
    coverage: Tensor
    weight: Tensor
    ctf_source: Path | None = None
    half_sets_source: Path | None = None

    @property
    def resolution(self) -> float:
        """Angstrom where the half maps correlate less than 0.143 (Rosenthal and Henderson 2003)."""
        return resolution_at(self.fsc, 0.143, self.map.pixel_size, size=self.map.size)


def reconstruct(
    stack: ParticleStack,
    poses: PoseTable | None = None,
    *,
    symmetry: str = "C1",
    fom_weighting: bool = False,
    random_halves: bool = False,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> Reconstruction:
    """Reconstruct a volume of the box and pixels of the images.

    Each image is corrected for its background (the mean outside of the circle that fits its box), its shift and its
    CTF, where the table has one. Of images without a table, that of their poses says what they are. The half-sets are
    those of the table (``rlnRandomSubset``, or ``alignments3D/split``) where it parts the images in two, else a random
    split of the images, where rows of one image stay together. The stack is read in batches.

    Args:
        stack: N images.
        poses: of the same particles, matched as by :func:`matched_poses`; default those in the table of the stack.
            Images without a pose are left out.
        symmetry: point group, such as C1, D7, O or I2, in RELION's axes.
        fom_weighting: weight every image with the confidence of its pose (``rlnParticleFigureOfMerit``); those of
            weight 0 are left out.
        random_halves: split the images at random although the table has half-sets.
        seed: of the random split.
        device: where the sums are made.
        progress: show a bar with the time left.

    Raises:
        BadInput: no poses or not those of these particles, no confidence or negative ones, images whose CTF was
            corrected already, half-sets that are too small, or sums that leave the range of float32.
        ValueError: no such point group.

    Warns:
        BadInputWarning: a table tells of a magnification, a beam tilt or a scale of its own for each image.
    """
    group = point_group(symmetry)
    stack, poses = _matched(stack, poses)
    tables = [stack.table] + ([] if poses.particles is None else [poses.particles])
    with_ctf = next((table for table in tables if table.ctf is not None), None)
    for table in {table.path: table for table in (stack.table, with_ctf) if table is not None}.values():
        table.check_uncorrected()
        table.warn_unmodelled()
    # An envelope (the B-factor) is part of the CTF, as in RELION.
    ctf = None if with_ctf is None or with_ctf.ctf is None else with_ctf.ctf.to(torch.float32)
    weights = torch.from_numpy(_weights(poses)) if fom_weighting else None
    half_sets_of = next((table for table in tables if table.half_set is not None and not random_halves), None)
    half_sets = _half_sets(stack, half_sets_of, weights, seed)
    rotation, shift = torch.from_numpy(poses.rotation), torch.from_numpy(poses.shift)
    projectors = []
    total = sum(map(len, half_sets))
    with tqdm(total=total, desc="reconstruct", unit="image", disable=not progress, smoothing=0.05) as bar:
        for rows in half_sets:
            projector = BackProjector(stack.image_size, stack.pixel_size, group=group, device=device)
            projectors.append(projector)
            for batch in np.array_split(rows, math.ceil(len(rows) * projector.samples_per_image / _SAMPLES)):
                chosen = torch.from_numpy(batch)
                projector.insert(
                    without_background(torch.from_numpy(stack.images(batch))),
                    rotation[chosen],
                    shift[chosen],
                    None if ctf is None else ctf[chosen],
                    None if weights is None else weights[chosen],
                )
                bar.update(len(batch))
    result = combine_halves(*projectors)
    if not all(bool(part.data.isfinite().all()) for part in (result.map, *result.half_maps)):
        hint = "look at the B-factors of the CTF, the pixel size and the weights"
        raise BadInput(stack.path, "sums of images that leave the range of 32 bits", expected="a finite map", hint=hint)
    return replace(
        result,
        ctf_source=None if with_ctf is None else with_ctf.path,
        half_sets_source=None if half_sets_of is None else half_sets_of.path,
    )


def combine_halves(first: BackProjector, second: BackProjector) -> Reconstruction:
    """Make the maps of two half-sets and of all images from their sums; ``second`` is added to ``first``.

    The map of all is Wiener-filtered: its shells are multiplied by 2 FSC / (1 + FSC) on average, their signal over
    signal and noise (Rosenthal and Henderson 2003, J. Mol. Biol. 333, 721), less where there are more images than on
    average and more where there are fewer.
    """
    counts = first.count, second.count
    half_maps = _on_cpu(first.volume()), _on_cpu(second.volume())
    fsc = fourier_shell_correlation(half_maps[0].data, half_maps[1].data)
    first.add(second)
    signal = fsc.clamp(1e-3, 1)
    volume = first.volume(noise_to_signal=(1 - signal) / (2 * signal))
    coverage = first.shell_weights()[1].cpu()
    return Reconstruction(_on_cpu(volume), half_maps, counts, fsc, coverage, first.weight.cpu())


def _on_cpu(volume: Volume) -> Volume:
    return Volume(volume.data.cpu(), volume.pixel_size)


def without_background(images: Tensor) -> Tensor:
    """Take off the mean outside of the circle that fits the box.

    Both half maps would have it in common, and as it is not the same everywhere in a map of few images, or with soft
    edges, it correlates in every shell.
    """
    outside = inscribed_circle(images.shape[-1]) == 0
    return images - images[:, outside].double().mean(1)[:, None, None]


def _matched(stack: ParticleStack, poses: PoseTable | None) -> tuple[ParticleStack, PoseTable]:
    """The images that have a pose, and one pose for each."""
    if poses is None:
        if stack.poses is not None:
            return stack, stack.poses
        missing = f": {missing_angles(stack.table)} is missing" if stack.star is not None else ""
        raise BadInput(stack.path, f"no poses{missing}", hint="give them in a file of their own (--poses)")
    source = poses.source
    box, own = (_box(x.image_size, x.pixel_size) for x in (poses, stack))
    if box is not None and own is not None and abs(box - own) > 0.01 * own:
        expected = f"{own:g} A, as in {stack.path}: {stack.image_size} pixels of {stack.pixel_size:g} A"
        found = f"poses of images of {poses.image_size} pixels of {poses.pixel_size:g} A, a box of {box:g} A"
        raise BadInput(source, found, expected=expected)
    matched = matched_poses(poses, stack.table, len(stack), stack.path)
    described = matched.poses.particles
    if stack.table.origin is None and described is not None and described.sign is not None:
        stack = stack.subset(matched.rows)
        stack.table = replace(stack.table, sign=described.sign)
        return stack, matched.poses
    return stack if len(matched.rows) == len(stack) else stack.subset(matched.rows), matched.poses


def _box(image_size: int | None, pixel_size: float | None) -> float | None:
    return None if image_size is None or pixel_size is None else image_size * pixel_size


def _weights(poses: PoseTable) -> Floats:
    """(N,) the confidence."""
    if poses.confidence is None:
        raise BadInput(poses.source, "no confidence", expected="rlnParticleFigureOfMerit, to weight the images with")
    if (wrong := np.flatnonzero(poses.confidence < 0)).size:
        row = int(wrong[0])
        where = f"row {row + 1}" if poses.particles is None else poses.particles.where(row)
        found = f"a confidence of {poses.confidence[row]:g}"
        raise BadInput(poses.source, found, where=where, expected="0 or a positive number, to weight the image with")
    return poses.confidence


def split_in_halves(stack: ParticleStack, seed: int) -> NDArray[np.int64]:
    """(N,) 1 or 2, at random; rows of one image are in the same half."""
    images, image = np.unique(stack.image_ids, return_inverse=True)
    return (np.random.default_rng(seed).permutation(len(images)) % 2 + 1)[image]


def _half_sets(
    stack: ParticleStack, table: ParticleTable | None, weights: Tensor | None, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of the two half-sets, without those of weight 0."""
    hint = "random_halves (--random-halves) splits the images at random"
    number = None if table is None else table.checked_half_set(hint)
    image = stack.image_ids
    if number is None:
        number = split_in_halves(stack, seed)
    used = np.ones(len(stack), dtype=bool) if weights is None else weights.numpy() > 0
    first, second = (np.flatnonzero((number == half) & used) for half in (1, 2))
    if len(shared := np.intersect1d(image[first], image[second])):
        tally = Tally(stack.path)
        what = "an image in both half-sets of the table: their noise agrees, and so the resolution is not to be trusted"
        tally.add(what, stack.table.where(int(np.argmax(image == shared[0]))), len(shared))
        tally.warn()
    for half, rows in enumerate((first, second), 1):
        if len(rows) < _LEAST:
            raise BadInput(stack.path, f"{len(rows)} images in half-set {half}", expected=f"at least {_LEAST}")
    return first, second
