"""Where results are kept: a folder for each run, with one JSON that says all, and the predictions it was judged by."""

from __future__ import annotations

import fcntl
import hashlib
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..geometry.pose import Pose
from ..geometry.rotations import matrix_to_quaternion, quaternion_to_matrix
from ..particles.errors import BadInput, BadInputWarning
from ..particles.fields import (
    Rule,
    check_fields,
    from_plain,
    is_number,
    mapping,
    one_of,
    optional,
    setting,
    text,
    whole,
)
from ..particles.files import atomic_write, make_folder, open_regular, write_json
from ..particles.strict_json import strict_json
from .design import Design
from .task import Task

RESULT, PREDICTIONS, MODEL = "result.json", "predictions.npz", "model"
_FORMAT = "cryozoo-result-1"
_LINE = Rule(lambda x: isinstance(x, str) and 0 < len(x) <= 200 and x.isprintable(), "a line of text")
_LARGEST = 64 * 2**20  # bytes of a file that is read
_UNIT = 1e-4  # by which float32 quaternions may be off
_FIXED = re.compile(r"hf-hub:[\w.-]+/[\w.-]+@[0-9a-f]{40}")
SPENT = ("parameters", "gmacs", "ms_per_image", "peak_memory_mb", "steps", "cpu_s", "wall_s")
"""What a result that is done states of its cost."""


@dataclass(frozen=True)
class Result:
    """What came of one design at one task with one seed. Tables and pages are functions of results alone.

    Attributes:
        folder: where it was read; None of one that was not written yet.
    """

    task: Mapping[str, Any] = setting(mapping(), "the name and the fields of what was asked")
    design: Mapping[str, Any] = setting(mapping(), "what was tried")
    seed: int = setting(whole(0, 255), "of weights and batches")
    status: Literal["done", "failed", "impossible"] = setting(one_of("done", "failed", "impossible"), "how it ended")
    reason: str | None = setting(optional(text("a line"), "that it was done"), "why it failed, or cannot be", None)
    recipe: Mapping[str, Any] = setting(mapping(), "what was trained", {})
    metrics: Mapping[str, Any] = setting(mapping(), "made of the predictions alone", {})
    cost: Mapping[str, Any] = setting(mapping(), "parameters, GMACs, times and memory", {})
    provenance: Mapping[str, Any] = setting(mapping(), "versions, commit and hardware", {})
    history: tuple[Mapping[str, Any], ...] = setting(
        Rule(lambda x: isinstance(x, tuple) and all(isinstance(row, dict) for row in x), "names and values, repeated"),
        "what every validation found",
        (),
    )
    author: str | None = setting(optional(_LINE, "whoever keeps the store"), "whom to ask", None)
    licence: str | None = setting(optional(_LINE, "not stated"), "of the weights, as an SPDX identifier", None)
    weights: str | None = setting(
        optional(
            Rule(lambda x: isinstance(x, str) and _FIXED.fullmatch(x) is not None, "hf-hub:owner/repo@<40 digits>"),
            "beside the result, or nowhere",
        ),
        "where the weights are, which nobody can change there",
        None,
    )
    predictions_sha256: str | None = setting(optional(text("64 hexadecimal digits"), "none"), "of their file", None)
    folder: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        check_fields(self, "result")

    @classmethod
    def read(cls, folder: Path) -> Result:
        """Read ``result.json``.

        Raises:
            BadInput: it is none, or names a task or design that cannot be.
        """
        path = folder / RESULT
        plain = strict_json(_read(path), path)
        if (found := plain.pop("format", None)) != _FORMAT:
            raise BadInput(path, f"format {found!r}", expected=_FORMAT)
        result = from_plain(cls, plain, str(path), folder=folder)
        task = dict(result.task)
        Task.from_dict(task, str(task.pop("name", "")), str(path))
        Design.from_dict(result.design, str(path))
        if result.status == "done":
            result.check_shown(path)
        return result

    def check_shown(self, path: Path) -> None:
        """Refuse a result without what tables and pages show of one that is done."""
        numbers: dict[str, Any] = {f"cost.{key}": self.cost.get(key) for key in SPENT}
        numbers |= {f"history[{k}].cpu_s": row.get("cpu_s") for k, row in enumerate(self.history)}
        for field_name, value in numbers.items():
            if not is_number(value) or value < 0:
                raise BadInput(path, f"{value!r:.60}", where=f"field {field_name}", expected="a number of at least 0")
        for key in ("cryozoo", "commit", "hardware"):
            value = self.provenance.get(key)
            if not (_LINE.fits(value) or (key == "commit" and value is None)):
                raise BadInput(path, f"{value!r:.60}", where=f"field provenance.{key}", expected=_LINE.expected)

    @property
    def made_by(self) -> str:
        """The commit, or the version of a package that is no checkout."""
        return str(self.provenance["commit"] or f"version {self.provenance['cryozoo']}")

    def write(self, folder: Path) -> None:
        """Write ``result.json``, in place of another one."""
        plain = asdict(self)
        del plain["folder"]
        write_json(make_folder(folder) / RESULT, {"format": _FORMAT, **plain}, overwrite=True)

    @property
    def asked(self) -> Task:
        """The task."""
        plain = dict(self.task)
        return Task.from_dict(plain, str(plain.pop("name")))

    @property
    def tried(self) -> Design:
        """The design."""
        return Design.from_dict(self.design)

    @property
    def label(self) -> str:
        """Of the design."""
        return self.tried.label

    def predictions(self) -> Pose:
        """What was predicted of the test set.

        Raises:
            BadInput: there is nothing, or it is not what the result was made of.
        """
        assert self.folder is not None
        path = self.folder / PREDICTIONS
        data = _read(path)
        if hashlib.sha256(data).hexdigest() != self.predictions_sha256:
            raise BadInput(path, "not the predictions that the result was made of: their sha256 is another one")
        return _unpacked(data, path)


