"""A training recipe: everything that determines a trained encoder, as plain data (YAML, JSON or keyword arguments)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from ..imaging.volumes import Volume
from ..particles.errors import BadInput, BadInputWarning
from ..particles.fields import (
    BOOLEAN,
    Rule,
    check_fields,
    documented,
    from_plain,
    mapping,
    number,
    numbers,
    one_of,
    optional,
    setting,
    text,
    whole,
)
from ..particles.yaml_files import read_yaml
from .data import DataSource, Simulated, data_from_plain
from .migrations import migrated

_SHIFT_FIELDS = {"shift", "shift_scale", "shift_weight"}


@documented
@dataclass(frozen=True)
class Recipe:
    """What to train, on what, how. The same recipe on the same machine and thread count gives the same weights.

    Attributes:
        source: the file it came from, for messages.
    """

    encoder: str = setting(text("<backbone>-<head>"), "what to train", example="d4_vgg_gem_s-qcqp_bingham")
    image_size: int = setting(whole(8, 4096), "box of the network's input in pixels", example=64)
    data: DataSource = setting(  # noqa: RUF009 (makes a field, as everywhere here)
        Rule(lambda x: isinstance(x, DataSource), "names and values: a volume or particles, and how they are used"),
        "what to train on",
        example="",  # its own fields stand below it
    )
    steps: int = setting(whole(1, 10**9), "optimiser steps", example=8000)
    pixel_size: float | None = setting(
        optional(number("Angstrom", above=0, below=1e3), "that of the data"),
        "of the network's input",
        None,
        example=5.0,
    )
    backbone_args: Mapping[str, Any] = setting(mapping(), "arguments of the backbone", {})
    head_args: Mapping[str, Any] = setting(mapping(), "arguments of the head", {})
    shift: bool = setting(BOOLEAN, "predict the shift, too", True)
    shift_weight: float = setting(
        number(least=0), "weight of the shift's mean absolute error, beside a weight of 1 for the rotations", 0.3
    )
    shift_scale: float | None = setting(
        optional(number("Angstrom", above=0), "a twentieth of the box"), "shift that counts as an error of 1", None
    )
    loss: str = setting(
        text("the name of a loss"), "what compares poses with the truth", "chordal", example="bingham_nll"
    )
    loss_args: Mapping[str, Any] = setting(mapping(), "its arguments", {})
    decoder: str = setting(
        text("the name of a decoder"),
        "the map that losses reconstruction_... learn with the poses",
        "hartley_grid",
    )
    decoder_args: Mapping[str, Any] = setting(mapping(), "its arguments", {})
    decoder_lr: float = setting(number(above=0, most=1e4), "learning rate of the decoder, times lr", 20.0)
    init: str | None = setting(
        optional(text("a pretrained encoder of the same name and arguments"), "random ones"),
        "weights to begin with, such as ecoli_70s or local-dir:runs/mine/model",
        None,
    )
    init_part: Literal["encoder", "backbone"] = setting(
        one_of("encoder", "backbone"),
        "what of init to begin with; the backbone alone gets a fresh last layer, for another molecule or head",
        "encoder",
    )
    backbone_lr: float = setting(
        number(least=0, most=1), "learning rate of the backbone, times lr; 0 freezes it and its statistics", 1.0
    )
    batch_size: int = setting(whole(2, 10**9), "images per step", 64)  # 1 leaves nothing to normalise over
    optimizer: Literal["adamw", "adam", "rmsprop"] = setting(one_of("adamw", "adam", "rmsprop"), "optimiser", "adamw")
    lr: float = setting(number(above=0, below=10), "peak learning rate", 1e-3, example=3e-3)
    weight_decay: float = setting(number(least=0), "decoupled for AdamW, else L2", 0.01)
    betas: tuple[float, float] = setting(
        numbers(2, lambda x: all(0 <= b < 1 for b in x), "two numbers from 0 to below 1"),
        "of Adam and AdamW",
        (0.9, 0.99),
    )
    schedule: Literal["cosine", "onecycle"] = setting(
        one_of("cosine", "onecycle"),
        "warm-up and cosine to 0, or 30 % up from lr / 25 and cosine down to lr / 10^4",
        "cosine",
    )
    warmup: float = setting(number(least=0, most=1), "share of the steps for the cosine schedule's warm-up", 0.05)
    ema: float = setting(
        number(least=0, below=1), "decay of the moving average of the weights that is kept; 0 keeps the plain ones", 0.0
    )
    grad_clip: float = setting(number(least=0), "largest norm of the gradient; 0 does not clip", 1.0)
    precision: Literal["auto", "fp32", "bf16"] = setting(
        one_of("auto", "fp32", "bf16"), "auto is bf16 autocast on a GPU and fp32 on the CPU", "auto"
    )
    validate_every: int = setting(whole(1, 10**9), "steps between validations and checkpoints", 500)
    patience: int = setting(
        whole(0, 10**9), "validations without a better error before stopping; 0 never stops early", 0
    )
    seed: int = setting(whole(0, 255), "of the weights and of every random number of the training", 0)
    source: str = field(default="recipe", compare=False, repr=False)

    def __post_init__(self) -> None:
        check_fields(self, self.source)
        for arguments, owner in ((self.head_args, "head_args"), (self.loss_args, "loss_args")):
            if unwanted := _SHIFT_FIELDS & set(arguments):
                name = min(unwanted)
                raise BadInput(
                    self.source, f"{name} is not set here", where=f"field {owner}", hint=f"{name} is a field of its own"
                )

    @classmethod
    def load(cls, path: str | Path, **changes: Any) -> Recipe:
        """Read a YAML or JSON file; ``changes`` replace its fields."""
        return cls.from_dict({**read_yaml(path, "a training recipe"), **changes}, source=path)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: str | Path = "recipe") -> Recipe:
        """Make a recipe from plain data.

        Raises:
            BadInput: a field that is unknown, missing or of no use.

        Warns:
            BadInputWarning: fields of an earlier version of cryozoo, and which they are now.
        """
        values, changes = migrated(values)
        for change in changes:
            warnings.warn(BadInputWarning(f"{source}: {change}"), stacklevel=2)
        data = values.get("data")
        if isinstance(data, Mapping):
            values["data"] = data_from_plain(data, str(source))
        return from_plain(cls, values, str(source), source=str(source))

    def frame_map(self) -> Volume | None:
        """The map in whose frame poses are learnt; None where nobody knows it, or where distances alone are learnt."""
        if not isinstance(self.data, Simulated) or self.loss == "siamese_distance" or self.is_ab_initio:
            return None
        return self.data.frame_map(self.image_size, self.pixel_size)

    @property
    def is_ab_initio(self) -> bool:
        """Whether poses and a map are learnt from images alone, in a frame of their own."""
        return self.loss.startswith("reconstruction_")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-serialisable."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "source"}
        return json.loads(json.dumps({**values, "data": self.data.to_dict()}))
