"""Backbones equivariant to rotations and flips of the image, exactly so for C4 and D4 and any image size.

All of it happens about the physical origin, pixel L // 2. On an even grid that is not the array's centre, so an even
image is extended to L + 1 pixels by its first row and column again, as periodic images have it; an odd map halved with
symmetric windows (65, 33, 17, 9, 5, 3) keeps its centre.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ..geometry.plane_groups import PlaneGroup
from ._shape import require_same_length, scaled
from .meaning import Meaning
from .pooling import GlobalPool
from .steerable import InnerBatchNorm2d, SteerableConv2d, SymmetricMaxPool2d
from .stems import Stem, create_stem


class SteerableConvNet(Meaning):
    """Stem, blocks of steerable convolutions each followed by halving, spatial reduction, fully connected blocks.

    Args:
        image_size: pixels, odd or even.
        in_chans: channels of the image.
        group: name of the group, ``C4`` or ``D4`` (exact), ``C8``, ``D8``, ... (as far as the grid allows).
        fields: regular fields of each block; as many channels are ``len(group)`` times that.
        depths: convolutions in each block.
        kernels: kernel size in each block, odd.
        stem: ``lowpass``, ``gaussian`` or ``none``.
        pool: how the last map becomes one vector: ``gem``, ``avg``, ``max``, or ``conv``, a convolution as large as it.
        gem_p: initial exponent of GeM.
        connected: fields of each fully connected block after that.

    Attributes:
        num_features: length of the feature vector, ``order * fields``, in the order of ``models/steerable.py``.
        group: name of the group.
    """

    def __init__(
        self,
        image_size: int,
        in_chans: int = 1,
        *,
        group: str,
        fields: Sequence[int],
        depths: Sequence[int],
        kernels: Sequence[int],
        stem: Stem = "none",
        pool: Literal["gem", "avg", "max", "conv"] = "gem",
        gem_p: float = 3.0,
        connected: Sequence[int] = (),
    ) -> None:
        super().__init__()
        require_same_length(fields=fields, depths=depths, kernels=kernels)
        if pool not in ("gem", "avg", "max", "conv"):
            raise ValueError(f"unknown pooling {pool!r}: gem, avg, max or conv")
        self.group = group
        self._parts = f"stem {stem}, pooling {pool}"
        plane_group = PlaneGroup(group)
        size = image_size + 1 - image_size % 2
        self.stem = create_stem(stem, size, in_chans)
        layers: list[nn.Module] = []
        width, lift = self.stem.out_channels, True
        for out, depth, kernel in zip(fields, depths, kernels, strict=True):
            for layer in range(depth):
                layers.append(SteerableConv2d(plane_group, width, out, kernel, lift=lift))
                layers.append(InnerBatchNorm2d(plane_group, out))
                if layer == depth - 1:
                    layers.append(SymmetricMaxPool2d())  # before the ReLU, which commutes with it and then costs less
                    size = (size + 1) // 2
                layers.append(nn.ReLU())
                width, lift = out, False
        self.blocks = nn.Sequential(*layers)
        self.pool: nn.Module
        if pool == "conv":
            self.pool = _ConvPool(plane_group, width, size - 1 + size % 2)
        else:
            self.pool = GlobalPool(pool, len(plane_group) * width, p=gem_p)
        layers = []
        for out in connected:
            layers += [SteerableConv2d(plane_group, width, out, 1), InnerBatchNorm2d(plane_group, out), nn.ReLU()]
            width = out
        self.connected = nn.Sequential(*layers)
        self.num_features = len(plane_group) * width

    @property
    def meaning(self) -> str:
        """Weights for C4 and D2, and with stems or poolings that have none, have the same shapes."""
        return f"SteerableConvNet (group {self.group}, {self._parts})"

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_chans, L, L) -> features (B, num_features)."""
        if images.shape[-1] % 2 == 0:
            images = F.pad(images, (0, 1, 0, 1), mode="circular")
        features = self.pool(self.blocks(self.stem(images)))
        return self.connected(features[..., None, None]).flatten(1)


class _ConvPool(nn.Module):
    """A convolution with a kernel as large as the map (one smaller if that is even, then averaged), ReLU."""

    def __init__(self, group: PlaneGroup, fields: int, kernel_size: int) -> None:
        super().__init__()
        self.convolution = SteerableConv2d(group, fields, fields, kernel_size, padding=0)
        self.norm = InnerBatchNorm2d(group, fields)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, n, n) -> (B, C)."""
        return F.relu(self.norm(self.convolution(x))).mean((2, 3))


def steerable_cnn(
    image_size: int,
    in_chans: int = 1,
    *,
    group: str,
    width: float = 1.0,
    fields: Sequence[int] | None = None,
    depths: Sequence[int] = (2, 2, 3, 2, 2),
    kernels: Sequence[int] = (3, 3, 3, 3, 3),
    stem: Stem = "gaussian",
    connected: Sequence[int] | None = None,
) -> SteerableConvNet:
    """The encoder of cryoAI made equivariant: double convolutions, a full-size convolution, fully connected blocks.

    By default as many channels as ``cryoai_cnn``, hence its cost on odd images (even ones become a pixel larger: 1.1
    times at 64 pixels), with the order of the group fewer parameters.

    Args:
        image_size: pixels, odd or even.
        in_chans: channels of the image.
        group: name of the group.
        width: factor on all fields.
        fields, depths, kernels, stem, connected: as :class:`SteerableConvNet`.
    """
    fields, connected = cnn_fields(len(PlaneGroup(group)), width, fields, connected)
    return SteerableConvNet(
        image_size,
        in_chans,
        group=group,
        fields=fields,
        depths=depths,
        kernels=kernels,
        stem=stem,
        pool="conv",
        connected=connected,
    )


def cnn_fields(
    order: int, width: float, fields: Sequence[int] | None, connected: Sequence[int] | None
) -> tuple[list[int], list[int]]:
    """Fields of the blocks and of what is connected, scaled; by default as many channels as ``cryoai_cnn`` has."""
    fields = fields if fields is not None else [max(1, c // order) for c in (64, 128, 256, 256, 256)]
    connected = connected if connected is not None else [max(1, 256 // order)] * 2
    return scaled(fields, width), scaled(connected, width)


def steerable_vgg_gem(
    image_size: int,
    in_chans: int = 1,
    *,
    group: str,
    width: float = 1.0,
    fields: Sequence[int] | None = None,
    depths: Sequence[int] = (1, 1, 2, 2, 2, 2),
    kernels: Sequence[int] = (7, 5, 3, 3, 3, 3),
    stem: Stem = "lowpass",
    pool: Literal["gem", "avg", "max", "conv"] = "gem",
    gem_p: float = 6.0,
) -> SteerableConvNet:
    """``vgg_gem`` made equivariant.

    By default as many channels, hence its cost on odd images. Even ones become a pixel larger, which all later maps
    are, too: 1.4 times the cost at 64 pixels, 1.2 at 128.

    Args:
        image_size: pixels, odd or even, 24 or more with the low-pass stem.
        in_chans: channels of the image.
        group: name of the group.
        width: factor on all fields.
        fields, depths, kernels, stem, pool, gem_p: as :class:`SteerableConvNet`.
    """
    order = len(PlaneGroup(group))
    fields = fields if fields is not None else [max(1, c // order) for c in (32, 64, 128, 256, 512, 1024)]
    return SteerableConvNet(
        image_size,
        in_chans,
        group=group,
        fields=scaled(fields, width),
        depths=depths,
        kernels=kernels,
        stem=stem,
        pool=pool,
        gem_p=gem_p,
    )
