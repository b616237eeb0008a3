"""Training checkpoints: one safetensors file, written atomically, so that a kill leaves the old one or the new one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ..particles.errors import BadInput
from ..particles.files import atomic_write
from .migrations import migrated
from .recipe import Recipe

FORMAT = "cryozoo-checkpoint-1"


def save_checkpoint(path: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
    """Write groups of named tensors and JSON state to one file, replacing an older one."""
    flat = {f"{group}/{name}": t.detach().contiguous() for group, named in tensors.items() for name, t in named.items()}
    data = safetensors.torch.save(flat, metadata={"format": FORMAT, "state": json.dumps(state)})
    with atomic_write(path, overwrite=True) as file:
        file.write(data)


def load_checkpoint(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read what :func:`save_checkpoint` wrote, to the CPU: what belongs on a device is moved by who takes it."""
    groups: dict[str, dict[str, Tensor]] = {}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise BadInput(path, f"format {metadata.get('format')!r}", expected=FORMAT)
            for key in file.keys():  # noqa: SIM118 (not a mapping)
                group, _, name = key.partition("/")
                groups.setdefault(group, {})[name] = file.get_tensor(key)
    except (OSError, safetensors.SafetensorError) as error:
        raise BadInput(path, f"not readable: {error}", expected="a training checkpoint") from error
    return groups, json.loads(metadata["state"])


def has_other_steps(path: Path, state: Mapping[str, Any], recipe: Recipe, digest: str | None) -> bool:
    """Whether the checkpoint's recipe differs from this one in its number of steps, of which more are to do.

    Raises:
        BadInput: it differs in anything else, so many steps are done already, or the file with the data is another.
    """
    ours, theirs = recipe.to_dict(), _todays(state["recipe"])
    changed = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    hint = "use another folder, or --restart"
    if changed and changed != ["steps"]:
        raise BadInput(path, f"was made by another recipe (differs in {', '.join(changed)})", hint=hint)
    if state.get("table") not in (None, digest):  # none was kept of maps once
        raise BadInput(path, "was trained on another file of that name: a map or table has changed", hint=hint)
    if changed and recipe.steps <= state["step"]:
        expected = f"more than the {state['step']} that {path} has done already"
        raise BadInput(recipe.source, str(recipe.steps), where="field steps", expected=expected, hint=hint)
    return bool(changed)


def _todays(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """A recipe of a checkpoint, which an earlier version may have written, as this one would write it."""
    plain, _ = migrated(recipe)
    try:
        return Recipe.from_dict(plain).to_dict()
    except BadInput:  # of a source that no file describes
        return plain


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's per-parameter state as named tensors, ``<parameter number>.<name>``."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": torch.as_tensor(value) for i, named in state.items() for name, value in named.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put the tensors of :func:`optimizer_tensors` back."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
