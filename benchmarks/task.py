"""A task of the benchmark: what is asked of every design, so that their answers can be compared."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from ..imaging.batch import Batch
from ..particles.errors import BadInput
from ..particles.fields import (
    BOOLEAN,
    Rule,
    check_fields,
    documented,
    from_plain,
    mapping,
    number,
    one_of,
    optional,
    setting,
    text,
    whole,
)
from ..particles.yaml_files import read_yaml
from ..training.data import DataSource, Simulated, data_from_plain
from ..zoo.registry import nearest

TASKS = Path(__file__).parent / "tasks"
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
"""Of a task: it is a folder's, and a stranger may have chosen it."""
_LARGEST = 2**30  # pixels of a test set: a stranger's file must not ask for any size


@documented
@dataclass(frozen=True)
class Task:
    """Particles to learn from and others to be judged by, the time that a design has, and what is measured.

    Attributes:
        name: of its file.
    """

    name: str
    title: str = setting(text("a line"), "what is asked, in words", example="E. coli 70S ribosome, SNR 0.5")
    image_size: int = setting(whole(8, 512), "box of the images in pixels", example=64)
    data: DataSource = setting(  # noqa: RUF009 (makes a field)
        Rule(lambda x: isinstance(x, DataSource), "names and values, as of a recipe"),
        "what designs are trained on; its test set judges them",
        example="",
    )
    pixel_size: float | None = setting(
        optional(number("Angstrom", above=0, below=1e3), "that of the data"), "of the images", None, example=5.0
    )
    data_sha256: str | None = setting(optional(text("64 hexadecimal digits"), "no file"), "of the map or table", None)
    test_volume: str | None = setting(
        optional(text("a map or an atomic model"), "that of the data"),
        "another molecule, whose images judge designs that have never seen it",
        None,
    )
    test_sha256: str | None = setting(optional(text("64 hexadecimal digits"), "no file"), "of that", None)
    shift: bool = setting(BOOLEAN, "whether shifts are asked for, too", True)
    metric: Literal["median_deg", "mse", "distance_mae_deg"] = setting(
        one_of("median_deg", "mse", "distance_mae_deg"),
        "by which designs are ranked: of poses, of poses that were found from images alone, or of distances",
        "median_deg",
    )
    budget: float = setting(number("CPU seconds", above=0), "of training on one thread, for each design", 300.0)
    training: Mapping[str, Any] = setting(mapping(), "fields of the recipe that designs begin with", {})

    def __post_init__(self) -> None:
        check_fields(self, self.name)
        if not NAME.fullmatch(self.name):
            raise BadInput(self.name, "the name of a task", expected="letters, digits, dots, dashes and underscores")
        if isinstance(self.data, Simulated) and self.data.held_out * self.image_size**2 > _LARGEST:
            found = f"{self.data.held_out:,} images of {self.image_size} pixels in the test"
            raise BadInput(self.name, found, expected=f"at most {_LARGEST:,} pixels in all")
        if self.test_volume is not None and not isinstance(self.data, Simulated):
            raise BadInput(self.name, "particles on disk", where="field data", expected="a volume, as of test_volume")

    @classmethod
    def load(cls, name: str | Path) -> Task:
        """The task of a file, or of its name among those that are here.

        Raises:
            BadInput: there is none, or it has fields that are of no use.
        """
        path = Path(name) if str(name).endswith((".yaml", ".json")) else TASKS / f"{name}.yaml"
        if path.parent == TASKS and not path.exists():
            raise BadInput(name, f"no such task{nearest(str(name), list_tasks())}")
        return cls.from_dict(read_yaml(path, "a task", hint=None), path.stem, str(path))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], name: str, source: str | None = None) -> Task:
        """Make a task of plain data."""
        values, source = dict(values), source or name
        if isinstance(values.get("data"), Mapping):
            values["data"] = data_from_plain(values["data"], source)
        return from_plain(cls, values, source, name=name)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-serialisable, without the name."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "name"}
        return json.loads(json.dumps({**values, "data": self.data.to_dict()}))

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of all that an answer depends on."""
        plain = {key: value for key, value in self.to_dict().items() if key != "title" and value is not None}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]

    def within(self, budget: float) -> Task:
        """The same in another time; a task of its own, whose answers are compared with each other only."""
        return self if budget == self.budget else replace(self, name=f"{self.name}_{budget:g}s", budget=budget)

    def check_data(self) -> None:
        """Refuse data that is not what answers were given to.

        Raises:
            BadInput: the file has another content.
        """
        for data, sha256 in ((self.data, self.data_sha256), (self.judging, self.test_sha256)):
            if sha256 is not None and (found := data.digest()) != sha256:
                raise BadInput(self.name, f"its data has the sha256 {found}", expected=sha256)

    @property
    def judging(self) -> DataSource:
        """The data whose test set judges designs."""
        if self.test_volume is None:
            return self.data
        assert isinstance(self.data, Simulated)
        return replace(self.data, volume=self.test_volume)

    def test(self) -> Batch:
        """The particles that designs are judged by, with their true poses; no training sees them."""
        import torch

        return self.judging.open(self.image_size, self.pixel_size, torch.device("cpu"), 0).test


def list_tasks() -> list[str]:
    """Names of the tasks that are here, sorted."""
    return sorted(path.stem for path in TASKS.glob("*.yaml"))
