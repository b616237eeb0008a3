"""Somebody else's backbone, head and loss."""

import torch
from torch import Tensor, nn

from cryozoo.geometry.pose import Pose
from cryozoo.heads import Head
from cryozoo.losses import Loss
from cryozoo.losses.base import LossOutput


class Pool(nn.Module):
    """Two convolutions and the mean of quarters."""

    group = None

    def __init__(self, image_size: int, in_chans: int, *, width: int = 16) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width {width}, expected at least 1")
        self.num_features = 4 * width
        self.first = nn.Conv2d(in_chans, width, 5, stride=2)
        self.second = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        maps = torch.tanh(self.second(torch.tanh(self.first(images))))
        return nn.functional.adaptive_avg_pool2d(maps, 2).flatten(1)


class Cross(Head):
    """Two columns and their cross product, projected to a rotation; equivariant."""

    raw_dim = 6

    def representation(self, phi: Tensor) -> list[tuple[int, Tensor]]:
        return [(2, phi)]

    def rotation(self, raw: Tensor) -> tuple[Tensor, None]:
        tiny = raw.abs().amax(1, keepdim=True) < 1e-6
        a, b = torch.where(tiny, torch.eye(6).to(raw)[0] + torch.eye(6).to(raw)[4], raw).unflatten(1, (2, 3)).unbind(1)
        a = nn.functional.normalize(a + 1e-9 * b, dim=1)
        b = b - (a * b).sum(1, keepdim=True) * a
        parallel = b.norm(dim=1, keepdim=True) < 1e-6
        other = torch.linalg.cross(a, torch.eye(3).to(a)[a.detach().abs().argmin(1)])
        b = nn.functional.normalize(torch.where(parallel, other, b), dim=1)
        return torch.stack([a, b, torch.linalg.cross(a, b)], 2), None


class Cosine(Loss):
    """One minus the cosine of the angle."""

    def compare(self, pose: Pose, target: Tensor, progress: float) -> LossOutput:
        rotation = self.predicted_rotation(pose)
        return LossOutput({"cosine": (3 - (rotation * self.mate(rotation, target)).sum((1, 2))) / 2})
