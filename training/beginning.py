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
        where = "field decoder"
        load_part("decoder", recipe.decoder)
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
    wanted = {"in_chans": 1, "backbone_args": plain["backbone_args"]}
    if recipe.init_part == "backbone":
        backbone, ours = split_name(start.name)[0], split_name(recipe.encoder)[0]
        if backbone != ours:
            raise BadInput(recipe.source, f"{recipe.init} has backbone {backbone}", where="field init", expected=ours)
    else:
        wanted |= {"name": recipe.encoder, **{key: plain[key] for key in ("image_size", "head_args", "shift")}}
    _refuse_another(recipe, start, wanted)
    return start


def begin_from(recipe: Recipe, start: PoseEncoder, encoder: PoseEncoder) -> str:
    """Put the weights of :func:`load_start` into an encoder.

    Returns:
        their name and the first digits of their sha256.

    Raises:
        BadInput: pixels of another size, which the data may have said.
    """
    start.train()
    if recipe.init_part == "backbone":
        try:
            encoder.get_submodule("backbone").load_state_dict(start.get_submodule("backbone").state_dict())
        except RuntimeError:  # of a backbone whose layers are as large as the images
            size = start.config["image_size"]
            found, expected = f"{recipe.init} is for images of {size} pixels", f"{recipe.image_size}"
            raise BadInput(recipe.source, found, where="field init", expected=expected) from None
    else:
        _refuse_another(recipe, start, {"pixel_size": encoder.config["pixel_size"]})
        encoder.load_state_dict(start.state_dict())
    assert start.entry is not None
    part = "" if recipe.init_part == "encoder" else "backbone of "
    return f"{part}{start.entry.full_name}, sha256 {start.entry.files[MODEL].sha256[:12]}"


def _refuse_another(recipe: Recipe, start: PoseEncoder, wanted: Mapping[str, Any]) -> None:
    for key, value in wanted.items():
        if start.config[key] != value:
            found = f"{recipe.init} has {key} {start.config[key]}"
            raise BadInput(recipe.source, found, where="field init", expected=f"{value}, as what is to be trained")
