"""From images to a map without any truth: python -m cryozoo.benchmarks maps RUN, on the test images of finished runs.

An encoder that learnt distances (loss ``siamese_distance``) gives orientations of images that it never saw
(:mod:`cryozoo.zoo.recover`), and these a map, which is laid over the true one only to be judged. Beside it the maps
from the true orientations and from random ones, the best and the worst there can be, and the orientations that the
distances between the images themselves give, pixel by pixel.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...geometry.alignment import align_frames, align_o4
from ...geometry.pairs import pair_distance, random_pairs
from ...geometry.point_groups import point_group, restrict, symmetric_distance
from ...geometry.pose import Pose
from ...geometry.rotations import matrix_to_quaternion
from ...geometry.sampling import random_rotations
from ...imaging.back_projector import BackProjector
from ...imaging.batch import join_batches
from ...imaging.fsc import fourier_shell_correlation, resolution_at
from ...imaging.map_alignment import align_map
from ...imaging.reconstruct import combine_halves
from ...imaging.simulate import Imaging
from ...imaging.volumes import Volume, load_volume
from ...losses.siamese import SiameseDistance
from ...particles.poses import PoseTable
from ...recovery import recover_orientations
from ...training.batches import FIXED_SEED, FixedSet, simulate, split_rows
from ...training.recipe import Recipe
from ...training.run import FinishedRun, simulated
from ...zoo.distances import predicted_distances
from ...zoo.encoder import PoseEncoder
from ...zoo.evaluate import distance_metrics, predict_batches
from ...zoo.figures import BLUE, INK, MUTED, draw_directions, draw_distances, pyplot, save_figure, tidy
from ...zoo.loss import create_loss
from ...zoo.provenance import provenance
from ...zoo.recover import RecoveredPoses, recover_poses
from ..runs import markdown_table, todays_recipe
from ..suites import CONDITIONS, MOLECULES
from ..tables import training_images

SEEDS = 10
"""Of the recovery: how often it finds the camera's side."""
FOUND = 0.1
"""Radians by which the error without any truth may exceed E_OR where the camera's side was found."""
_TRAINED = ("encoder", "parameters", "steps", "cpu_s", "seed")


@dataclass(frozen=True)
class TestSet:
    """What an encoder is tried on.

    Attributes:
        images: (N, L, L), as they were before they were prepared.
        rotation: (N, 3, 3), restricted to one asymmetric unit where the training was.
        shift: (N, 2).
        pixel_size: Angstrom.
        group: point group of the object; that of nothing where the training was restricted.
        truth: the object.
    """

    images: Tensor
    rotation: Tensor
    shift: Tensor
    pixel_size: float
    group: Tensor
    truth: Volume


@dataclass(frozen=True)
class Found:
    """Poses of the test images, without any truth.

    Attributes:
        poses: N of them.
        pairs: (M, 2) some pairs.
        distances: (M,) their predicted distances.
        metrics: of how they were found.
        loss: (N,) of recovery, by particle; None where nothing was recovered.
    """

    poses: PoseTable
    pairs: Tensor
    distances: Tensor
    metrics: dict[str, float]
    loss: Tensor | None = None

    @property
    def rotation(self) -> Tensor:
        """(N, 3, 3)."""
        return torch.from_numpy(self.poses.rotation)


def open_test_set(recipe: Recipe) -> TestSet:
    """The test images of a recipe of the suite ``maps``."""
    data = simulated(recipe)
    simulator = data.simulator(recipe.image_size, recipe.pixel_size)
    count = data.images or 0
    chunks = list(simulate(simulator, count, FIXED_SEED))
    rows = split_rows(torch.arange(count), data.split)[2]
    chosen = join_batches(chunks)[rows]
    images, rotation, shift = chosen.images, chosen.pose.rotation, chosen.pose.shift
    assert rotation is not None
    assert shift is not None
    group = point_group(data.symmetry)
    if recipe.loss_args.get("restricted"):
        rotation, group = restrict(rotation, group), group[:1]
    volume = load_volume(data.volume, image_size=recipe.image_size, pixel_size=recipe.pixel_size)
    truth = volume.coarsen(recipe.image_size)
    pixel_size = simulator.projector.pixel_size
    if abs(truth.pixel_size / pixel_size - 1) > 1e-4:
        raise ValueError(
            f"the box of {data.volume} in {recipe.image_size} voxels: {truth.pixel_size:g} A each, "
            f"expected pixel_size {pixel_size:g} A, that of the images"
        )
    return TestSet(images[:, 0], rotation.double(), shift, pixel_size, group, truth)


