"""A design: what a row of a benchmark is caused by; and the product of designs."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..geometry.pose import Pose
from ..imaging.batch import Batch
from ..losses.base import Mismatch
from ..particles.errors import BadInput
from ..particles.fields import Rule, check_fields, documented, from_plain, mapping, setting
from ..training.recipe import Recipe
from .task import Task

_VALIDATIONS = 10


def _named(pattern: str, expected: str) -> Rule:
    """Names become folders, whose names have at most 255 letters."""
    name = re.compile(pattern.format(r"[a-z][a-z0-9_]{0,59}"))
    return Rule(lambda x: isinstance(x, str) and name.fullmatch(x) is not None, expected)


@documented
@dataclass(frozen=True)
class Design:
    """An encoder, and what it is trained for and how; the rest of a recipe is the task's."""

    encoder: str = setting(_named(r"{0}-{0}", "<backbone>-<head>"), "what is trained", example="d4_vgg_gem_s-sixd_svd")
    loss: str = setting(_named("{0}", "the name of a loss"), "what it is trained for", example="chordal")
    backbone_args: Mapping[str, Any] = setting(mapping(), "arguments of the backbone", {})
    head_args: Mapping[str, Any] = setting(mapping(), "arguments of the head", {})
    loss_args: Mapping[str, Any] = setting(mapping(), "arguments of the loss", {})
    training: Mapping[str, Any] = setting(mapping(), "other fields of the recipe, in place of the task's", {})

    def __post_init__(self) -> None:
        check_fields(self, "design")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "design") -> Design:
        """Make a design of plain data; BadInput where it is none."""
        return from_plain(cls, values, source)

    def to_dict(self) -> dict[str, Any]:
        """The fields that say something, JSON-serialisable."""
        return {name: value for name, value in json.loads(json.dumps(asdict(self))).items() if value}

    @property
    def label(self) -> str:
        """A name for folders; where it has arguments, with six digits that tell it from others."""
        plain = self.to_dict()
        more = {name: value for name, value in plain.items() if name not in ("encoder", "loss")}
        digits = hashlib.sha256(json.dumps(more, sort_keys=True).encode()).hexdigest()[:6]
        return f"{self.encoder}+{self.loss}" + (f"+{digits}" if more else "")

    def recipe(self, task: Task, seed: int, steps: int = 1) -> Recipe:
        """What the trainer does for this design and task.

        Raises:
            BadInput: a field that is of no use.
        """
        asked: dict[str, Any] = {"image_size": task.image_size, "pixel_size": task.pixel_size, "shift": task.shift}
        asked |= {"data": task.data, "seed": seed, "steps": steps}
        given = {**task.training, **self.training}
        if taken := sorted(asked.keys() & given.keys()):
            raise BadInput(self.label, f"{taken[0]} is the task's to say", where="field training")
        own = {name: value for name, value in self.to_dict().items() if name != "training"}
        spaced = {"validate_every": max(1, steps // _VALIDATIONS)}
        return Recipe.from_dict({**spaced, **given, **own, **asked}, source=self.label)


def product(backbones: Iterable[str], heads: Iterable[str], losses: Iterable[str]) -> list[Design]:
    """Every backbone with every head and every loss."""
    return [Design(f"{backbone}-{head}", loss) for backbone, head, loss in itertools.product(backbones, heads, losses)]


def why_impossible(task: Task, design: Design) -> str | None:
    """What its parts say against a design that cannot be put together, or cannot answer the task; None where it can.

    They are tried on noise. What a part raises that is no refusal is its failure, and raised.
    """
    import torch

    from ..geometry.sampling import random_rotations
    from ..training.make_objective import make_objective
    from ..zoo.encoder import create_encoder
    from ..zoo.parts import BadArguments

    count = 4
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 1, task.image_size, task.image_size, generator=generator)
    rotation = random_rotations(count, generator=generator)
    batch = Batch(images, Pose(rotation, torch.zeros(count, 2) if task.shift else None))
    try:
        recipe = design.recipe(task, 0)
        encoder = create_encoder(
            recipe.encoder,
            image_size=recipe.image_size,
            pixel_size=recipe.pixel_size or 1.0,
            backbone_args={k: v for k, v in recipe.backbone_args.items() if k != "pretrained"},
            head_args=recipe.head_args,
            shift=recipe.shift,
        )
        objective = make_objective(recipe, encoder)
        term = next(iter(objective(encoder, batch, 1.0).terms.values()))
        measured = objective.measure(encoder, batch)
    except (Mismatch, BadArguments, BadInput) as error:
        return str(error)
    if not term.requires_grad:
        return f"the loss {design.loss} tells {recipe.encoder} nothing: what it looks at has no gradient"
    measure = "mse" if "mse" in measured else objective.criterion
    return None if measure == task.metric else f"it answers by {measure}, and the task asks for {task.metric}"
