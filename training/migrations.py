"""Recipes of earlier versions in today's fields. A saved recipe is never edited: it is read through this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def migrated(recipe: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A recipe as plain data in today's fields, and a text for everything that was changed."""
    new, changes = dict(recipe), []
    data, loss_args = new.get("data"), new.get("loss_args")
    if "augment" in new and isinstance(data, Mapping):
        augment = new.pop("augment")
        new["data"] = {**data, "augment": augment}
        changes.append("augment is data.augment now")
    for name in ("shift_weight", "shift_scale"):
        if isinstance(loss_args, Mapping) and name in loss_args:
            new[name] = loss_args[name]
            new["loss_args"] = {key: value for key, value in new["loss_args"].items() if key != name}
            changes.append(f"loss_args.{name} is {name} now")
    return new, changes
