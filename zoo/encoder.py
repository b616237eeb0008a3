"""A pose encoder: preprocessing, backbone, last layer, head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..geometry.plane_groups import PlaneGroup
from ..geometry.pose import Pose
from ..heads.base import Head
from ..imaging.preprocessing import Preprocessing
from ..models.meaning import Meaning
from ..models.steerable import EquivariantLinear
from ..particles.poses import PoseTable
from ._source import Particles
from .entry import Entry
from .predict import predict
from .recover import RecoveredPoses, recover_poses
from .registry import get_part, split_name


class PoseEncoder(Meaning):
    """Backbone + linear layer + rotation head, and the preprocessing that its weights expect.

    Made by :func:`create_encoder` or :func:`load_pretrained`. Where the backbone is equivariant to a group of the plane
    and the head has a representation, the linear layer is equivariant too: moving the image by g multiplies the
    rotation by phi(g) on the left, moves the shift along and leaves the confidence alone.

    Attributes:
        name: ``<backbone>-<head>``.
        group: name of the group to which poses are equivariant, or None.
        config: the arguments of :func:`create_encoder` that rebuild it.
        preprocessing: what :meth:`predict` does to images first.
        entry: what is known of its pretrained weights, an :class:`~cryozoo.zoo.entry.Entry`, or None.
    """

    def __init__(
        self, name: str, backbone: nn.Module, head: Head, preprocessing: Preprocessing, config: dict[str, Any]
    ):
        super().__init__()
        self.name = name
        # Convolutions are faster with the channels last, on CPU and GPU alike.
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.projection = _make_projection(backbone, head)
        self.group = str(backbone.group) if isinstance(self.projection, EquivariantLinear) else None
        self.head = head
        self.preprocessing = preprocessing
        self.config = config
        self.entry: Entry | None = None

    def features(self, images: Tensor) -> Tensor:
        """Preprocessed images (B, in_chans, L, L) -> feature vectors (B, num_features)."""
        expected = (self.config["in_chans"], self.preprocessing.image_size, self.preprocessing.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(f"{self.name}: images of shape {tuple(images.shape)}, expected (B, {expected})")
        if images.dtype != self._dtype and not torch.is_autocast_enabled(images.device.type):
            raise ValueError(f"{self.name}: images are {images.dtype}, its weights {self._dtype}: cast either")
        return self.backbone(images)

    def forward(self, images: Tensor) -> Pose:
        """Preprocessed images (B, in_chans, L, L) -> Pose; shift in Angstrom."""
        features = self.features(images)
        with torch.autocast(features.device.type, enabled=False):
            # The last layer stays in float32: bfloat16 keeps 3 digits, 0.4 % of a rotation entry.
            return self.head(self.projection(features.to(self._dtype)))

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.projection.parameters()).dtype

    @property
    def meaning(self) -> str:
        """Weights of C4 and D2, or of 6D by another route, have the same shapes."""
        return f"{self.name} (group {self.backbone.group})"

    def with_head(self, name: str, **head_args: Any) -> PoseEncoder:
        """The same backbone (shared weights) with a fresh last layer and another head, shifts as before."""
        backbone_name, _, _ = split_name(self.name)
        head_args = {"shift": self.head.has_shift, **head_args}
        config = {**self.config, "name": f"{backbone_name}-{name}", "head_args": head_args}
        head = _create_head(name, head_args, self.preprocessing, self.backbone.group is not None)
        other = PoseEncoder(config["name"], self.backbone, head, self.preprocessing, config)
        return other.to(next(self.projection.parameters())).train(self.training)

    def predict(
        self,
        particles: Particles,
        *,
        batch_size: int = 256,
        pixel_size: float | None = None,
        progress: bool = False,
        on_batch: Callable[[PoseTable], None] | None = None,
        **open_args: Any,
    ) -> PoseTable:
        """Poses of particle images; see :func:`cryozoo.zoo.predict.predict`."""
        return predict(
            self,
            particles,
            batch_size=batch_size,
            pixel_size=pixel_size,
            progress=progress,
            on_batch=on_batch,
            **open_args,
        )

    def recover(
        self,
        particles: Particles,
        *,
        copies: int = 64,
        symmetry: str | None = None,
        batch_size: int = 256,
        pixel_size: float | None = None,
        seed: int = 0,
        progress: bool = False,
        **open_args: Any,
    ) -> RecoveredPoses:
        """Poses of many images together, from the distances between them; see :func:`cryozoo.zoo.recover`."""
        return recover_poses(
            self,
            particles,
            copies=copies,
            symmetry=symmetry,
            batch_size=batch_size,
            pixel_size=pixel_size,
            seed=seed,
            progress=progress,
            **open_args,
        )


def create_encoder(
    name: str,
    *,
    image_size: int,
    in_chans: int = 1,
    pixel_size: float = 1.0,
    backbone_args: Mapping[str, Any] | None = None,
    head_args: Mapping[str, Any] | None = None,
) -> PoseEncoder:
    """Build an encoder with random weights.

    Args:
        name: ``<backbone>-<head>``, for instance ``"vgg_gem-sixd_svd"``.
        image_size: box of the input in pixels.
        in_chans: channels of the input.
        pixel_size: Angstrom per pixel of the input; with 1.0 shifts come out in pixels.
        backbone_args: arguments of the backbone (``list_parts`` names it, its docstring lists them).
        head_args: arguments of the head, for instance ``{"shift": True}``.

    Raises:
        UnknownName: no such backbone or head; the message lists the nearest names.
        ValueError: a name with a tag (that is for :func:`load_pretrained`) or an argument out of range.
    """
    backbone_name, head_name, tag = split_name(name)
    if tag is not None:
        raise ValueError(f"{name!r} names pretrained weights: load_pretrained({name!r}), or leave .{tag} away")
    backbone_args, head_args = dict(backbone_args or {}), dict(head_args or {})
    config = {
        "name": name,
        "image_size": image_size,
        "in_chans": in_chans,
        "pixel_size": float(pixel_size),
        # Weights to begin with do not rebuild it, and loading must not fetch them again.
        "backbone_args": {key: value for key, value in backbone_args.items() if key != "pretrained"},
        "head_args": head_args,
    }
    preprocessing = Preprocessing(image_size, pixel_size)
    backbone = get_part("backbone", backbone_name).load()(image_size, in_chans, **backbone_args)
    for attribute in ("num_features", "group"):
        if not hasattr(backbone, attribute):
            raise ValueError(f"backbone {backbone_name} states no {attribute}: models/README.md says what one must")
    head = _create_head(head_name, head_args, preprocessing, backbone.group is not None)
    return PoseEncoder(name, backbone, head, preprocessing, config)


def _create_head(name: str, args: Mapping[str, Any], preprocessing: Preprocessing, equivariant: bool) -> Head:
    # One unit of the raw shift is a twentieth of the box, about the size of real shifts.
    scale = preprocessing.image_size * preprocessing.pixel_size / 20
    make = get_part("head", name).load()
    defaults = getattr(make, "equivariant_args", {}) if equivariant else {}
    return make(shift_scale=scale, **{**defaults, **args})


def _make_projection(backbone: nn.Module, head: Head) -> nn.Linear | EquivariantLinear:
    features = int(backbone.num_features)  # type: ignore[arg-type]
    if backbone.group is not None:
        group = PlaneGroup(str(backbone.group))
        blocks = head.representation(group.phi)
        if features % len(group):
            raise ValueError(
                f"{type(backbone).__name__} declares group {group.name}, and {features} features are not fields of its "
                f"{len(group)} elements: give a multiple of {len(group)}, or group None"
            )
        if blocks is not None:
            shift = [(1, group.matrices)] if head.has_shift else []
            return EquivariantLinear(group, features // len(group), [*blocks, *shift])
    return nn.Linear(features, head.raw_dim)
