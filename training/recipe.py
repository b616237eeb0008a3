"""A training recipe: everything that determines a trained encoder, as plain data (YAML, JSON or keyword arguments)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from ..particles.errors import BadInput

Check = Callable[[Any], bool]


def _whole(low: int, high: int) -> tuple[Check, str]:
    return lambda x: type(x) is int and low <= x <= high, f"a whole number from {low} to {high:,}"


def _number(fits: Check, expected: str) -> tuple[Check, str]:
    return lambda x: type(x) in (int, float) and fits(x), f"a number {expected}"


def _one_of(*allowed: str) -> tuple[Check, str]:
    return lambda x: x in allowed, f"one of {', '.join(allowed)}"


_AT_LEAST_0 = _number(lambda x: 0 <= x < math.inf, "of at least 0")
_FIELDS: tuple[tuple[tuple[str, ...], Check, str], ...] = (
    (("encoder", "loss"), lambda x: isinstance(x, str), "a name"),
    (("data", "backbone_args", "head_args", "loss_args"), lambda x: isinstance(x, Mapping), "a mapping"),
    (("shift",), lambda x: isinstance(x, bool), "true or false"),
    (("image_size",), *_whole(8, 4096)),
    (("steps", "validate_every"), *_whole(1, 10**9)),
    (("batch_size",), *_whole(2, 10**9)),  # 1 leaves nothing to normalise over
    (("patience",), *_whole(0, 10**9)),
    (("seed",), *_whole(0, 255)),
    (("pixel_size",), lambda x: x is None or (type(x) in (int, float) and 0 < x < 1e3), "Angstrom, above 0"),
    (("lr",), *_number(lambda x: 0 < x < 10, "above 0 and below 10")),
    (("weight_decay", "grad_clip"), *_AT_LEAST_0),
    (("warmup",), *_number(lambda x: 0 <= x <= 1, "from 0 to 1, a share of the steps")),
    (("ema",), *_number(lambda x: 0 <= x < 1, "from 0 to below 1, a decay")),
    (
        ("betas",),
        lambda x: isinstance(x, tuple) and len(x) == 2 and all(type(b) in (int, float) and 0 <= b < 1 for b in x),
        "two numbers from 0 to below 1",
    ),
    (("augment",), *_one_of("none", "d4", "rotate", "simulate")),
    (("optimizer",), *_one_of("adamw", "adam", "rmsprop")),
    (("schedule",), *_one_of("cosine", "onecycle")),
    (("precision",), *_one_of("auto", "fp32", "bf16")),
)
"""What values of which fields are good for."""


@dataclass(frozen=True)
class Recipe:
    """What to train, on what, how. The same recipe on the same machine and thread count gives the same weights.

    Attributes:
        encoder: ``<backbone>-<head>``.
        image_size: box of the network's input in pixels.
        pixel_size: Angstrom per pixel of the network's input; None takes the data's.
        backbone_args: arguments of the backbone.
        head_args: arguments of the head; the shift output is switched by ``shift``.
        shift: predict the shift too.
        loss: name of the loss.
        loss_args: its arguments.
        data: a mapping with either ``particles`` (a STAR or .cs file with poses; ``datadir``), or ``volume`` (a map, an
            atomic model, or ``phantom:SEED``) and the fields of :class:`~cryozoo.imaging.simulate.Imaging`.
            ``images: N`` simulates a fixed set of N instead of new ones at every step. ``split`` gives the shares of
            training and validation of a fixed set, the rest is the test. ``symmetry`` names the point group.
            ``noise_ramp: N`` lets the noise of new ones grow over the first N steps: at low SNR, losses of pairs do not
            find the signal without.
        augment: of a fixed set, ``none``, ``d4`` (quarter turns and flips), ``rotate`` (any angle, and flips), or
            ``simulate``: new particles of the volume at every step in place of those that train.
        steps: optimiser steps.
        batch_size: images per step.
        optimizer: ``adamw``, ``adam`` or ``rmsprop``.
        lr: peak learning rate.
        weight_decay: decoupled for AdamW, else L2.
        betas: of Adam and AdamW.
        schedule: ``cosine`` (warm-up, then cosine to 0) or ``onecycle`` (30 % up from lr / 25, cosine down
            to lr / 10^4).
        warmup: share of the steps for the cosine schedule's warm-up.
        ema: decay of the exponential moving average of the weights that is evaluated and kept; 0 keeps the plain ones.
        grad_clip: largest gradient norm; 0 does not clip.
        precision: ``auto`` is bf16 autocast on a GPU and fp32 on the CPU.
        validate_every: steps between validations (also between checkpoints).
        patience: validations without a better error before stopping; 0 never stops early. The error is the median
            angle, or with loss ``siamese_distance`` the mean error of distances.
        seed: of the weights and of every random number of the training.
    """

    encoder: str
    image_size: int
    data: Mapping[str, Any]
    steps: int
    pixel_size: float | None = None
    backbone_args: Mapping[str, Any] = field(default_factory=dict)
    head_args: Mapping[str, Any] = field(default_factory=dict)
    shift: bool = True
    loss: str = "chordal"
    loss_args: Mapping[str, Any] = field(default_factory=dict)
    augment: Literal["none", "d4", "rotate", "simulate"] = "none"
    batch_size: int = 64
    optimizer: Literal["adamw", "adam", "rmsprop"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    schedule: Literal["cosine", "onecycle"] = "cosine"
    warmup: float = 0.05
    ema: float = 0.0
    grad_clip: float = 1.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    validate_every: int = 500
    patience: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for names, fits, expected in _FIELDS:
            for name in names:
                if not fits(value := getattr(self, name)):
                    raise ValueError(f"recipe: {name} {value!r}, expected {expected}")
        if unwanted := {"shift", "shift_scale"} & set(self.head_args):
            raise ValueError(
                f"recipe: head_args {min(unwanted)} is not set here; the field shift says whether there is one"
            )

    @classmethod
    def load(cls, path: str | Path, **changes: Any) -> Recipe:
        """Read a YAML or JSON file; ``changes`` replace its fields."""
        import yaml

        try:
            text = Path(path).read_text(encoding="utf-8")
            values = yaml.load(text, Loader=_loader())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise BadInput(path, f"not readable as YAML or JSON: {error}", expected="a training recipe") from error
        if not isinstance(values, dict):
            raise BadInput(path, "not a mapping", expected="a training recipe")
        return cls.from_dict({**values, **changes}, source=path)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: str | Path = "recipe") -> Recipe:
        """Make a recipe from a mapping; unknown and missing fields are refused by name."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise BadInput(source, f"unknown field {unknown[0]!r}", expected=f"one of {', '.join(sorted(known))}")
        try:
            betas = values.get("betas", cls.betas)
            return cls(**{**values, "betas": tuple(betas) if isinstance(betas, list) else betas})
        except (TypeError, ValueError) as error:
            raise BadInput(source, str(error).removeprefix("recipe: ")) from error

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-serialisable."""
        return json.loads(json.dumps(asdict(self)))


def _loader() -> type[Any]:
    """PyYAML's safe loader, which also reads 1e-3 as a number (YAML 1.1 wants 1.0e-3)."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )
    return Loader
