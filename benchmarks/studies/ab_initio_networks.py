"""Poses and a map from images alone: which networks find them, how surely, and at what cost; and what needs none.

    python -m cryozoo.benchmarks.studies.ab_initio_networks [SECONDS [SEEDS [DESIGN ...]]]

Table 1 of the equivariant ab initio paper, at a size that a processor does: 32 pixels, 10,000 images, an explicit grid
as the decoder, encoders of about as many multiply-accumulates, the same CPU seconds for each. A clip of 0.01 gives all
gradients one length; what that is worth is asked, too. Beside them stochastic expectation maximisation, which has no
network, alone and with a D4 encoder that learns from its poses. Each seed has other weights, or other random starts;
the images are the same. A run has converged when the mean squared distance between predicted and true rotations of
held-out images, after alignment of frame and hand, is below 0.1.

Of all designs, or of those that are named, such as "D4, L2"; the student brings its teacher. Runs that were measured
are not measured again. Prints a table and writes it to ``results/ab_initio_networks.json`` and ``.md``. On one thread.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...zoo.provenance import provenance
from ..runs import markdown_table, middle
from .ab_initio import against
from .figures import measured_at, measured_before, write_figures

if TYPE_CHECKING:
    from torch import Tensor

    from ...imaging.volumes import Volume
    from ...training.recipe import Recipe
    from ...training.trainer import TrainingResult

# Name -> file, Angstrom per pixel of 32.
MAPS = {
    "70S ribosome": ("maps/clean70S_ecoli_65.mrc", 10.0),
    "yeast 80S": ("maps/4v7r_5A.mrc", 12.5),
    "IleRS and tRNA": ("structures/1ffy.npz", 5.0),
}
# Map, SNR, shifts of so many Angstrom.
TASKS: list[tuple[str, float | None, float]] = [
    ("70S ribosome", 1.0, 0.0),
    ("70S ribosome", 1.0, 10.0),
    ("70S ribosome", 0.2, 0.0),
    ("70S ribosome", None, 0.0),
    *((name, snr, 0.0) for name in ("yeast 80S", "IleRS and tRNA") for snr in (1.0, 0.2, None)),
]
_SIZE, _IMAGES, _SPLIT = 32, 12_000, (10 / 12, 1 / 12)
_SHAPE = {"stem": "none", "depths": [1, 1, 2, 2], "kernels": [5, 3, 3, 3], "gem_p": 3.0}
_PLAIN: dict[str, Any] = {"channels": [16, 32, 64, 128], "activation": "relu", "dropout": 0.0, **_SHAPE}
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("vgg_gem-sixd_svd", _PLAIN),
    "C4": ("c4_vgg_gem-sixd_svd", {"fields": [4, 8, 16, 32], **_SHAPE}),
    "D4": ("d4_vgg_gem-sixd_svd", {"fields": [2, 4, 8, 16], **_SHAPE}),
}
DESIGNS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "plain, L2": ("plain", "reconstruction_l2", {}),
    "plain, symmetric": ("plain", "reconstruction_symmetric", {}),
    "C4, L2": ("C4", "reconstruction_l2", {}),
    "C4, mirror": ("C4", "reconstruction_mirror", {}),
    "D4, L2": ("D4", "reconstruction_l2", {}),
    "D4, mirror": ("D4", "reconstruction_mirror", {}),
    "D4, L2, grad_clip 1": ("D4", "reconstruction_l2", {"grad_clip": 1.0}),
}
_EM, _STUDENT = "EM, no network", "EM, then a D4 student"
_CONVERGED, _EVERY, _TIMED = 0.1, 100, 12
_JUDGED = ("mse", "medse", "median_deg", "acc_15")
_TAUGHT = 0.5  # share of the time that the student has


def recipe_of(task: tuple[str, float | None, float], encoder: str, loss: str, seed: int, **fields: Any) -> Recipe:
    """The recipe of one design."""
    from ...training.recipe import Recipe

    name, snr, shift = task
    file, pixel = MAPS[name]
    part, args = ENCODERS[encoder]
    data = {"volume": file, "snr": snr, "shift_sigma": shift, "images": _IMAGES, "split": list(_SPLIT)}
    plain = {
        "encoder": part,
        "backbone_args": args,
        "image_size": _SIZE,
        "pixel_size": pixel,
        "data": data,
        "shift": shift > 0,
        "loss": loss,
        "optimizer": "adam",
        "weight_decay": 0.0,
        "lr": 1e-3,
        "warmup": 0.003,
        "grad_clip": 0.01,
        "validate_every": _EVERY,
        "steps": _TIMED,
        "seed": seed,
    }
    return Recipe.from_dict(plain | fields)


def learnt(task: tuple[str, float | None, float], recipe: Recipe, seconds: float) -> dict[str, Any]:
    """Train one design for so many CPU seconds."""
    result = trained(recipe, seconds)
    volume = result.encoder.frame_map
    assert volume is not None
    return learning(result.history, result.metrics) | {"resolution_A": resolution(task, volume)}


def trained(recipe: Recipe, seconds: float, **how: Any) -> TrainingResult:
    """Train with as many steps as fit into so many CPU seconds, by what some cost."""
    from ...training.trainer import train

    cost = train(recipe, device="cpu", **how).metrics["cpu_s"] / _TIMED
    steps = max(_EVERY, round(seconds / cost / _EVERY) * _EVERY)
    return train(replace(recipe, steps=steps), device="cpu", **how)


def learning(history: list[dict[str, float]], metrics: dict[str, Any], before: float = 0.0) -> dict[str, Any]:
    """How well and how soon a network has learnt; ``before`` are CPU seconds that it builds on."""
    converged = next((row for row in history if row["mse"] < _CONVERGED), None)
    return {
        **{key: metrics[key] for key in (*_JUDGED, "steps")},
        "cpu_s": before + metrics["cpu_s"],
        "converged_step": None if converged is None else converged["step"],
        "converged_cpu_s": None if converged is None else before + converged["cpu_s"],
        "curve": {str(row["step"]): row["mse"] for row in history},
    }


def resolution(task: tuple[str, float | None, float], volume: Volume) -> float:
    """Angstrom where the map correlates with the true one to 0.5, laid over it with either hand."""
    from ...imaging.volumes import load_volume

    file, pixel = MAPS[task[0]]
    return against(volume, load_volume(file, image_size=_SIZE, pixel_size=pixel))


def maximised(task: tuple[str, float | None, float], seed: int) -> tuple[dict[str, Any], Tensor]:
    """Expectation maximisation; its figures, and the poses (N, 3, 3) of the images that train."""
    import torch

    from ...geometry.alignment import align_frames
    from ...imaging.stochastic_em import STAGES, StochasticEM
    from ...zoo.ab_initio import image_diameter
    from ...zoo.evaluate import aligned_metrics

    data = recipe_of(task, "D4", "reconstruction_l2", seed)
    fixed: Any = data.data.open(_SIZE, data.pixel_size, torch.device("cpu"), seed)
    images, test = (batch.images[:, 0] for batch in (fixed.train, fixed.test))
    pixel = fixed.preprocessing.pixel_size
    began, curve, reached = time.process_time(), {}, None
    diameter, reach = image_diameter(images[:2000]) * pixel, 2.5 * task[2]
    run = StochasticEM(images, pixel, None, diameter=diameter, reach=reach, seed=seed)
    steps, spent = 0, 0.0
    for stage in STAGES:
        run.begin(stage)
        for _ in range(stage.steps):
            run.step()
            steps += 1
            if steps % 20 == 0:
                spent += time.process_time() - began
                poses, _, _ = run.poses_of(fixed.validation.images[:, 0], None)
                curve[str(steps)] = mse = align_frames(poses, fixed.validation.pose.rotation).mse
                reached = (steps, spent) if reached is None and mse < _CONVERGED else reached
                began = time.process_time()
        run.estimate_noise()
    spent += time.process_time() - began
    poses, _, _ = run.poses_of(test, None)
    found = aligned_metrics(poses, fixed.test.pose.rotation)
    assert run.volume is not None
    figures = {
        **{key: found[key] for key in _JUDGED},
        "steps": steps,
        "cpu_s": spent,
        "converged_step": None if reached is None else reached[0],
        "converged_cpu_s": None if reached is None else reached[1],
        "curve": curve,
        "resolution_A": resolution(task, run.volume),
    }
    return figures, run.poses_of(images, None)[0]


def taught(
    task: tuple[str, float | None, float], teacher: dict[str, Any], poses: Tensor, seed: int, seconds: float
) -> dict[str, Any]:
    """A D4 encoder that learns poses which expectation maximisation found, judged as the others are."""
    from ...geometry.pose import Pose
    from ...training.objective import Supervised
    from ...zoo.evaluate import aligned_metrics, predict_batches
    from ...zoo.loss import create_loss

    @dataclass(frozen=True)
    class Taught:
        plain: Any
        symmetry: str = "C1"

        def open(self, *args: Any) -> Any:
            fixed = self.plain.open(*args)
            fixed.train = replace(fixed.train, pose=Pose(poses))
            return fixed

        def digest(self) -> str | None:
            return self.plain.digest()

        def to_dict(self) -> dict[str, Any]:
            return self.plain.to_dict()

    class Student(Supervised):
        criterion, logged = "mse", ("median_deg",)

        def measure(self, encoder: Any, batch: Any, *, thorough: bool = False) -> dict[str, Any]:
            rotation = predict_batches(encoder, batch.images).rotation
            assert rotation is not None
            return aligned_metrics(rotation, batch.pose.rotation)

    recipe = recipe_of(task, "D4", "chordal", seed, shift=False, lr=3e-3, grad_clip=1.0)
    recipe = replace(recipe, data=Taught(recipe.data))
    loss: Any = create_loss("chordal")

    def objective(*_: Any) -> Supervised:
        return Student(loss)

    result = trained(recipe, seconds, objective=objective)
    return learning(result.history, result.metrics, teacher["cpu_s"]) | {"resolution_A": teacher["resolution_A"]}


def measure(seconds: float, seeds: int, chosen: Collection[str]) -> dict[str, Any]:
    """All that was not measured."""
    import torch

    torch.set_num_threads(1)
    here = provenance()  # before any result is written, which changes the checkout
    rows = measured_before("ab_initio_networks", seconds=seconds)
    figures: dict[str, Any] = {"seconds": seconds, "rows": rows}
    done = {(row["map"], row["snr"], row["shift_A"], row["design"], row["seed"]) for row in rows}

    def add(design: str, found: dict[str, Any]) -> None:
        named = {"map": task[0], "snr": task[1], "shift_A": task[2], "design": design, "seed": seed}
        rows.append({**named, **found, **here})
        write_figures("ab_initio_networks", figures)

    for task in TASKS:
        for seed in range(seeds):
            for design, made in DESIGNS.items():
                if (*task, design, seed) not in done and design in chosen:
                    add(design, learnt(task, recipe_of(task, *made[:2], seed, **made[2]), seconds))
            if (*task, _STUDENT, seed) not in done and _STUDENT in chosen:
                found, poses = maximised(task, seed)
                student = taught(task, found, poses, seed, max(_TAUGHT * seconds, seconds - found["cpu_s"]))
                add(_EM, found)
                add(_STUDENT, student)
    return figures


def chance() -> float:
    """The MSE of rotations at random, aligned with others as those of the test are."""
    import torch

    from ...geometry.alignment import align_frames
    from ...geometry.sampling import random_rotations

    generator = torch.Generator().manual_seed(0)
    first, second = random_rotations(2000, generator=generator).chunk(2)
    return align_frames(first, second).mse


def table(figures: dict[str, Any]) -> str:
    """Markdown; medians over seeds (lowest to highest)."""

    def cell(runs: list[dict[str, Any]], key: str, digits: int) -> str:
        return middle([run[key] for run in runs if run[key] is not None], digits)

    rows = []
    for task in TASKS:
        for design in (*DESIGNS, _EM, _STUDENT):
            of_task = [row for row in figures["rows"] if (row["map"], row["snr"], row["shift_A"]) == task]
            runs = [row for row in of_task if row["design"] == design]
            if runs:
                converged = [run for run in runs if run["converged_step"] is not None]
                rows.append(
                    [
                        task[0],
                        "none" if task[1] is None else f"{task[1]:g}",
                        f"{task[2]:g}",
                        design,
                        f"{len(converged)} of {len(runs)}",
                        cell(runs, "converged_step", 0),
                        cell(runs, "converged_cpu_s", 0),
                        cell(runs, "cpu_s", 0),
                        cell(runs, "mse", 3),
                        cell(runs, "medse", 3),
                        cell(runs, "median_deg", 1),
                        cell(runs, "resolution_A", 1),
                    ]
                )
    header = ["map", "SNR", "shifts, A", "design", "converged", "after steps", "after CPU s", "CPU s in all"]
    header += ["MSE", "MedSE", "median deg", "map to FSC 0.5, A"]
    note = (
        f"{_SIZE} pixels, 10,000 images, {figures['seconds']:g} CPU seconds for each network; over seeds medians "
        f"(lowest to highest). Rotations at random have an MSE of {chance():.1f}. Steps of EM are of 200 images, "
        "others of 64; the student's count from where EM ended, and its map is that of EM. "
        f"{measured_at(figures['rows'])}."
    )
    return f"{markdown_table(header, rows)}\n{note}\n"


if __name__ == "__main__":
    given = sys.argv[1:]
    seconds, seeds, *chosen = given + ["240", "8"][len(given) :]
    if unknown := {*chosen} - {*DESIGNS, _STUDENT}:
        sys.exit(f"unknown {sorted(unknown)}; there are {[*DESIGNS, _STUDENT]}")
    measure(float(seconds), int(seeds), chosen or (*DESIGNS, _STUDENT))
