"""What a recipe names, sought before anything is read or simulated: parts, and weights to begin with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..particles.errors import BadInput
from ..zoo.encoder import PoseEncoder
from ..zoo.entry import MODEL
from ..zoo.parts import load_part
from ..zoo.pretrained import load_pretrained
from ..zoo.registry import UnknownName, split_name
from .recipe import Recipe


def check_names(recipe: Recipe) -> None:
    """Refuse parts that do not exist.

    Raises:
        BadInput: naming the field.
    """
    try:
        where = "field encoder"
        backbone, head, tag = split_name(recipe.encoder)
        if tag is not None:
            raise UnknownName(f"{recipe.encoder!r} names pretrained weights; leave .{tag} away")
        load_part("backbone", backbone)
        load_part("head", head)
        where = "field loss"
        load_part("loss", recipe.loss)
    except UnknownName as error:
        raise BadInput(recipe.source, str(error), where=where) from None


def load_start(recipe: Recipe) -> PoseEncoder:
    """The encoder whose weights a recipe begins with.

    Raises:
        BadInput: there is none, or it is another one than the recipe's.
        HubError: its repository cannot be reached.
    """
    try:
        start = load_pretrained(str(recipe.init))
    except UnknownName as error:
        raise BadInput(recipe.source, str(error), where="field init") from None
    plain = recipe.to_dict()
    plain["backbone_args"].pop("pretrained", None)
    known = {key: plain[key] for key in ("image_size", "backbone_args", "head_args", "shift")}
    _refuse_another(recipe, start, {"name": recipe.encoder, "in_chans": 1, **known})
    return start


def begin_from(recipe: Recipe, start: PoseEncoder, encoder: PoseEncoder) -> str:
    """Put the weights of :func:`load_start` into an encoder.

    Returns:
        their name and the first digits of their sha256.

    Raises:
        BadInput: pixels of another size, which the data may have said.
    """
    _refuse_another(recipe, start, {"pixel_size": encoder.config["pixel_size"]})
    encoder.load_state_dict(start.train().state_dict())
    assert start.entry is not None
    return f"{start.entry.full_name}, sha256 {start.entry.files[MODEL].sha256[:12]}"


def _refuse_another(recipe: Recipe, start: PoseEncoder, wanted: Mapping[str, Any]) -> None:
    for key, value in wanted.items():
        if start.config[key] != value:
            found = f"{recipe.init} has {key} {start.config[key]}"
            raise BadInput(recipe.source, found, where="field init", expected=f"{value}, as what is to be trained")
