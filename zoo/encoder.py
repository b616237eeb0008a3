"""A pose encoder: preprocessing, backbone, last layer, head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Never

import numpy as np
import torch
from torch import Tensor, nn

from ..geometry.plane_groups import PlaneGroup
from ..geometry.pose import Pose
from ..heads.base import Head
from ..imaging.map_fit import MapFit
from ..imaging.preprocessing import CTFCorrection, Preprocessing
from ..imaging.volumes import Volume
from ..models.base import Backbone
from ..models.meaning import Meaning
from ..models.steerable import EquivariantLinear
from ..particles.errors import BadInput
from ..particles.poses import PoseTable
from ..particles.stack import ParticleStack
from ._source import Particles, opened
from .entry import Entry
from .match import evenly_spread, fit_map
from .match import refine as refine_poses
from .parts import BadArguments, argument_names, blaming, load_part, make_part
from .predict import predict
from .recover import RecoveredPoses, recover_poses
from .registry import Kind, split_name

_ENCODER_ARGS = ("image_size", "in_chans", "pixel_size", "ctf", "shift")
_RECIPE_FIELDS = ("shift_scale", "shift_weight")
FRAME_MAP = "frame"
"""The name of the encoder's own map, where a map is asked for."""

_PREPARE = "encoder.preprocessing(tensor, pixel_size) makes it of any images; encoder.predict takes arrays and files"