def recover(encoder: PoseEncoder, test: TestSet) -> Found:
    """From distances alone, and how often that finds the camera's side."""

    def attempt(seed: int) -> RecoveredPoses:
        return recover_poses(encoder, test.images, pixel_size=test.pixel_size, seed=seed)

    def blind(found: RecoveredPoses) -> float:
        return float(align_frames(torch.from_numpy(found.poses.rotation), test.rotation).angles.mean())

    def e_or(found: RecoveredPoses) -> float:
        return align_o4(matrix_to_quaternion(torch.from_numpy(found.poses.rotation)), true).error

    true = matrix_to_quaternion(test.rotation)
    began = time.process_time()
    found = attempt(0)
    seconds = time.process_time() - began
    others = [found, *(attempt(seed) for seed in range(1, SEEDS))]
    metrics = {
        "recover_cpu_s": seconds,
        "E_OR": e_or(found),
        "gauge_found": statistics.mean(blind(other) < e_or(other) + FOUND for other in others),
        "gauge_residual": found.gauge.residual,
        "gauge_other_residual": found.gauge.other_residual,
    }
    if found.recovery is None:
        return Found(found.poses, found.pairs, found.distances, metrics)
    metrics |= {"L_OR": found.recovery.loss, "explained": found.recovery.explained}
    loss = found.recovery.particle_loss[: len(test.images)]
    return Found(found.poses, found.pairs, found.distances, metrics, loss)


def predict(encoder: PoseEncoder, test: TestSet) -> Found:
    """As the encoder says, where it is equivariant: then its poses have no other camera than that of the images.

    With ``E(g I) = phi(g) E(I)``, poses ``A R B`` ask that A commutes with all phi(g), among which are reflections and
    quarter turns: A is the identity, or the half turn about z, which is the other hand (:mod:`cryozoo.recovery.gauge`).
    """
    began = time.process_time()
    poses = encoder.predict(test.images, pixel_size=test.pixel_size)
    metrics = {"recover_cpu_s": time.process_time() - began}
    pairs = random_pairs(len(poses), 20_000, generator=torch.Generator().manual_seed(0))
    rotation = torch.from_numpy(poses.rotation)
    if len(test.group) == 1:
        metrics["E_OR"] = align_o4(matrix_to_quaternion(rotation), matrix_to_quaternion(test.rotation)).error
    return Found(poses, pairs, pair_distance(rotation, pairs, test.group), metrics)


def map_from(test: TestSet, rotation: Tensor, shift: Tensor) -> Volume:
    """The map of all images, Wiener-filtered by the agreement of two halves."""
    halves = []
    for first in (0, 1):
        projector = BackProjector(test.images.shape[-1], test.pixel_size, group=test.group)
        for rows in torch.arange(first, len(test.images), 2).split(128):
            projector.insert(test.images[rows], rotation[rows].float(), shift[rows].float())
        halves.append(projector)
    return combine_halves(*halves).map


def agreement(volume: Volume, truth: Volume) -> tuple[Volume, Tensor]:
    """The map laid over the true one, in the better hand, and their FSC."""
    aligned = align_map(volume, truth).aligned
    return aligned, fourier_shell_correlation(aligned.data, truth.data)


def distance_errors(encoder: PoseEncoder, recipe: Recipe) -> dict[str, float]:
    """L_DE, the mean absolute error of distances in radians, on images that trained, validated and test.

    Not on those that trained where they were new at every step: none was kept.
    """
    source = simulated(recipe)
    loss = create_loss(recipe.loss, **{"symmetry": source.symmetry, **recipe.loss_args})
    fixed = replace(source, augment="none", noise_ramp=0)
    data = fixed.open(recipe.image_size, recipe.pixel_size, torch.device("cpu"))
    if not isinstance(data, FixedSet) or not isinstance(loss, SiameseDistance):
        raise ValueError(f"a run with loss {recipe.loss}, expected siamese_distance and a fixed set of images")
    errors = {}
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    if source.new_images:
        parts.pop("train")
    for name, part in parts.items():
        part = part[:512]
        with torch.inference_mode():
            metrics = distance_metrics(loss, predict_batches(encoder, part.images), part.pose)
        errors[f"L_DE_{name}"] = math.radians(metrics["distance_mae_deg"])
    return {**errors, "L_DE_chance": math.radians(metrics["chance_distance_mae_deg"])}


