"""From predictions to numbers, by code that trusts no design: the truth comes from the task."""

from __future__ import annotations

from typing import Any

from ..geometry.pose import Pose
from ..losses.siamese import SiameseDistance
from ..particles.errors import BadInput
from ..zoo.evaluate import aligned_metrics, distance_metrics, pose_metrics
from ..zoo.loss import create_loss
from .design import Design
from .task import Task


def judge(task: Task, design: Design, predicted: Pose, truth: Pose) -> dict[str, Any]:
    """The metrics of predictions.

    Args:
        task: what was asked.
        design: what answers; its loss says what distances between raw numbers mean, nothing else is asked of it.
        predicted: of the test set.
        truth: of the test set.

    Raises:
        BadInput: predictions of another number of particles, or of something else than the task asks for.
    """
    known = next((value for value in (predicted.rotation, predicted.raw) if value is not None), ())
    assert truth.rotation is not None
    if len(known) != len(truth.rotation):
        expected = f"{len(truth.rotation):,}, as the test set of {task.name} has"
        raise BadInput(design.label, f"predictions of {len(known):,} particles", expected=expected)
    if task.metric == "distance_mae_deg":
        loss = create_loss(design.loss, **design.loss_args)
        if not isinstance(loss, SiameseDistance):
            raise BadInput(design.label, f"the loss {design.loss}", expected="one that knows distances")
        return distance_metrics(loss, predicted, truth)
    if predicted.rotation is None:
        raise BadInput(design.label, "predictions without rotations", expected=f"rotations, for {task.name}")
    if task.metric == "mse":
        return aligned_metrics(predicted.rotation, truth.rotation.double(), symmetry=task.judging.symmetry)
    return pose_metrics(predicted, truth, symmetry=task.judging.symmetry)