class PoseEncoder(Meaning):
    """Backbone + linear layer + rotation head, and the preprocessing that its weights expect.

    Made by :func:`create_encoder` or :func:`load_pretrained`. Where the backbone is equivariant to a group of the plane
    and the head has a representation, the linear layer is equivariant too: moving the image by g multiplies the
    rotation by phi(g) on the left, moves the shift along and leaves the confidence alone.

    Attributes:
        name: ``<backbone>-<head>``.
        group: name of the group to which poses are equivariant, or None.
        config: the arguments of :func:`create_encoder` that rebuild it.
        has_shift: whether poses have a shift.
        shift_scale: Angstrom per unit of the raw shift.
        raw_dim: numbers of the last layer.
        preprocessing: what :meth:`predict` does to images first.
        entry: what is known of its pretrained weights, an :class:`~cryozoo.zoo.entry.Entry`, or None.
        frame_map: the map of the molecule in whose frame it answers, or None where that is not recorded.
    """

    def __init__(
        self, name: str, backbone: Backbone, head: Head, preprocessing: Preprocessing, config: dict[str, Any]
    ) -> None:
        super().__init__()
        self.name = name
        # Convolutions are faster with the channels last, on CPU and GPU alike.
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.has_shift = bool(config.get("shift", False))
        # One unit of the raw shift is a twentieth of the box, about the size of real shifts.
        self.shift_scale = preprocessing.image_size * preprocessing.pixel_size / 20
        self.raw_dim = head.raw_dim + 2 * self.has_shift
        self.projection = _make_projection(backbone, head, self.has_shift)
        self.group = str(backbone.group) if isinstance(self.projection, EquivariantLinear) else None
        self.head = head
        self.preprocessing = preprocessing
        self.config = config
        self.entry: Entry | None = None
        self.frame_map: Volume | None = None

    def features(self, images: Tensor) -> Tensor:
        """Preprocessed images (B, in_chans, L, L) -> feature vectors (B, num_features)."""
        self._check(images)
        return self.backbone(images)

    def raw(self, images: Tensor) -> Tensor:
        """Preprocessed images (B, in_chans, L, L) -> last layer (B, raw_dim): numbers of the head, then the shift."""
        features = self.features(images)
        with torch.autocast(features.device.type, enabled=False):
            # The last layer stays in float32: bfloat16 keeps 3 digits, 0.4 % of a rotation entry.
            return self.projection(features.to(self._dtype))

    def pose(self, raw: Tensor, *, decode: bool = True) -> Pose:
        """(B, raw_dim) -> Pose, in float32, or in float64 if raw is; shift in Angstrom.

        Without ``decode`` it has no rotation and no confidence.
        """
        raw = raw if raw.dtype == torch.float64 else raw.float()
        own = raw[:, : self.head.raw_dim]
        pose = self.head(own) if decode else self.head(own, decode=False)
        return pose._replace(shift=raw[:, self.head.raw_dim :] * self.shift_scale) if self.has_shift else pose

    def forward(self, images: Tensor) -> Pose:
        """Preprocessed images (B, in_chans, L, L) -> Pose; shift in Angstrom."""
        return self.pose(self.raw(images))

    def _check(self, images: Tensor) -> None:
        weight, size = next(self.projection.parameters()), self.preprocessing.image_size
        shape = (self.config["in_chans"], size, size)
        if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1:] != shape:
            found = f"of shape {tuple(images.shape)}" if isinstance(images, Tensor) else f"a {type(images).__name__}"
            expected = f"expected a tensor (B, {', '.join(map(str, shape))}) of {weight.dtype}"
            error = ValueError if isinstance(images, Tensor) else TypeError
            raise error(f"{self.name}: images are {found}, {expected}; {_PREPARE}")
        if images.device != weight.device:
            hint = f"images.to({str(weight.device)!r}) moves them"
            raise ValueError(f"{self.name}: images are on {images.device}, its weights on {weight.device}; {hint}")
        castable = images.is_floating_point() and torch.is_autocast_enabled(images.device.type)
        if images.dtype != weight.dtype and not castable:
            hint = f"images.to({weight.dtype}) casts them"
            raise ValueError(f"{self.name}: images are {images.dtype}, its weights {weight.dtype}; {hint}")

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.projection.parameters()).dtype

    @property
    def meaning(self) -> str:
        """Weights of C4 and D2, or of 6D by another route, have the same shapes."""
        return f"{self.name} (group {self.backbone.group})"

    def with_head(self, name: str, *, shift: bool | None = None, **head_args: Any) -> PoseEncoder:
        """The same backbone (shared weights) with a fresh last layer and another head; by default shifts as before."""
        backbone_name, _, _ = split_name(self.name)
        config = {**self.config, "name": f"{backbone_name}-{name}", "head_args": head_args}
        config["shift"] = self.has_shift if shift is None else shift
        head = _create_head(name, head_args, self.backbone.group is not None)
        other = PoseEncoder(config["name"], self.backbone, head, self.preprocessing, config)
        return other.to(next(self.projection.parameters())).train(self.training)

    def predict(
        self,
        particles: Particles,
        *,
        batch_size: int = 256,
        pixel_size: float | None = None,
        progress: bool = False,
        done: PoseTable | None = None,
        on_batch: Callable[[PoseTable], None] | None = None,
        refine: str | Path | Volume | None = None,
        **open_args: Any,
    ) -> PoseTable:
        """Poses of particle images; see :func:`cryozoo.zoo.predict.predict`.

        With ``refine``, a map of the molecule in the encoder's frame, they are refined against it: see
        :func:`cryozoo.zoo.match.refine`. ``refine="frame"`` takes :attr:`frame_map`, which is no finer than the images
        that the network sees.

        Raises:
            BadInput: as those two, or the encoder has no map of its own.
        """
        if refine == FRAME_MAP:
            refine = self.own_map()
        poses = predict(
            self,
            particles,
            batch_size=batch_size,
            pixel_size=pixel_size,
            progress=progress,
            done=done,
            on_batch=on_batch,
            **open_args,
        )
        if refine is None:
            return poses
        if not isinstance(particles, str | Path | ParticleStack):
            pixel_size = poses.pixel_size
        device = next(self.parameters()).device
        return refine_poses(
            particles,
            refine,
            poses=poses,
            symmetry="C1" if self.entry is None else self.entry.symmetry,
            pixel_size=pixel_size,
            device=device,
            progress=progress,
            **open_args,
        )

    def own_map(self) -> Volume:
        """:attr:`frame_map`, for ``refine``.

        Raises:
            BadInput: there is none.
        """
        if self.frame_map is None:
            hint = "refine against a map of the molecule, in the frame of the encoder's poses"
            raise BadInput(self.name, "has no map of the molecule that it was trained on", hint=hint)
        return self.frame_map

    def agreement(
        self,
        particles: Particles,
        *,
        images: int = 24,
        pixel_size: float | None = None,
        **open_args: Any,
    ) -> MapFit:
        """How well some images agree with :attr:`frame_map`: are they of the molecule that the encoder knows?

        Their poses are searched for by the coarser half of what tells them, and must predict the finer half; what the
        network makes of them does not count.

        Args:
            particles: as of :meth:`predict`, and so are the other arguments.
            images: how many, evenly over all.

        Raises:
            BadInput: the encoder has no map of its own, or its molecule is larger than the images.

        Warns:
            BadInputWarning: as :func:`cryozoo.match`, where they do not agree.
        """
        own, symmetry = self.own_map(), "C1" if self.entry is None else self.entry.symmetry
        device = next(self.parameters()).device
        source = opened(particles, pixel_size, open_args, of_images=self.preprocessing.pixel_size)
        rows = evenly_spread(np.arange(len(source)), images)
        of_images = None if isinstance(source, ParticleStack) else source.pixel_size
        few = source.subset(rows) if isinstance(source, ParticleStack) else source.images(rows)
        return fit_map(few, own, symmetry=symmetry, pixel_size=of_images, device=device)

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
    ctf: CTFCorrection = "none",
    backbone_args: Mapping[str, Any] | None = None,
    head_args: Mapping[str, Any] | None = None,
    shift: bool = False,
    **misplaced: Never,
) -> PoseEncoder:
    """Build an encoder with random weights.

    Args:
        name: ``<backbone>-<head>``, for instance ``"vgg_gem-sixd_svd"``.
        image_size: box of the input in pixels.
        in_chans: channels of the input.
        pixel_size: Angstrom per pixel of the input; with 1.0 shifts come out in pixels.
        ctf: ``phase_flip`` to give the frequencies of images the sign that they would have without CTF; else ``none``.
        backbone_args: arguments of the backbone (``list_parts`` names it, its docstring lists them).
        head_args: arguments of the head, for instance ``{"lmax": 4}``.
        shift: predict how far particles are off-centre, too.
        misplaced: nothing; arguments of a part, given here, are answered with where they belong.

    Raises:
        TypeError: an argument that is not of these.
        UnknownName: no such backbone or head; the message lists the nearest names.
        ValueError: a name with a tag (that is for :func:`load_pretrained`), or an argument that a part does not know or
            that is out of range.
        PartError: the backbone or head itself fails.
    """
    backbone_name, head_name, tag = split_name(name)
    if tag is not None:
        raise ValueError(f"{name!r} names pretrained weights: load_pretrained({name!r}), or leave .{tag} away")
    backbone_args, head_args = dict(backbone_args or {}), dict(head_args or {})
    _refuse_misplaced(backbone_name, head_name, backbone_args, head_args, misplaced)
    config = {
        "name": name,
        "image_size": image_size,
        "in_chans": in_chans,
        "pixel_size": float(pixel_size),
        "ctf": ctf,
        # Weights to begin with do not rebuild it, and loading must not fetch them again.
        "backbone_args": {key: value for key, value in backbone_args.items() if key != "pretrained"},
        "head_args": head_args,
        "shift": shift,
    }
    preprocessing = Preprocessing(image_size, pixel_size, ctf)
    backbone = make_part("backbone", backbone_name, image_size, in_chans, **backbone_args)
    if not (isinstance(backbone, nn.Module) and isinstance(backbone, Backbone)):
        raise ValueError(
            f"backbone {backbone_name} states no num_features or no group: models/base.py says what one must"
        )
    head = _create_head(head_name, head_args, backbone.group is not None)
    with blaming(("backbone", backbone_name, backbone), ("head", head_name, head)):
        return PoseEncoder(name, backbone, head, preprocessing, config)


