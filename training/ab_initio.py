"""Ab initio: an encoder's poses and a map, learnt together from images alone (Levy et al. 2022, arXiv:2203.08138)."""

from __future__ import annotations

from typing import Any

import torch

from ..geometry.pose import Pose, join_poses
from ..imaging.batch import Batch
from ..imaging.fourier_samples import FourierSamples
from ..imaging.volumes import Volume
from ..losses.base import LossOutput, Mismatch
from ..losses.reconstruction import Reconstruction
from ..models.decoder import Decoder
from ..particles.ctf import CTF, CTFModulus
from ..zoo.encoder import PoseEncoder
from ..zoo.evaluate import aligned_metrics
from .objective import Objective

_AT_ONCE = 256  # images


class AbInitio(Objective):
    """Images are compared with slices of the decoder at the encoder's poses; both are learnt.

    Held-out images are judged by the same residual, which needs no truth; where the data has true poses, how far
    predicted ones are from them after an alignment of frame and hand, which are arbitrary here, is logged beside it.

    Args:
        decoder: the volume.
        loss: compares.
        pixel_size: Angstrom per pixel of the images.
        own_lr: learning rate of the decoder, times that of the recipe.
        flipped: phases of the images were flipped, so that the modulus of their CTF is left.
        symmetry: point group of the object, over which errors are the least; nothing that is learnt knows it.
    """

    criterion = "residual"
    needs_poses = False
    logged: tuple[str, ...] = ("mse", "medse", "median_deg", "acc_15")

    def __init__(
        self,
        decoder: Decoder,
        loss: Reconstruction,
        pixel_size: float,
        *,
        own_lr: float = 20.0,
        flipped: bool = False,
        symmetry: str = "C1",
    ) -> None:
        super().__init__()
        self.decoder, self.loss = decoder, loss
        self.pixel_size, self.flipped = pixel_size, flipped
        self.symmetry = symmetry
        self.own_lr = own_lr
        self._samples: FourierSamples | None = None

    def forward(self, encoder: PoseEncoder, batch: Batch, progress: float) -> LossOutput:
        """As the loss says."""
        return self._compare(encoder(self.loss.shown(batch.images)), batch)

    @torch.no_grad()
    def measure(self, encoder: PoseEncoder, batch: Batch, *, thorough: bool = False) -> dict[str, Any]:
        """``residual``, and where there is a truth those of :func:`aligned_metrics`."""
        training = encoder.training
        encoder.eval()
        residuals, poses = [], []
        for start in range(0, len(batch), _AT_ONCE):
            some = batch[slice(start, start + _AT_ONCE)]
            pose = encoder(self.loss.shown(some.images))
            residuals.append(self._compare(pose, some).terms["residual"])
            # The first view is the image as it is, which is all that a prediction sees.
            poses.append(Pose(pose.rows(slice(len(some))).rotation))
        encoder.train(training)
        metrics: dict[str, Any] = {"n": len(batch), "residual": float(torch.cat(residuals).mean())}
        predicted, truth = join_poses(poses).rotation, batch.pose.rotation
        if predicted is None or truth is None:
            return metrics
        return metrics | aligned_metrics(predicted, truth, symmetry=self.symmetry)

    def finish(self, encoder: PoseEncoder) -> None:
        """The map in whose frame the encoder's poses are is the decoder's."""
        encoder.frame_map = Volume(self.decoder.volume().cpu(), self.pixel_size)

    def _compare(self, pose: Pose, batch: Batch) -> LossOutput:
        if pose.rotation is None:
            raise Mismatch("the encoder gives no rotation, at which a slice could be taken")
        if self._samples is None:
            self._samples = FourierSamples(batch.images.shape[-1], self.pixel_size, device=batch.images.device)
        ctf = batch.ctf
        if self.flipped and type(ctf) is CTF:
            ctf = CTFModulus(**vars(ctf))
        return self.loss(pose, batch.images, self.decoder, self._samples, ctf)
