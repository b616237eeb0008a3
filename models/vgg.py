"""VGG-like backbones: blocks of convolutions, halved by max pooling, pooled to one vector.

``vgg_gem`` is the encoder of Cryo-forum (Chung 2023, Table S1); ``siamese_cnn`` that of Banjac et al. (2021). Both
are one skeleton with different numbers, so each number is an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from ._shape import require_same_length, scaled
from .pooling import GlobalPool, Pooling
from .stems import Stem, create_stem


class ConvNet(nn.Module):
    """Stem, blocks of convolutions each followed by 2 x 2 max pooling, global pooling.

    Args:
        image_size: pixels; any size the stem allows (odd maps are padded before they are halved).
        in_chans: channels of the image.
        channels: width of each block.
        depths: convolutions in each block.
        kernels: kernel size in each block, odd.
        stem: ``lowpass``, ``gaussian`` or ``none``.
        pool: ``avg``, ``max``, ``avgmax`` or ``gem``.
        gem_p: initial exponent of GeM.
        gem_per_channel: an exponent per channel.
        norm: batch normalisation after each convolution (which then has no bias).
        activation: ``prelu`` (one slope per channel, so that any image size works) or ``relu``.
        dropout: probability after each convolution.

    Attributes:
        num_features: length of the feature vector.
        group: None, the features have no symmetry.
    """

    group: str | None = None

    def __init__(
        self,
        image_size: int,
        in_chans: int = 1,
        *,
        channels: Sequence[int],
        depths: Sequence[int],
        kernels: Sequence[int],
        stem: Stem = "none",
        pool: Pooling = "avg",
        gem_p: float = 3.0,
        gem_per_channel: bool = False,
        norm: bool = True,
        activation: Literal["prelu", "relu"] = "prelu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        require_same_length(channels=channels, depths=depths, kernels=kernels)
        self.stem = create_stem(stem, image_size, in_chans)
        layers: list[nn.Module] = []
        width = self.stem.out_channels
        for out, depth, kernel in zip(channels, depths, kernels, strict=True):
            for layer in range(depth):
                convolution = nn.Conv2d(width, out, kernel, padding=kernel // 2, bias=not norm)
                nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
                layers.append(convolution)
                if norm:
                    layers.append(nn.BatchNorm2d(out))
                layers.append(nn.PReLU(out) if activation == "prelu" else nn.ReLU())
                if layer == depth - 1:
                    layers.append(nn.MaxPool2d(2, ceil_mode=True))
                if dropout:
                    layers.append(nn.Dropout(dropout))
                width = out
        self.blocks = nn.Sequential(*layers)
        self.pool = GlobalPool(pool, width, p=gem_p, p_per_channel=gem_per_channel)
        self.num_features = self.pool.num_features

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_chans, L, L) -> features (B, num_features)."""
        return self.pool(self.blocks(self.stem(images)))


def vgg_gem(
    image_size: int,
    in_chans: int = 1,
    *,
    width: float = 1.0,
    channels: Sequence[int] = (32, 64, 128, 256, 512, 1024),
    depths: Sequence[int] = (1, 1, 2, 2, 2, 2),
    kernels: Sequence[int] = (7, 5, 3, 3, 3, 3),
    stem: Stem = "lowpass",
    pool: Pooling = "gem",
    gem_p: float = 6.0,
    gem_per_channel: bool = False,
    activation: Literal["prelu", "relu"] = "prelu",
    dropout: float = 0.3,
) -> ConvNet:
    """Cryo-forum's VGG + GeM: Table S1 of Chung 2023 with the defaults (19 M parameters at 128 pixels).

    Departures, which make every image size work: PReLU has a slope per channel (theirs: per pixel), and the exponent
    of GeM is learnt (theirs stays at 6).

    Args:
        image_size: pixels, 24 or more with the low-pass stem.
        in_chans: channels of the image.
        width: factor on all channels.
        channels, depths, kernels, stem, pool, gem_p, gem_per_channel, activation, dropout: as :class:`ConvNet`.
    """
    return ConvNet(
        image_size,
        in_chans,
        channels=scaled(channels, width),
        depths=depths,
        kernels=kernels,
        stem=stem,
        pool=pool,
        gem_p=gem_p,
        gem_per_channel=gem_per_channel,
        activation=activation,
        dropout=dropout,
    )


def siamese_cnn(
    image_size: int,
    in_chans: int = 1,
    *,
    width: float = 1.0,
    channels: Sequence[int] = (32, 64, 128, 256, 256, 512, 512),
    kernels: Sequence[int] = (7, 5, 3, 3, 3, 3, 3),
) -> ConvNet:
    """The feature extractor of Banjac et al. 2021: seven convolutions, each halved, average pooling, 512 features.

    Args:
        image_size: pixels, any.
        in_chans: channels of the image.
        width: factor on all channels.
        channels, kernels: as :class:`ConvNet`.
    """
    return ConvNet(
        image_size,
        in_chans,
        channels=scaled(channels, width),
        depths=[1] * len(channels),
        kernels=kernels,
        norm=False,
        activation="relu",
    )