def write_predictions(folder: Path, poses: Pose) -> str:
    """Write ``predictions.npz``; returns its sha256.

    Rotations are unit quaternions (N, 4) w x y z, shifts (N, 2) in Angstrom; what a design learns in place of rotations
    is kept as its raw numbers. All float32, in the order of the test set.
    """
    columns = {"shift": poses.shift, "confidence": poses.confidence}
    if poses.rotation is None:
        columns["raw"] = poses.raw
    else:
        columns["quaternion"] = matrix_to_quaternion(poses.rotation.double())
    arrays = {name: value.float().numpy() for name, value in columns.items() if value is not None}
    packed = BytesIO()
    np.savez(packed, **arrays)  # type: ignore[arg-type]
    with atomic_write(make_folder(folder) / PREDICTIONS, overwrite=True) as file:
        file.write(packed.getvalue())
    return hashlib.sha256(packed.getvalue()).hexdigest()


def _unpacked(data: bytes, path: Path) -> Pose:
    try:
        with np.load(BytesIO(data), allow_pickle=False) as archive:
            if sum(info.file_size for info in archive.zip.infolist()) > _LARGEST:
                raise ValueError("too large")
            arrays = {name: torch.from_numpy(archive[name]) for name in archive.files}
        _check_arrays(arrays)
        quaternion = arrays.pop("quaternion", None)
        if quaternion is not None:
            arrays["rotation"] = quaternion_to_matrix(torch.nn.functional.normalize(quaternion.double(), dim=1))
        return Pose(**arrays)
    except Exception as error:  # a damaged archive can raise anything
        raise BadInput(path, f"no predictions: {error}") from None


def _check_arrays(arrays: Mapping[str, torch.Tensor]) -> None:
    """Refuse what :func:`write_predictions` does not write: other arrays would be judged by rules they do not keep."""
    widths = {"quaternion": (4,), "shift": (2,), "confidence": (), "raw": (None,)}
    if not arrays or not arrays.keys() <= widths.keys():
        raise ValueError(f"arrays {', '.join(arrays) or 'none'}; expected some of {', '.join(widths)}")
    if len({len(value) if value.ndim else -1 for value in arrays.values()}) > 1:
        raise ValueError("arrays of different lengths")
    for name, value in arrays.items():
        width = widths[name]
        if value.ndim != 1 + len(width) or any(n not in (None, m) for n, m in zip(width, value.shape[1:], strict=True)):
            raise ValueError(f"{name} of shape {tuple(value.shape)}")
        if value.dtype != torch.float32 or not bool(value.isfinite().all()):
            raise ValueError(f"{name} has numbers that are not finite, or is no float32")
    if "quaternion" in arrays and float((arrays["quaternion"].norm(dim=1) - 1).abs().max()) > _UNIT:
        raise ValueError("quaternions that are not of length 1")


def _read(path: Path) -> bytes:
    with open_regular(path) as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise BadInput(path, f"has more than {_LARGEST} bytes")
    return data


class Store:
    """Results in a folder, as ``<task>/<design>/seed<k>/``.

    Args:
        folder: is made when something is written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def place(self, task: Task, design: Design, seed: int) -> Path:
        """The folder of a run."""
        return self.folder / task.name / design.label / f"seed{seed}"

    def get(self, task: Task, design: Design, seed: int) -> Result | None:
        """The result of a run, if there is one that answers this task as it is now."""
        place = self.place(task, design, seed)
        if not (place / RESULT).exists():
            return None
        result = Result.read(place)
        return result if result.asked.digest == task.digest else None

    def results(self) -> list[Result]:
        """All that can be read.

        Warns:
            BadInputWarning: a file cannot be used.
        """
        found = []
        for path in sorted(self.folder.glob(f"*/*/seed*/{RESULT}")):
            try:
                found.append(Result.read(path.parent))
            except BadInput as error:
                warnings.warn(BadInputWarning(f"left out: {error}"), stacklevel=2)
        return found


@contextmanager
def held(place: Path) -> Iterator[bool]:
    """Hold the folder of a run against others; False where somebody living holds it already."""
    make_folder(place)
    with (place / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
