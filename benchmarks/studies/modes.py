"""Does a density over rotations show a symmetry that nobody told it of? python -m cryozoo.benchmarks modes RUN

The encoder (head ``so3_harmonic``) learnt from a symmetric molecule in poses from all of SO(3), each image with one of
its equivalent poses as the truth. Images of R and of its mates R g are the same, so the right density has a mode at
every mate, all equally high. The molecule is an atomic model whose file gives its symmetry (``sym_rots``).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...geometry.distances import geodesic_distance
from ...geometry.grids import so3_grid
from ...geometry.rotations import matrix_to_euler
from ...heads.so3_harmonic import Modes, SO3Harmonic
from ...particles.files import find_data
from ...training.data import open_data
from ...training.recipe import Recipe
from ...zoo.evaluate import predict_batches
from ...zoo.figures import INK, MUTED, pyplot, save_figure
from ...zoo.pretrained import load_pretrained
from ...zoo.provenance import provenance

NEAR = 15.0
"""Degrees within which a mode counts as that of a mate."""


def mode_metrics(modes: Modes, truth: Tensor, group: Tensor) -> dict[str, float]:
    """How the modes of N images, at least one more than the group (k, 3, 3) has elements, match the mates of the truth.

    Returns:
        ``mates``, k; ``mates_found``, the mean number of mates that one of the k highest modes is near to, and
        ``mates_found_at_random``, that k random rotations are near to; ``all_found``, the share of images with all;
        ``probability_in_modes``, of the truth near one of the k modes; ``least_over_greatest``, the mean ratio of their
        probabilities; ``probability_of_next``, that of the mode after them.
    """
    k = len(group)
    mates = truth[:, None] @ group.to(truth)

    def found(rotation: Tensor) -> Tensor:
        angle = torch.rad2deg(geodesic_distance(rotation[:, :, None].to(mates), mates[:, None]))
        return (angle.nan_to_num(180.0) < NEAR).any(1).double()

    near = math.radians(NEAR)
    ball = (near - math.sin(near)) / math.pi  # share of SO(3) within an angle
    shown, probability = found(modes.rotation[:, :k]), modes.probability.double()
    return {
        "mates": k,
        "mates_found": float(shown.sum(1).mean()),
        "all_found": float(shown.all(1).double().mean()),
        "mates_found_at_random": k * (1 - (1 - ball) ** k),
        "probability_in_modes": float(probability[:, :k].sum(1).mean()),
        "least_over_greatest": float((probability[:, k - 1] / probability[:, 0]).mean()),
        "probability_of_next": float(probability[:, k].mean()),
    }


def write(run: Path, picture: Path) -> dict[str, Any]:
    """Metrics of a finished run on its held-out particles; draws the densities of four of them to ``picture`` (PNG)."""
    recipe = Recipe.load(run / "recipe.json")
    data, _ = open_data(
        recipe.data,
        image_size=recipe.image_size,
        pixel_size=recipe.pixel_size,
        augment="none",
        device=torch.device("cpu"),
    )
    with np.load(find_data(recipe.data["volume"])) as model:
        group = torch.from_numpy(model["sym_rots"]).double()
    encoder = load_pretrained(f"local-dir:{run / 'model'}")
    head, raw = encoder.head, predict_batches(encoder, data.test.images).rotation_raw
    truth = data.test.pose.rotation
    if not isinstance(head, SO3Harmonic) or raw is None or truth is None:
        raise ValueError(f"{encoder.name} has no so3_harmonic head")
    parts = [head.modes(part, len(group) + 1) for part in raw.split(256)]
    modes = Modes(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
    picture.parent.mkdir(parents=True, exist_ok=True)
    save_figure(_figure(head, raw[:4], truth[:4].double(), group, encoder.name), picture)
    return {**mode_metrics(modes, truth.double(), group), "seed": recipe.seed, **provenance()}


def _figure(head: SO3Harmonic, raw: Tensor, truth: Tensor, group: Tensor, name: str) -> Any:
    """Each cell of the grid at its viewing direction, in the colour of its in-plane angle, as large as it is likely."""
    plt = pyplot()
    columns = math.ceil(len(raw) / 2)
    figure = plt.figure(figsize=(5.4 * columns, 6.2), facecolor="white")
    figure.suptitle(f"{name}: density over rotations of held-out images", x=0.02, ha="left", color=INK, weight="bold")
    grid = matrix_to_euler(so3_grid(head.series.order))
    probability = torch.softmax(head.log_prob_grid(raw).double(), 1)
    mates = matrix_to_euler(truth[:, None] @ group)
    for i, (share, circles) in enumerate(zip(probability, mates, strict=True)):
        axes = figure.add_subplot(2, columns, i + 1, projection="mollweide")
        likely = (share > 0.002 * share.max()).nonzero()[:, 0]
        place, hue = _on_map(grid[likely])
        axes.scatter(*place, s=300 * share[likely] / share.max(), c=hue, alpha=0.6, linewidths=0)
        place, hue = _on_map(circles)
        axes.scatter(*place, s=600, facecolors="none", edgecolors=INK, linewidths=1.5)
        axes.scatter(*place, s=60, c=hue, edgecolors=INK, linewidths=1.0)
        axes.grid(color=MUTED, alpha=0.3)
        axes.set(xticklabels=[], yticklabels=[])
    figure.text(
        0.02,
        0.02,
        "place: viewing direction; colour: in-plane angle; size: probability; circles: the true pose and its mates",
        color=MUTED,
    )
    return figure


def _on_map(euler: Tensor) -> tuple[tuple[Tensor, Tensor], Any]:
    """Longitude and latitude of the viewing directions, and colours of the in-plane angles, of (n, 3)."""
    rot, tilt, psi = euler.unbind(-1)
    return (rot, math.pi / 2 - tilt), pyplot().colormaps["hsv"]((psi / (2 * torch.pi) % 1).numpy())
