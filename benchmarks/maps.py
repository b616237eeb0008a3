"""From images to a map without any truth: python -m cryozoo.benchmarks maps RUN, on the test images of a finished run.

An encoder that learnt distances (loss ``siamese_distance``) gives orientations of images that it never saw
(:mod:`cryozoo.zoo.recover`), and these a map, which is laid over the true one only to be judged. Beside it the maps
from the true orientations and from random ones, the best and the worst there can be, and the orientations that the
distances between the images themselves give, pixel by pixel.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..geometry.alignment import align_frames, align_o4
from ..geometry.distances import geodesic_distance
from ..geometry.point_groups import point_group, restrict
from ..geometry.recovery import recover_orientations
from ..geometry.rotations import matrix_to_quaternion
from ..geometry.sampling import random_rotations
from ..heads.base import Pose
from ..losses.siamese import SiameseDistance
from ..particles.back_projector import BackProjector
from ..particles.fsc import fourier_shell_correlation, resolution_at
from ..particles.map_alignment import align_map
from ..particles.reconstruct import combine_halves
from ..particles.volumes import Volume
from ..zoo.commands.figures import BLUE, INK, MUTED, draw_directions, draw_distances, pyplot, save_figure, tidy
from ..zoo.data import FIXED_SEED, FixedSet, load_volume, open_data, open_simulator, simulate, split_rows
from ..zoo.distances import predicted_distances
from ..zoo.encoder import PoseEncoder
from ..zoo.evaluate import distance_metrics, predict_batches
from ..zoo.loss import create_loss
from ..zoo.pretrained import load_pretrained
from ..zoo.recipe import Recipe
from ..zoo.recover import RecoveredPoses, recover_poses

SEEDS = 10
"""Of the recovery: how often it finds the camera's side."""
FOUND = 0.1
"""Radians by which the error without any truth may exceed E_OR where the camera's side was found."""


@dataclass(frozen=True)
class TestSet:
    """What an encoder is tried on: raw images (N, L, L), rotations restricted as in the training, shifts."""

    images: Tensor
    rotation: Tensor
    shift: Tensor
    pixel_size: float
    truth: Volume


@dataclass(frozen=True)
class PoseErrors:
    """Radians, (N,) each, between recovered and true poses.

    Attributes:
        before: nothing aligned.
        o4: after the best orthogonal map of quaternions; their mean is E_OR.
        blind: after the best rotation of the object's frame, in the better hand.
    """

    before: Tensor
    o4: Tensor
    blind: Tensor


def open_test_set(recipe: Recipe) -> TestSet:
    """The test images of a recipe with a fixed simulated set, as they were before they were prepared."""
    simulator = open_simulator(recipe.data, image_size=recipe.image_size, pixel_size=recipe.pixel_size)
    chunks = list(simulate(simulator, recipe.data["images"], FIXED_SEED))
    rows = split_rows(torch.arange(recipe.data["images"]), tuple(recipe.data["split"]))[2]
    images, rotation, shift = (
        torch.cat([getattr(chunk, name) for chunk in chunks])[rows] for name in ("images", "rotation", "shift")
    )
    if recipe.loss_args.get("restricted"):
        rotation = restrict(rotation, point_group(recipe.data["symmetry"]))
    volume = load_volume(recipe.data["volume"], image_size=recipe.image_size, pixel_size=recipe.pixel_size)
    return TestSet(
        images[:, 0], rotation.double(), shift, simulator.projector.pixel_size, volume.coarsen(recipe.image_size)
    )


def pose_errors(found: RecoveredPoses, truth: Tensor) -> PoseErrors:
    """The three errors of recovered poses."""
    q, true = found.recovery.quaternions[: len(truth)], matrix_to_quaternion(truth)
    return PoseErrors(
        geodesic_distance(torch.from_numpy(found.poses.rotation), truth),
        align_o4(q, true).distances,
        align_frames(torch.from_numpy(found.poses.rotation), truth).angles,
    )


def map_from(test: TestSet, rotation: Tensor, shift: Tensor) -> Volume:
    """The map of all images, Wiener-filtered by the agreement of two halves."""
    halves = []
    for first in (0, 1):
        projector = BackProjector(test.images.shape[-1], test.pixel_size)
        for rows in torch.arange(first, len(test.images), 2).split(128):
            projector.insert(test.images[rows], rotation[rows].float(), shift[rows].float())
        halves.append(projector)
    return combine_halves(*halves).map


def agreement(volume: Volume, truth: Volume) -> tuple[Volume, Tensor]:
    """The map laid over the true one, in the better hand, and their FSC."""
    aligned = align_map(volume, truth).aligned
    return aligned, fourier_shell_correlation(aligned.data, truth.data)


def distance_errors(encoder: PoseEncoder, recipe: Recipe) -> dict[str, float]:
    """L_DE, the mean absolute error of distances in radians, on images that trained, validated and test."""
    options = {"image_size": recipe.image_size, "pixel_size": recipe.pixel_size, "augment": "none"}
    data, _ = open_data(recipe.data, device=torch.device("cpu"), **options)  # type: ignore[arg-type]
    if not isinstance(data, FixedSet):
        raise ValueError("the run has no fixed set of images")
    loss = create_loss(recipe.loss, **{"symmetry": recipe.data.get("symmetry", "C1"), **recipe.loss_args})
    if not isinstance(loss, SiameseDistance):
        raise ValueError(f"the run learnt by {recipe.loss}, expected siamese_distance")
    errors = {}
    for name, part in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        part = part[:512]
        with torch.inference_mode():
            metrics = distance_metrics(loss, predict_batches(encoder, part.images), part.target)
        errors[f"L_DE_{name}"] = math.radians(metrics["distance_mae_deg"])
    return {**errors, "L_DE_chance": math.radians(metrics["chance_distance_mae_deg"])}


