"""The encoder of cryoAI (Levy et al. 2022): the first layers of VGG16 after Gaussian filters, then two linear ones."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ._shape import require_same_length, scaled
from .stems import Stem, create_stem


class CryoAICNN(nn.Module):
    """Stem, blocks of 3 x 3 convolutions with batch norm and ReLU, each halved, one more halving, flattened, connected.

    With the defaults this is the published network at 128 pixels (4.8 M parameters); its last linear layer is the
    encoder's. Theirs for larger images has channels (64, 128, 256, 256, 1024, 2048) and depths (2, 2, 3, 2, 2, 2).

    Departures: odd maps are padded before they are halved, so that any image size works; the stem pads with zeros
    (theirs: mirrored) and its channels are not standardised one by one, batch norm follows; convolutions that batch
    norm follows have no bias.

    Args:
        image_size: pixels, any. The flattened map, hence the first connected layer, is made for it; below 64 pixels
            the last halvings have nothing left to halve.
        in_chans: channels of the image.
        width: factor on all channels and connected features.
        channels: width of each block.
        depths: convolutions in each block.
        stem: ``gaussian``, ``lowpass`` or ``none``.
        connected: features of the fully connected layers.

    Attributes:
        num_features: length of the feature vector, the last of ``connected``.
        group: None, the features have no symmetry.
    """

    group: str | None = None

    def __init__(
        self,
        image_size: int,
        in_chans: int = 1,
        *,
        width: float = 1.0,
        channels: Sequence[int] = (64, 128, 256, 256, 256),
        depths: Sequence[int] = (2, 2, 3, 2, 2),
        stem: Stem = "gaussian",
        connected: Sequence[int] = (512, 256),
    ) -> None:
        super().__init__()
        require_same_length(channels=channels, depths=depths)
        self.stem = create_stem(stem, image_size, in_chans)
        layers: list[nn.Module] = []
        features, side = self.stem.out_channels, image_size
        for block, (out, depth) in enumerate(zip(scaled(channels, width), depths, strict=True)):
            for _ in range(depth):
                convolution = nn.Conv2d(features, out, 3, padding=1, bias=False)
                nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
                layers += [convolution, nn.BatchNorm2d(out), nn.ReLU()]
                features = out
            # Three blocks of VGG16 with its maxima; the blocks that cryoAI adds are averaged.
            layers.append((nn.MaxPool2d if block < 3 else nn.AvgPool2d)(2, ceil_mode=True))
            side = -(-side // 2)
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.blocks = nn.Sequential(*layers)
        features *= (-(-side // 2)) ** 2
        layers = []
        for out in scaled(connected, width):
            if layers:
                layers.append(nn.BatchNorm1d(features))
            layers += [nn.Linear(features, out), nn.ReLU()]
            features = out
        self.connected = nn.Sequential(*layers)
        self.num_features = features

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_chans, L, L) -> features (B, num_features)."""
        return self.connected(self.blocks(self.stem(images)).flatten(1))
