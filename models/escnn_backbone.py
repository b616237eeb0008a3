"""Encoders of the escnn library's own modules, ``escnn_<group>_cnn``: the published equivariant encoder, as a peer.

escnn is imported when one is asked for. Its plane has y upwards where rows of images go down, its channels are in the
order ``field * elements + element``, and its elements have an order of their own: the features are put into ours.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..geometry.constants import Constants
from ..geometry.plane_groups import PlaneGroup
from ._shape import require_same_length, unsaved
from .steerable_cnn import cnn_fields
from .stems import Stem, create_stem

_INSTALL = "pip install 'cryozoo[equivariant]', together with the other extras (Python up to 3.12, Linux)"


class EscnnCNN(Constants):
    """``steerable_cnn`` of escnn's modules: blocks of convolutions, a full-size convolution, fully connected blocks.

    Args:
        member: of a group, ``c4_cnn``, ``d4_cnn``, ``c8_cnn``, ...: features are fields of its regular representation.
        image_size: pixels, odd or even; as in ``models/steerable_cnn.py`` all happens about pixel L // 2.
        in_chans: channels of the image.
        width: factor on all fields.
        fields, depths, kernels, stem, connected: as of ``steerable_cnn``.

    Attributes:
        num_features: length of the feature vector, in the order of ``models/steerable.py``.
        group: name of the group.

    Raises:
        ImportError: escnn is missing or broken.
    """

    order: Tensor

    def __init__(
        self,
        member: str,
        image_size: int,
        in_chans: int = 1,
        *,
        width: float = 1.0,
        fields: Sequence[int] | None = None,
        depths: Sequence[int] = (2, 2, 3, 2, 2),
        kernels: Sequence[int] = (3, 3, 3, 3, 3),
        stem: Stem = "gaussian",
        connected: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.group = member.partition("_")[0].upper()
        space, group = _space(self.group), PlaneGroup(self.group)
        fields, connected = cnn_fields(len(group), width, fields, connected)
        require_same_length(fields=fields, depths=depths, kernels=kernels)
        size = image_size + 1 - image_size % 2
        self.stem = create_stem(stem, size, in_chans)
        escnn = _import_escnn()
        of_image = escnn.nn.FieldType(space, self.stem.out_channels * [space.trivial_repr])
        layers: list[Any] = []

        def add(out: int, kernel: int, *, padding: int = 0, halve: bool = False) -> None:
            before = layers[-1].out_type if layers else of_image
            after = escnn.nn.FieldType(space, out * [space.regular_repr])
            # Without recompute all modules share one basis, whose type the first to become float64 changes.
            options: dict[str, Any] = {"padding": padding, "bias": False, "recompute": True}
            layers.append(escnn.nn.R2Conv(before, after, kernel, **options))
            layers.append(escnn.nn.InnerBatchNorm(after))
            if halve:  # with windows that lie symmetrically about the centre
                window = (3, 2, 1) if size % 2 else (2, 2, 0)
                layers.append(escnn.nn.PointwiseMaxPool2D(after, *window))
            layers.append(escnn.nn.ReLU(after))

        for out, depth, kernel in zip(fields, depths, kernels, strict=True):
            for layer in range(depth):
                add(out, kernel, padding=kernel // 2, halve=layer == depth - 1)
            size = (size + 1) // 2
        add(fields[-1], size - 1 + size % 2)
        self.blocks = _sequential(layers)
        layers = layers[-1:]
        for out in connected:
            add(out, 1)
        self.connected = _sequential(layers[1:])
        self.num_features = len(group) * [*fields, *connected][-1]
        self.set_constants(order=torch.tensor(_places(space, group)))

    @staticmethod
    def names() -> list[str]:
        """The groups for which there is one."""
        return [f"{kind}{n}_cnn" for kind in "cd" for n in (2, 3, 4, 6, 8, 12, 16)]

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_chans, L, L) -> features (B, num_features)."""
        if images.shape[-1] % 2 == 0:
            images = F.pad(images, (0, 1, 0, 1), mode="circular")
        x = _run(self.blocks, self.stem(images)).mean((2, 3), keepdim=True)
        x = _run(self.connected, x).flatten(1)
        return x.unflatten(1, (-1, len(self.order)))[:, :, self.order].transpose(1, 2).flatten(1)

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation.

        In evaluation escnn's convolutions would keep their filters, and save them with the weights, where they are
        stale as soon as others are loaded. They go on making filters of their weights.
        """
        for module in self.modules():
            if not hasattr(module, "basisexpansion"):
                module.training = mode
        return self

    def folded(self) -> EscnnCNN:
        """The same, of plain layers."""
        plain = copy.deepcopy(self)
        for name in ("blocks", "connected"):
            if isinstance(layers := getattr(plain, name), _import_escnn().nn.EquivariantModule):
                setattr(plain, name, layers.export())
        return plain


def _import_escnn() -> ModuleType:
    try:
        with warnings.catch_warnings():
            # It wants py3nj, of which nothing is used here, and has backslashes that Python is going to refuse.
            warnings.filterwarnings("ignore", "`py3nj` package not found", UserWarning)
            warnings.filterwarnings("ignore", "invalid escape sequence")
            import escnn
            import escnn.gspaces
            import escnn.nn
    except Exception as error:  # beside a numpy that it does not know, it dies of AttributeError and others
        found = f"({type(error).__name__}: {error})"
        raise ImportError(f"escnn_ backbones need escnn, which cannot be imported {found}: {_INSTALL}") from error
    return escnn


def _space(group: str) -> Any:
    spaces = _import_escnn().gspaces
    rotations = int(group[1:])
    return spaces.rot2dOnR2(rotations) if group[0] == "C" else spaces.flipRot2dOnR2(rotations)


def _places(space: Any, group: PlaneGroup) -> list[int]:
    """The place in escnn's list of each of our elements: that which moves (x, -y) as ours moves (x, y)."""
    upside_down = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))
    actions = [torch.from_numpy(space.basespace_action(element)).double() for element in space.fibergroup.elements]
    theirs = upside_down @ torch.stack(actions) @ upside_down
    return (theirs - group.matrices[:, None]).abs().amax((2, 3)).argmin(1).tolist()


def _sequential(layers: list[Any]) -> nn.Module:
    for layer in layers:
        unsaved(layer)
    return _import_escnn().nn.SequentialModule(*layers) if layers else nn.Identity()


def _run(layers: Any, x: Tensor) -> Tensor:
    """Plain layers, or escnn's, whose tensors know their type."""
    return layers(layers.in_type(x)).tensor if hasattr(layers, "in_type") else layers(x)