def pixel_distances(images: Tensor) -> Tensor:
    """Euclidean distances between images (N, L, L), the largest pi: an estimator that learnt nothing, (N, N)."""
    distances = predicted_distances(Pose(raw=images.flatten(1)), metric="euclidean")
    return distances * (math.pi / distances.max())


def write(run: Path, picture: Path) -> dict[str, Any]:
    """Metrics of a finished run; draws them to ``picture`` (PNG)."""
    finished = FinishedRun.open(run)
    recipe, encoder = finished.recipe, finished.encoder
    test = open_test_set(recipe)
    metrics: dict[str, Any] = {"images": len(test.images), **distance_errors(encoder, recipe)}
    found = (predict if encoder.group and encoder.head.has_rotation else recover)(encoder, test)
    blind = align_frames(found.rotation, test.rotation, group=test.group)
    random = random_rotations(len(test.images), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    maps = {
        "recovered": map_from(test, found.rotation, torch.from_numpy(found.poses.shift)),
        "true": map_from(test, test.rotation, test.shift),
        "random": map_from(test, random, test.shift),
    }
    laid = {name: agreement(volume, test.truth) for name, volume in maps.items()}
    metrics |= {
        **found.metrics,
        "blind": float(blind.angles.mean()),
        "blind_median": float(blind.angles.median()),
        "blind_chance": float(align_frames(random, test.rotation, group=test.group).angles.mean()),
    }
    if len(test.group) == 1:
        pixels = recover_orientations(pixel_distances(test.images)).quaternions
        metrics["E_OR_of_pixel_distances"] = align_o4(pixels, matrix_to_quaternion(test.rotation)).error
    for name, (_, fsc) in laid.items():
        metrics[f"resolution_{name}_A"] = resolution_at(fsc, 0.5, test.pixel_size, size=test.truth.size)
    picture.parent.mkdir(parents=True, exist_ok=True)
    save_figure(_figure(found, blind.angles, test, laid, f"{encoder.name}, {run.name}"), picture)
    assert encoder.entry is not None
    return {**metrics, **{key: encoder.entry.metrics[key] for key in _TRAINED}, **provenance()}


# E_OR in radians and resolution in Angstrom at FSC 0.5, by molecule and condition, as published.
PAPER = {
    ("5j0n", "clean"): (0.20, 12.2),
    ("5j0n", "noisy"): (0.25, 15.2),
    ("5a1a", "clean"): (0.13, 8.0),
    ("5a1a", "noisy"): (0.13, 9.6),
}


def table(results: Path) -> str:
    """What :func:`write` found of the suite ``maps``, as Markdown, beside the paper's figures."""
    rows, footers = [], set()
    for path in sorted(results.glob("maps-*.json")):
        m = json.loads(path.read_text())
        run = path.stem.removeprefix("maps-")
        recipe = todays_recipe(json.loads((results / "maps" / f"{run}.json").read_text())["recipe"])
        data = simulated(recipe)
        molecule = next(name for name, (known, _) in MOLECULES.items() if known.volume == data.volume)
        condition = next(name for name, known in CONDITIONS.items() if known == data.imaging)
        e_or, resolution = PAPER[molecule, condition]
        columns = {
            "molecule": molecule,
            "images": _imaging(data.imaging),
            "encoder": recipe.encoder,
            "training images": training_images(data),
            "CPU s": f"{m['cpu_s']:.0f}",
            "L_DE train": f"{m['L_DE_train']:.3f}" if "L_DE_train" in m else "",
            "validation": f"{m['L_DE_validation']:.3f}",
            "test": f"{m['L_DE_test']:.3f}",
            "chance": f"{m['L_DE_chance']:.2f}",
            "E_OR": f"{m['E_OR']:.3f}" if "E_OR" in m else "",
            "published": f"{e_or:.2f}",
            "blind": f"{m['blind']:.3f}",
            "blind, chance": f"{m['blind_chance']:.2f}",
            "camera's side found": f"{m['gauge_found']:.0%}" if "gauge_found" in m else "not needed",
            "FSC 0.5, A": f"{m['resolution_recovered_A']:.1f}",
            "published, A": f"{resolution:.1f}",
            "true poses, A": f"{m['resolution_true_A']:.1f}",
            "random poses, A": f"{m['resolution_random_A']:.0f}",
        }
        rows.append(columns)
        footers.add((m["images"], m["commit"], m["hardware"], m["threads"], m["torch"], m["seed"]))
    lines = [
        f"{images} test images, seed {seed}. Commit {commit}; {hardware}, {threads} thread(s); torch {torch_version}."
        for images, commit, hardware, threads, torch_version, seed in sorted(footers, key=str)
    ]
    return markdown_table(list(rows[0]), [list(row.values()) for row in rows]) + "\n" + "\n".join(lines) + "\n"


def _imaging(imaging: Imaging) -> str:
    if imaging.snr is None:
        return "clean"
    return f"SNR {imaging.snr:.3f}, shifted by {imaging.shift_sigma:g} A"


def _figure(found: Found, blind: Tensor, test: TestSet, laid: dict[str, tuple[Volume, Tensor]], title: str) -> Any:
    columns = 3 if found.loss is None else 4
    figure = pyplot().figure(figsize=(4.8 * columns, 8.4), facecolor="white")
    figure.suptitle(title, x=0.02, y=0.98, ha="left", fontsize=15, color=INK, fontweight="bold")
    places = figure.add_gridspec(
        2, columns, left=0.18 / columns, right=0.985, top=0.9, bottom=0.08, wspace=0.24, hspace=0.34
    )
    axes = figure.add_subplot(places[0, 0])
    draw_distances(axes, found.distances, pair_distance(test.rotation, found.pairs, test.group))
    axes.set_xlabel("true distance (degrees)")
    _draw_errors(figure.add_subplot(places[0, 1]), found.rotation, blind, test)
    draw_directions(figure.add_subplot(places[0, 2], projection="mollweide"), found.poses.rotation)
    if found.loss is not None:
        axes = figure.add_subplot(places[0, 3])
        axes.hist(torch.rad2deg(found.loss.sqrt()).numpy(), bins=60, color=BLUE, histtype="step", lw=1.8)
        axes.set(xlim=(0, None), xlabel="loss of recovery (RMS of an image's distances, degrees)")
        axes.set_title("images", loc="left", fontsize=11, color=INK)
        tidy(axes)
    _draw_fsc(figure.add_subplot(places[1, 0]), laid, test.truth)
    _draw_maps(figure, places[1, 1:].subgridspec(1, 4, wspace=0.05), laid, test.truth)
    return figure


def _draw_errors(axes: Any, rotation: Tensor, blind: Tensor, test: TestSet) -> None:
    before = symmetric_distance(rotation, test.rotation, test.group)
    for values, colour, label in ((before, MUTED, "not aligned"), (blind, BLUE, "frame and hand aligned")):
        axes.hist(torch.rad2deg(values).numpy(), bins=90, range=(0, 180), color=colour, histtype="step", lw=1.8)
        axes.plot([], [], color=colour, lw=1.8, label=label)
    axes.set(xlim=(0, 180), xticks=(0, 45, 90, 135, 180), xlabel="error (degrees)")
    axes.set_title("images", loc="left", fontsize=11, color=INK)
    axes.legend(frameon=False, loc="upper right")
    tidy(axes)


_COLOURS = {"recovered": BLUE, "true": INK, "random": MUTED}


def _draw_fsc(axes: Any, laid: dict[str, tuple[Volume, Tensor]], truth: Volume) -> None:
    for name, (_, fsc) in laid.items():
        frequency = torch.arange(len(fsc)) / (truth.size * truth.pixel_size)
        axes.plot(frequency.numpy(), fsc.numpy(), color=_COLOURS[name], lw=2, label=f"{name} orientations")
    axes.axhline(0.5, color=MUTED, lw=0.9, ls=":")
    axes.set(xlim=(0, 0.5 / truth.pixel_size), ylim=(-0.05, 1.02), xlabel="spatial frequency (1 / A)")
    axes.set_title("FSC with the true map", loc="left", fontsize=11, color=INK)
    axes.legend(frameon=False, loc="best")
    tidy(axes)


def _draw_maps(figure: Any, places: Any, laid: dict[str, tuple[Volume, Tensor]], truth: Volume) -> None:
    shown = {"the truth": truth, **{f"{name} orientations": volume for name, (volume, _) in laid.items()}}
    for place, (name, volume) in zip(places, shown.items(), strict=True):
        axes = figure.add_subplot(place)
        axes.imshow(volume.data.sum(0).numpy(), cmap="gray", origin="lower", interpolation="bicubic")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_title(name, fontsize=10, color=INK)
