"""Reconstruction: how far images are from slices through a volume that is learnt with the poses."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..geometry.plane_groups import PlaneGroup
from ..geometry.pose import Pose
from ..imaging.fourier_samples import FourierSamples
from ..imaging.inplane import transform_d4, transform_pose
from ..models.decoder import Decoder
from ..particles.ctf import CTF
from .base import LossOutput

View = Literal["identity", "half_turn", "mirror"]

_D4 = PlaneGroup("D4")
_ELEMENTS: dict[View, int] = {"identity": 0, "half_turn": 2, "mirror": 4}  # in the order of the group


class Reconstruction(nn.Module):
    """The mean squared residual of an image's Fourier samples, at the pose of the better of several views.

    A young map is nearly symmetric, and poses are drawn into its spurious mates, from which gradients do not lead out.
    So the encoder is shown every image as it is and moved in its plane; each pose is moved back, and the one whose
    slice fits better counts. With the half turn that is the symmetric loss of cryoAI (Levy et al. 2022,
    arXiv:2203.08138, section 3.4); an encoder that is equivariant to quarter turns answers it with the same pose twice,
    and is shown mirror images instead. Images are moved about pixel ``L // 2``, their origin, exactly.

    Args:
        views: how every image is shown; the first is "identity".
    """

    def __init__(self, *, views: tuple[View, ...] = ("identity",)) -> None:
        super().__init__()
        self.elements = tuple(_ELEMENTS[view] for view in views)

    def shown(self, images: Tensor) -> Tensor:
        """(B, 1, L, L) as an encoder shall see them: (views B, 1, L, L), view after view."""
        return torch.cat([transform_d4(images, element) for element in self.elements])

    def moved_back(self, pose: Pose) -> Pose:
        """What poses of :meth:`shown` images say of the images themselves."""
        views = len(self.elements)
        first = pose.rotation if pose.rotation is not None else pose.shift
        assert first is not None
        back = torch.stack([_D4.matrices[element].T for element in self.elements])
        return transform_pose(pose, back.to(first).repeat_interleave(len(first) // views, 0))

    def forward(
        self, pose: Pose, images: Tensor, decoder: Decoder, samples: FourierSamples, ctf: CTF | None = None
    ) -> LossOutput:
        """Compare.

        Args:
            pose: of the :meth:`shown` images; rotations (views B, 3, 3), shifts where they are predicted.
            images: (B, 1, L, L).
            decoder: the volume.
            samples: of images like these.
            ctf: of the images, as they are now.

        Returns:
            term "residual", (B,): the mean over the samples of ``|F - CTF D|^2``; noise of variance s^2 adds s^2.
        """
        views = len(self.elements)
        pose = self.moved_back(pose)
        rotation = pose.rotation
        assert rotation is not None
        with torch.autocast(images.device.type, enabled=False):
            seen = samples.samples(images[:, 0]) / (2**0.5 * samples.image_size)
            count = len(samples.frequency)
            transfer = None if ctf is None else ctf(samples.frequency)
            predicted = decoder((samples.box * samples.frequency) @ rotation[:, :2].float())
            if pose.shift is not None:
                predicted = predicted * samples.ramp(pose.shift.float(), None, count)
            if transfer is not None:
                predicted = predicted * transfer.repeat(views, 1)
            squared = torch.view_as_real(predicted - seen.repeat(views, 1)).square()
            residual = squared.sum(-1).mean(1).unflatten(0, (views, -1))
        return LossOutput({"residual": residual.amin(0)})
