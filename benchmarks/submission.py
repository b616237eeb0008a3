"""Entering the leaderboard, and what is believed of an entry: no code of others is run, numbers are made again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ..geometry.distances import geodesic_distance
from ..particles.errors import BadInput
from ..particles.files import atomic_write, make_folder, write_json
from ..particles.strict_json import strict_json
from .judge import judge
from .store import MODEL, PREDICTIONS, RESULT, Result, Store
from .task import Task, list_tasks

VERIFIED = "verified.json"
_AGREE = 1e-3  # relative, of metrics that are made again
# Images that the weights are tried on, and degrees within which most predictions agree: where a density has two modes
# that are equally high, rounding decides.
_TRIED, _SAME, _MOST = 64, 0.1, 0.9

Level = Literal["verified", "predictions checked", "claimed"]


def submit(place: Path, store: Store, *, author: str, licence: str | None = None, weights: str | None = None) -> Path:
    """Copy a result and its predictions into a store, with who made it; returns the folder.

    Args:
        place: of the result.
        store: to enter, as that of a checkout.
        author: whom to ask and to thank.
        licence: of the weights, as an SPDX identifier.
        weights: where they are: ``hf-hub:owner/repo@<commit>``.

    Raises:
        BadInput: there is no result, its predictions are others or not what it says, or the store has this run.
    """
    result = Result.read(place)
    check_predictions(result)
    target = store.place(result.asked, result.tried, result.seed)
    if (target / RESULT).exists():
        raise BadInput(target, "has a result already", hint="another seed, or a design of its own")
    with atomic_write(make_folder(target) / PREDICTIONS) as file:
        file.write((place / PREDICTIONS).read_bytes())
    replace(result, author=author, licence=licence, weights=weights).write(target)
    return target


def check_predictions(result: Result) -> None:
    """Make every metric of a result again.

    Raises:
        BadInput: predictions are others, or give other numbers.
    """
    assert result.folder is not None
    if result.status != "done":
        raise BadInput(result.folder, f"nothing to check: {result.status}, {result.reason}")
    result.asked.check_data()
    made = judge(result.asked, result.tried, result.predictions(), result.asked.test().pose)
    for name, value in result.metrics.items():
        if not _agree(made.get(name), value):
            found = f"{name} {value}, and its predictions give {made.get(name)}"
            raise BadInput(result.folder / RESULT, found, hint="metrics are written by the benchmark alone")


def verify_result(place: Path) -> Level:
    """What may be said of a result: "predictions checked", and "verified" where its weights repeat them.

    Of a task that is not one of those here it is "claimed" only: nobody knows whether its test set was trained on.

    Raises:
        BadInput: predictions are not what the result says, or the weights predict something else.
        HubError: weights cannot be reached.
    """
    from ..zoo.evaluate import predict_batches
    from ..zoo.pretrained import load_pretrained

    result = Result.read(place)
    check_predictions(result)
    task = result.asked
    if not _known(task):
        return "claimed"
    source = result.weights or (f"local-dir:{place / MODEL}" if (place / MODEL).is_dir() else None)
    if source is None:
        return "predictions checked"
    few = slice(_TRIED)
    encoder = load_pretrained(source)
    _check_same_design(result, encoder.config, source)
    poses = predict_batches(encoder, task.test().images[few])
    stated = result.predictions()
    if poses.rotation is None or stated.rotation is None:
        return "predictions checked"
    apart = geodesic_distance(poses.rotation.double(), stated.rotation[few]).rad2deg()
    if float((apart <= _SAME).double().mean()) < _MOST:
        found = f"weights whose poses are {float(apart.median()):.2f} degrees off the predictions, as a median"
        raise BadInput(place, found, where=source)
    return "verified"


def _check_same_design(result: Result, config: Mapping[str, Any], source: str) -> None:
    """Refuse weights of another network than the one that the result is of."""
    design, task = result.tried, result.asked
    plain = {name: design.to_dict().get(name, {}) for name in ("backbone_args", "head_args")}
    plain["backbone_args"] = {k: v for k, v in plain["backbone_args"].items() if k != "pretrained"}
    expected = {"name": design.encoder, **plain, "image_size": task.image_size, "shift": task.shift}
    for name, value in expected.items():
        if json.loads(json.dumps(config.get(name))) != value:
            found = f"weights of an encoder with {name} {config.get(name)!r:.100}"
            raise BadInput(source, found, expected=f"{value!r:.100}, as the design has it")


def grant(store: Store, place: Path) -> Level:
    """Verify a result and note in the store what came of it, for the page; an entry cannot say so of itself.

    Raises:
        BadInput: as :func:`verify_result`, or the result is not in the store.
    """
    if not place.resolve().is_relative_to(store.folder.resolve()):
        hint = f"cryozoo submit {place} --store {store.folder}, and then verify what it makes"
        raise BadInput(place, f"is not in {store.folder}", hint=hint)
    level = verify_result(place)
    granted = granted_levels(store)
    granted[_digest(place)] = level
    write_json(store.folder / VERIFIED, granted, overwrite=True)
    return level


def granted_levels(store: Store) -> dict[str, Any]:
    """Levels by the sha256 of ``result.json``."""
    path = store.folder / VERIFIED
    return strict_json(path.read_bytes(), path) if path.exists() else {}


def level_of(result: Result, granted: dict[str, Any]) -> Level:
    """What was granted; the predictions of all others are checked when they are shown."""
    assert result.folder is not None
    if not _known(result.asked):
        return "claimed"
    level = granted.get(_digest(result.folder))
    return "verified" if level == "verified" else "predictions checked"


def _known(task: Task) -> bool:
    """Whether it is one of those that are here."""
    return task.name in list_tasks() and Task.load(task.name).digest == task.digest


def _digest(place: Path) -> str:
    return hashlib.sha256((place / RESULT).read_bytes()).hexdigest()


def _agree(made: Any, stated: Any) -> bool:
    if isinstance(made, (int, float)) and isinstance(stated, (int, float)):
        return abs(made - stated) <= _AGREE * max(1.0, abs(stated))
    return json.dumps(made) == json.dumps(stated)
