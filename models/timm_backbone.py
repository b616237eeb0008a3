"""Architectures of the timm library as backbones, ``timm_<architecture>``. timm is imported when one is asked for."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

_INSTALL = "pip install 'cryozoo[timm]', with torch and torchvision from the same index"

_LARGEST = 1024
"""A transformer has tables as large as its number of patches squared: a stranger's file must not ask for any size."""


class TimmBackbone(nn.Module):
    """An architecture of timm without its classifier; the features are what timm pools.

    Args:
        arch: timm's name of the architecture without a tag, such as ``resnet18``.
        image_size: pixels; convolutional networks take almost any, transformers are made for it. A size that the
            architecture does not take is refused with one that it takes.
        in_chans: channels of the image.
        pretrained: begin with timm's ImageNet weights: True for its default ones, a tag such as ``"a1_in1k"`` for
            others. They come from the Hugging Face Hub, once. For one channel the filters of the first layer are
            summed over the colours, as if all three showed the image.

    Attributes:
        num_features: length of the feature vector.
        group: None, the features have no symmetry.

    Raises:
        ImportError: timm or torchvision is missing or broken.
        ValueError: the architecture takes no such images, or gives no feature vector.
        OSError: the ImageNet weights cannot be fetched.
    """

    group: str | None = None

    def __init__(self, arch: str, image_size: int, in_chans: int = 1, *, pretrained: bool | str = False) -> None:
        super().__init__()
        if image_size > _LARGEST:
            raise ValueError(f"images of {image_size} pixels, timm backbones take at most {_LARGEST}")
        self.model, self.num_features = _fitting(arch, image_size, in_chans)
        if pretrained:
            try:
                self.model = _create(arch, image_size, in_chans, pretrained)
            except OSError as error:
                raise OSError(
                    f"the ImageNet weights of timm's {arch} cannot be fetched from the Hugging Face Hub ({error}): "
                    "connect to the network, copy its cache (HF_HOME) from a machine that is connected, or leave "
                    "pretrained away"
                ) from error

    @staticmethod
    def names() -> list[str]:
        """All architectures."""
        return import_timm().list_models()

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_chans, L, L) -> features (B, num_features)."""
        return self.model(images)


def import_timm() -> ModuleType:
    """The library; ImportError says how to install it."""
    try:
        import timm
    except Exception as error:  # beside another torch, torchvision dies of RuntimeError and others
        broken = "" if isinstance(error, ModuleNotFoundError) else " that work together"
        raise ImportError(
            f"timm_ backbones need timm and torchvision{broken} ({type(error).__name__}: {error}): {_INSTALL}"
        ) from error
    return timm


def _create(arch: str, image_size: int, in_chans: int, pretrained: bool | str = False) -> nn.Module:
    timm = import_timm()
    args: dict[str, Any] = {}
    if timm.get_pretrained_cfg(arch).fixed_input_size:  # timm's word for: takes an img_size
        args["img_size"] = image_size
    if isinstance(pretrained, str):
        args["pretrained_cfg"] = pretrained
    # timm sums the first layer's pretrained filters over the channels when in_chans is 1, and repeats and rescales
    # them for other numbers (timm/models/_manipulate.py, adapt_input_conv).
    return timm.create_model(arch, pretrained=bool(pretrained), in_chans=in_chans, num_classes=0, **args)


def _fitting(arch: str, image_size: int, in_chans: int) -> tuple[nn.Module, int]:
    """The network and the length of its feature vector, which timm states for some of its networks only."""
    try:
        return _try(arch, image_size, in_chans)
    except _MISFITS as error:
        native = import_timm().get_pretrained_cfg(arch).input_size[-1]
        larger = {(image_size // step + 1) * step for step in (8, 14, 16, 32, 64)}
        for size in [*sorted(larger), native]:
            try:
                _try(arch, size, in_chans)
            except _MISFITS:
                continue
            reason = str(error) or type(error).__name__
            raise ValueError(f"{arch} takes no images of {image_size} pixels, {size} would do ({reason})") from error
        raise


_MISFITS = (AssertionError, IndexError, RuntimeError)
"""What networks raise when an image does not suit them, while they are built or when they see it."""


@torch.no_grad()
def _try(arch: str, image_size: int, in_chans: int) -> tuple[nn.Module, int]:
    model = _create(arch, image_size, in_chans).eval()
    for module in model.modules():
        if isinstance(module, import_timm().layers.PatchEmbed) and image_size % module.patch_size[0]:
            raise RuntimeError(f"its patches of {module.patch_size[0]} pixels would leave out the border")
    features = model(torch.zeros(1, in_chans, image_size, image_size))
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise ValueError(f"{arch} gives no feature vector")
    return model.train(), features.shape[1]
