"""Plain data from files, field by field: what may stand in a field is declared once, where the field is.

A frozen dataclass declares its fields with :func:`setting` and calls :func:`check_fields` in ``__post_init__``;
:func:`from_plain` makes it of the names and values of a file, and :func:`describe` prints what it declares.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass
from typing import Any, NamedTuple, TypeVar

from .errors import BadInput
from .strict_json import short

T = TypeVar("T")


@dataclass(frozen=True)
class Rule:
    """What a value must be.

    Attributes:
        fits: whether it is.
        expected: the same in words, for messages and lists of fields.
    """

    fits: Callable[[Any], bool]
    expected: str


def whole(least: int, most: int) -> Rule:
    """A whole number within limits, both included."""
    return Rule(lambda x: type(x) is int and least <= x <= most, f"a whole number from {least} to {most:,}")


def number(
    unit: str = "",
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float = math.inf,
) -> Rule:
    """A finite number within limits; ``unit`` in words."""
    limits = [
        f"{word} {limit:g}"
        for word, limit in (("above", above), ("of at least", least), ("below", below))
        if limit is not None
    ]
    limits += [f"at most {most:g}"] if most < math.inf else []

    def fits(x: Any) -> bool:
        return (
            is_number(x)
            and (above is None or x > above)
            and (least is None or x >= least)
            and (below is None or x < below)
            and x <= most
        )

    return Rule(fits, " ".join(["a number", " and ".join(limits), unit and f"({unit})"]).replace("  ", " ").strip())


def is_number(value: Any) -> bool:
    """Whether it is a finite number; True and False are none."""
    return type(value) is int or (type(value) is float and math.isfinite(value))


def one_of(*allowed: str) -> Rule:
    """One of some words."""
    return Rule(lambda x: isinstance(x, str) and x in allowed, f"one of {', '.join(allowed)}")


def text(what: str) -> Rule:
    """A text that is not empty."""
    return Rule(lambda x: isinstance(x, str) and bool(x), what)


def mapping(what: str = "names and values") -> Rule:
    """Names and values."""
    return Rule(lambda x: isinstance(x, Mapping) and all(isinstance(key, str) for key in x), what)


def numbers(count: int, fits: Callable[[tuple[float, ...]], bool], expected: str) -> Rule:
    """So many finite numbers, of which more is asked."""
    return Rule(lambda x: isinstance(x, tuple) and len(x) == count and all(map(is_number, x)) and fits(x), expected)


def optional(rule: Rule, none: str) -> Rule:
    """A value or nothing; ``none`` says what nothing means."""
    return Rule(lambda x: x is None or rule.fits(x), f"{rule.expected}, or nothing for {none}")


BOOLEAN = Rule(lambda x: isinstance(x, bool), "true or false")


def setting(rule: Rule, meaning: str, default: Any = MISSING, *, example: Any = None) -> Any:
    """A field of a dataclass: what fits it, what it means, its value where none is given, and one to begin with."""
    metadata = {"rule": rule, "meaning": meaning, "example": example}
    if default == {}:
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check_fields(instance: Any, source: str, prefix: str = "") -> None:
    """Refuse a dataclass with a value that does not fit its field.

    Raises:
        BadInput: naming ``source``, the field (after ``prefix``), what was found and what would do.
    """
    for field in _declared(type(instance)):
        _check(getattr(instance, field.name), field, source, prefix)


def from_plain(cls: type[T], values: Mapping[str, Any], source: str, prefix: str = "", /, **made: Any) -> T:
    """Make a dataclass of the names and values of a file, and of fields that were made already.

    Raises:
        BadInput: a field that is unknown, with the nearest names; one that is missing; or a value that does not fit.
    """
    known = {field.name: field for field in _declared(cls)}
    for name in values:
        if name not in known:
            raise BadInput(source, f"unknown field {prefix}{name}", expected=_nearest(str(name), known))
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            expected = field.metadata["rule"].expected
            raise BadInput(source, "missing", where=f"field {prefix}{name}", expected=expected)
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    for name, value in plain.items():
        _check(value, known[name], source, prefix)
    try:
        return cls(**plain, **made)
    except BadInput as error:  # of several fields together, which know no file
        raise BadInput(source, error.found, expected=error.expected, where=error.where, hint=error.hint) from None


class FieldFacts(NamedTuple):
    """What a field is, values as YAML; ``default`` is None where it must be given, ``example`` where there is none."""

    name: str
    expected: str
    default: str | None
    meaning: str
    example: str | None

    @property
    def explained(self) -> str:
        """Meaning, what is expected, and the default."""
        default = "must be given" if self.default is None else f"by default {self.default or 'nothing'}"
        return f"{self.meaning} ({self.expected}; {default})"


def describe(cls: type[Any], prefix: str = "") -> list[FieldFacts]:
    """The declared fields of a dataclass, in order."""
    facts = []
    for field in _declared(cls):
        rule, meaning, example = (field.metadata[key] for key in ("rule", "meaning", "example"))
        default = field.default if field.default_factory is MISSING else field.default_factory()
        said = None if default is MISSING else _yaml(default)
        shown = None if example is None else _yaml(example)
        facts.append(FieldFacts(prefix + field.name, rule.expected, said, meaning, shown))
    return facts


def documented(cls: type[T]) -> type[T]:
    """Put the declared fields into the docstring of a dataclass, for ``help``."""
    lines = (f"    {facts.name}: {facts.explained}." for facts in describe(cls))
    cls.__doc__ = "\n".join([f"{(cls.__doc__ or '').rstrip()}\n\nFields:", *lines])
    return cls


def _yaml(value: Any) -> str:
    """A value in one line; texts as they are, and nothing for None."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _declared(cls: type[Any]) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(cls) if "rule" in field.metadata]


def _check(value: Any, field: dataclasses.Field[Any], source: str, prefix: str) -> None:
    rule: Rule = field.metadata["rule"]
    if not rule.fits(value):
        raise BadInput(source, short(value), where=f"field {prefix}{field.name}", expected=rule.expected)


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=2, cutoff=0.6)
    return f"one of {', '.join(known)}" if not close else f"{' or '.join(close)}, perhaps"
