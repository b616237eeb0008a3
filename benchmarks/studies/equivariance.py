"""Turn the particle in the plane: does the pose turn along, also by angles that the group does not contain?

For trained encoders, on noiseless projections of the volume that they were trained on, so that what is seen is the
network and not the noise: the angle between the pose of the view Rz(t) R and Rz(t) times the pose of the view R.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...geometry.distances import geodesic_distance
from ...geometry.rotations import rotvec_to_matrix
from ...geometry.sampling import random_rotations
from ...imaging.simulate import Simulator
from ...training.run import FinishedRun
from ...zoo.encoder import PoseEncoder
from ...zoo.figures import BLUE, INK, MUTED, pyplot, save_figure, tidy
from ..runs import markdown_table

ANGLES = tuple(range(0, 181, 5))
_COLOURS = (MUTED, BLUE, "#d1495b", "#edae49", "#66a182")


@torch.no_grad()
def residuals_deg(
    encoder: PoseEncoder, simulator: Simulator, angles: Sequence[float] = ANGLES, views: int = 128
) -> Tensor:
    """(angles, views) in degrees."""
    rotation = random_rotations(views, generator=torch.Generator().manual_seed(0))

    def poses(turn: Tensor) -> Tensor:
        images = simulator.projector(turn @ rotation)[:, None]
        found = encoder(encoder.preprocessing(images, simulator.projector.pixel_size)).rotation
        if found is None:
            raise ValueError(f"{encoder.name} gives no rotation")
        return found.double()

    start = poses(torch.eye(3))
    rows = []
    for angle in angles:
        turn = rotvec_to_matrix(torch.tensor([0.0, 0.0, angle]).deg2rad())
        rows.append(geodesic_distance(poses(turn), turn.double() @ start).rad2deg())
    return torch.stack(rows)


def write(runs: Sequence[Path], picture: Path) -> str:
    """Draw the curves of finished runs (folders with ``recipe.json`` and ``model/``); the medians as a table."""
    figure, axes = pyplot().subplots(figsize=(8, 4.5))
    shown = (0, 15, 30, 45, 90, 180)
    rows: list[list[str]] = []
    for run, colour in zip(runs, _COLOURS * len(runs), strict=False):
        finished = FinishedRun.open(run)
        encoder = finished.encoder
        values = residuals_deg(encoder, finished.simulator())
        median = values.median(1).values
        low, high = values.quantile(0.1, 1), values.quantile(0.9, 1)
        axes.plot(ANGLES, median, color=colour, lw=2.2, label=f"{run.name} ({encoder.group or 'no group'})")
        axes.fill_between(ANGLES, low, high, color=colour, alpha=0.15, lw=0)
        rows.append([run.name, *(f"{median[ANGLES.index(angle)]:.2g}" for angle in shown)])
    _label(axes)
    figure.tight_layout()
    save_figure(figure, picture)
    return markdown_table(["median residual in degrees, turned by", *map(str, shown)], rows)


def _label(axes: Any) -> None:
    axes.set(
        xlim=(0, 180), ylim=(0, None), xticks=range(0, 181, 45), xlabel="turn of the particle in the plane (degrees)"
    )
    axes.set_title("pose of the turned view against the turned pose, degrees", loc="left", fontsize=11, color=INK)
    axes.legend(frameon=False)
    tidy(axes)