def _refuse_misplaced(
    backbone: str, head: str, backbone_args: Mapping[str, Any], head_args: Mapping[str, Any], others: Mapping[str, Any]
) -> None:
    """Say of an argument that something else takes where it belongs; what nothing takes is for the part to refuse."""
    own, of_head = argument_names("backbone", backbone), argument_names("head", head)
    homes = {
        **dict.fromkeys(_RECIPE_FIELDS, "a field of a training recipe"),
        **dict.fromkeys(_ENCODER_ARGS, "an argument of create_encoder, or a field of a recipe,"),
        **dict.fromkeys(of_head, f"an argument of the head {head} (head_args)"),
        **dict.fromkeys(own, f"an argument of the backbone {backbone} (backbone_args)"),
    }
    for key in others:
        raise TypeError(f"create_encoder: {key!r} is {homes.get(key, 'an argument of no part')}, not of create_encoder")
    given: list[tuple[Kind, str, Mapping[str, Any], list[str]]] = [
        ("backbone", backbone, backbone_args, own),
        ("head", head, head_args, of_head),
    ]
    for kind, name, args, takes in given:
        for key in args:
            if key in homes and not any(name == key or name.startswith("**") for name in takes):
                raise BadArguments(kind, name, f"{key!r} is {homes[key]} and not of the {kind}")


def _create_head(name: str, args: Mapping[str, Any], equivariant: bool) -> Head:
    defaults = getattr(load_part("head", name), "equivariant_args", {}) if equivariant else {}
    return make_part("head", name, **{**defaults, **args})


def _make_projection(backbone: Backbone, head: Head, shift: bool) -> nn.Linear | EquivariantLinear:
    features = backbone.num_features
    if backbone.group is not None:
        group = PlaneGroup(backbone.group)
        blocks = head.representation(group.phi)
        if features % len(group):
            raise ValueError(
                f"{type(backbone).__name__} declares group {group.name}, and {features} features are not fields of its "
                f"{len(group)} elements: give a multiple of {len(group)}, or group None"
            )
        if blocks is not None:
            moved = [(1, group.matrices)] if shift else []
            return EquivariantLinear(group, features // len(group), [*blocks, *moved])
    return nn.Linear(features, head.raw_dim + 2 * shift)
