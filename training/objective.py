"""What a training asks for: of a batch the terms to minimise, of held-out images how good an encoder is.

An objective may have parameters of its own, which the trainer optimises, too. Another one is a subclass of
:class:`Objective`; the trainer knows none by name.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..imaging.batch import Batch
from ..losses.base import Loss, LossOutput, Mismatch
from ..losses.siamese import SiameseDistance
from ..zoo.encoder import PoseEncoder
from ..zoo.evaluate import distance_metrics, evaluate, pose_metrics, predict_batches


class Objective(nn.Module):
    """Base of the objectives.

    Attributes:
        criterion: the metric of :meth:`measure`, lower is better, by which the best weights are kept.
        logged: others that are written down at every validation.
        own_lr: learning rate of its own parameters, times that of the recipe.
        needs_poses: whether images without true poses are of no use.
    """

    criterion: str
    logged: tuple[str, ...] = ()
    own_lr: float = 1.0
    needs_poses: bool = True

    def forward(self, encoder: PoseEncoder, batch: Batch, progress: float) -> LossOutput:
        """What to minimise of a batch; ``progress`` is how much of the training is done, 0 to 1."""
        raise NotImplementedError

    def measure(self, encoder: PoseEncoder, batch: Batch, *, thorough: bool = False) -> dict[str, Any]:
        """How good the encoder is on held-out images; ``thorough`` where the training is over."""
        raise NotImplementedError

    def finish(self, encoder: PoseEncoder) -> None:
        """Hand an encoder that is about to be saved what it needs of the objective."""


class Supervised(Objective):
    """Poses are compared with true ones, image by image.

    Args:
        loss: of rotations.
        symmetry: point group over which errors are the least.
        shift_weight: weight of the shift term, the mean absolute error of both coordinates over ``shift_scale``; 0
            ignores shifts.
        shift_scale: Angstrom that count as an error of 1.
    """

    criterion = "median_deg"
    logged: tuple[str, ...] = ("mean_deg", "acc_5", "acc_10")

    def __init__(
        self, loss: Loss, *, symmetry: str = "C1", shift_weight: float = 0.0, shift_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.loss = loss
        self.symmetry = symmetry
        self.shift_weight = shift_weight
        self.shift_scale = shift_scale

    def forward(self, encoder: PoseEncoder, batch: Batch, progress: float) -> LossOutput:
        """Terms of the loss, and "shift", the mean absolute error of both coordinates in Angstrom."""
        pose = encoder.pose(encoder.raw(batch.images), decode=self.loss.reads_rotation)
        output: LossOutput = self.loss(pose, batch.pose, progress)
        if not self.shift_weight:
            return output
        if pose.shift is None or batch.pose.shift is None:
            raise Mismatch("the encoder, or the data, has no shift to compare; shift_weight 0 does without")
        shift = (pose.shift - batch.pose.shift).abs().mean(1)
        # Rounded in this order, so that a run of the first stage goes on as if nothing had happened.
        weight = float(torch.tensor(self.shift_weight) / self.shift_scale)
        return LossOutput({**output.terms, "shift": shift}, {**output.weights, "shift": weight})

    def measure(self, encoder: PoseEncoder, batch: Batch, *, thorough: bool = False) -> dict[str, Any]:
        """Errors of poses; thorough also the calibration of densities."""
        if thorough:
            return evaluate(encoder, batch, symmetry=self.symmetry)
        return pose_metrics(predict_batches(encoder, batch.images), batch.pose, symmetry=self.symmetry)


class Distances(Supervised):
    """Distances between images are compared with true ones, which fix poses up to a common frame only."""

    criterion = "distance_mae_deg"
    logged = ()
    loss: SiameseDistance

    def measure(self, encoder: PoseEncoder, batch: Batch, *, thorough: bool = False) -> dict[str, Any]:
        """Errors of distances."""
        return distance_metrics(self.loss, predict_batches(encoder, batch.images), batch.pose)