def pixel_distances(images: Tensor) -> Tensor:
    """Euclidean distances between images (N, L, L), the largest pi: an estimator that learnt nothing, (N, N)."""
    distances = predicted_distances(Pose(raw=images.flatten(1)), metric="euclidean")
    return distances * (math.pi / distances.max())


def write(run: Path, picture: Path) -> dict[str, Any]:
    """Metrics of a finished run; draws them to ``picture`` (PNG)."""
    recipe = Recipe.load(run / "recipe.json")
    test, encoder = open_test_set(recipe), load_pretrained(f"local-dir:{run / 'model'}")
    began = time.process_time()
    first = recover_poses(encoder, test.images, pixel_size=test.pixel_size)
    seconds = time.process_time() - began
    attempts = [first] + [
        recover_poses(encoder, test.images, pixel_size=test.pixel_size, seed=seed) for seed in range(1, SEEDS)
    ]
    errors = [pose_errors(found, test.rotation) for found in attempts]
    gaps = [float(error.blind.mean() - error.o4.mean()) for error in errors]
    pixels = recover_orientations(pixel_distances(test.images))
    maps = {
        "recovered": (torch.from_numpy(first.poses.rotation), torch.from_numpy(first.poses.shift)),
        "true": (test.rotation, test.shift),
        "random": (random_rotations(len(test.images), generator=torch.Generator().manual_seed(0)), test.shift),
    }
    laid = {name: agreement(map_from(test, *poses), test.truth) for name, poses in maps.items()}
    metrics: dict[str, Any] = {
        "images": len(test.images),
        **distance_errors(encoder, recipe),
        "L_OR": first.recovery.loss,
        "E_OR": float(errors[0].o4.mean()),
        "E_OR_median": float(errors[0].o4.median()),
        "blind": float(errors[0].blind.mean()),
        "blind_median": float(errors[0].blind.median()),
        "blind_mean_of_seeds": statistics.mean(float(error.blind.mean()) for error in errors),
        "gauge_found": sum(gap < FOUND for gap in gaps) / SEEDS,
        "gauge_residual": first.gauge.residual,
        "gauge_other_residual": first.gauge.other_residual,
        "E_OR_of_pixel_distances": align_o4(pixels.quaternions, matrix_to_quaternion(test.rotation)).error,
        "recover_cpu_s": seconds,
    }
    for name, (_, fsc) in laid.items():
        metrics[f"resolution_{name}_A"] = resolution_at(fsc, 0.5, test.pixel_size, size=test.truth.size)
    picture.parent.mkdir(parents=True, exist_ok=True)
    save_figure(_figure(first, errors[0], test, laid, f"{encoder.name}, {run.name}"), picture)
    return metrics


def _figure(
    found: RecoveredPoses, errors: PoseErrors, test: TestSet, laid: dict[str, tuple[Volume, Tensor]], title: str
) -> Any:
    figure = pyplot().figure(figsize=(14.4, 8.4), facecolor="white")
    figure.suptitle(title, x=0.02, y=0.98, ha="left", fontsize=15, color=INK, fontweight="bold")
    places = figure.add_gridspec(2, 3, left=0.06, right=0.985, top=0.9, bottom=0.08, wspace=0.24, hspace=0.34)
    between = geodesic_distance(*test.rotation[found.pairs.T])
    axes = figure.add_subplot(places[0, 0])
    draw_distances(axes, found.distances, between)
    axes.set_xlabel("true distance (degrees)")
    _draw_errors(figure.add_subplot(places[0, 1]), errors)
    draw_directions(figure.add_subplot(places[0, 2], projection="mollweide"), found.poses.rotation)
    axes = figure.add_subplot(places[1, 0])
    per_particle = found.recovery.particle_loss[: len(test.images)].sqrt()
    axes.scatter(
        torch.rad2deg(per_particle).numpy(), torch.rad2deg(errors.o4).numpy(), s=6, color=BLUE, alpha=0.4, linewidths=0
    )
    axes.set(xlim=(0, None), ylim=(0, None), xlabel="misfit of a particle's distances (RMS, degrees)")
    axes.set_title("error of its pose (degrees)", loc="left", fontsize=11, color=INK)
    tidy(axes)
    _draw_fsc(figure.add_subplot(places[1, 1]), laid, test.truth)
    _draw_maps(figure, places[1, 2].subgridspec(2, 2, wspace=0.05, hspace=0.3), laid, test.truth)
    return figure


def _draw_errors(axes: Any, errors: PoseErrors) -> None:
    for values, colour, label in (
        (errors.before, MUTED, "not aligned"),
        (errors.blind, BLUE, "frame and hand aligned"),
        (errors.o4, INK, "aligned over O(4)"),
    ):
        axes.hist(torch.rad2deg(values).numpy(), bins=60, range=(0, 180), color=colour, histtype="step", lw=1.8)
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
    axes.legend(frameon=False, loc="lower left")
    tidy(axes)


def _draw_maps(figure: Any, places: Any, laid: dict[str, tuple[Volume, Tensor]], truth: Volume) -> None:
    shown = {"the truth": truth, **{f"{name} orientations": volume for name, (volume, _) in laid.items()}}
    for place, (name, volume) in zip(places, shown.items(), strict=True):
        axes = figure.add_subplot(place)
        axes.imshow(volume.data.sum(0).numpy(), cmap="gray", origin="lower", interpolation="bicubic")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_title(name, fontsize=10, color=INK)
