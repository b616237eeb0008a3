"""Declared fields: what fits, what is refused and in which words, and what is printed of them."""

import math
from dataclasses import dataclass
from typing import Any

import pytest

from cryozoo.particles.errors import BadInput
from cryozoo.particles.fields import (
    BOOLEAN,
    check_fields,
    describe,
    from_plain,
    number,
    numbers,
    one_of,
    optional,
    setting,
    text,
    whole,
)
from cryozoo.particles.yaml_files import parse_yaml, read_yaml


@dataclass(frozen=True)
class Settings:
    name: str = setting(text("a name"), "what it is called")
    count: int = setting(whole(1, 10), "how many", 2)
    share: float | None = setting(optional(number(above=0, most=1), "all"), "which part", None)
    mode: str = setting(one_of("fast", "exact"), "how", "fast")
    flag: bool = setting(BOOLEAN, "whether", False)
    limits: tuple[float, float] = setting(
        numbers(2, lambda x: x[0] < x[1], "lowest and highest"), "between", (0.0, 1.0), example=[2, 3]
    )

    def __post_init__(self) -> None:
        check_fields(self, "settings")
        if self.flag and self.mode == "fast":
            raise BadInput("settings", "flag with mode fast", hint="use exact")


def test_made_of_plain_values():
    made = from_plain(Settings, {"name": "x", "share": 0.5, "limits": [1, 2]}, "file.yaml")
    assert made == Settings("x", share=0.5, limits=(1, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "file.yaml, field a.name: ''; expected a name"),
        ({"count": 0}, "file.yaml, field a.count: 0; expected a whole number from 1 to 10"),
        ({"count": True}, "file.yaml, field a.count: True; expected a whole number"),
        ({"count": 2.0}, "file.yaml, field a.count: 2.0; expected a whole number"),
        (
            {"share": "0.5"},
            "file.yaml, field a.share: '0.5'; expected a number above 0 and at most 1, or nothing for all",
        ),
        ({"share": math.nan}, "file.yaml, field a.share: nan"),
        ({"mode": "slow"}, "file.yaml, field a.mode: 'slow'; expected one of fast, exact"),
        ({"mode": ["fast"]}, "file.yaml, field a.mode"),
        ({"flag": 1}, "file.yaml, field a.flag: 1; expected true or false"),
        ({"limits": [2, 1]}, "file.yaml, field a.limits: (2, 1); expected lowest and highest"),
        ({"limits": 1.5}, "file.yaml, field a.limits: 1.5; expected lowest and highest"),
        ({"cuont": 3}, "file.yaml: unknown field a.cuont; expected count, perhaps"),
        ({"zzz": 3}, "file.yaml: unknown field a.zzz; expected one of name, count, share, mode, flag, limits"),
        ({"flag": True}, "file.yaml: flag with mode fast; use exact"),
    ],
)
def test_refused(change: dict[str, Any], message: str):
    with pytest.raises(BadInput) as refused:
        from_plain(Settings, {"name": "x", **change}, "file.yaml", "a.")
    assert str(refused.value).startswith(message)


def test_what_is_missing():
    with pytest.raises(BadInput, match=r"file.yaml, field a.name: missing; expected a name"):
        from_plain(Settings, {}, "file.yaml", "a.")


def test_refused_in_python_too():
    with pytest.raises(BadInput, match="settings, field count: 11"):
        Settings("x", count=11)


def test_described():
    facts = describe(Settings, "a.")
    assert facts[0] == ("a.name", "a name", None, "what it is called", None)
    assert facts[2] == ("a.share", "a number above 0 and at most 1, or nothing for all", "", "which part", None)
    assert facts[2].explained == "which part (a number above 0 and at most 1, or nothing for all; by default nothing)"
    assert [one.default for one in facts[3:]] == ["fast", "false", "[0.0, 1.0]"]
    assert facts[5].example == "[2, 3]"
    assert len(facts) == 6


def test_yaml(tmp_path):
    assert parse_yaml("{a: 1e-3, b: -2E5, c: 1.5e+2, d: e3}", "x") == {"a": 1e-3, "b": -2e5, "c": 150.0, "d": "e3"}
    with pytest.raises(BadInput, match="key 'a' comes twice"):
        parse_yaml("a: 1\nb: {c: 1}\na: 2", "x")
    path = tmp_path / "list.yaml"
    path.write_text("[1, 2]")
    with pytest.raises(BadInput, match=r"list.yaml: not a mapping; expected a recipe"):
        read_yaml(path, "a recipe")
    with pytest.raises(BadInput, match=r"nosuch.yaml: cannot be read: No such file"):
        read_yaml(tmp_path / "nosuch.yaml", "a recipe")
    path.write_bytes(b"\xa0" * 208 + b"MAP ")
    with pytest.raises(BadInput, match=r"is an MRC file; expected a recipe; `cryozoo train --template` prints one"):
        read_yaml(path, "a recipe")
    path.write_bytes(b"\xa0")
    with pytest.raises(BadInput, match=r"is no text; expected a recipe"):
        read_yaml(path, "a recipe")
    with pytest.raises(BadInput, match=r"x, line 2: not readable as YAML or JSON: .*'\\t'.*; indent with blanks"):
        parse_yaml("a: 1\n\tb: 2", "x")
