"""Making parts by name, and saying whose fault it is when one fails: the recipe's, the file's, or the part's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from traceback import walk_tb
from typing import Any

from ..losses.base import Mismatch
from ..particles.errors import BadInput
from .encoder_protocol import Encoder
from .registry import Distribution, Kind, UnknownName, get_part

NamedPart = tuple[Kind, str, object]
"""A kind, a name, and what was made."""


class PartError(RuntimeError):
    """An exception inside a part; it says which part, where that came from, and what happened.

    Args:
        kind: "backbone", "head", "loss" or "decoder".
        name: the part's.
        error: what it raised.
    """

    def __init__(self, kind: Kind, name: str, error: Exception) -> None:
        found = _distribution(kind, name)
        package = "" if found is None or found.name == "cryozoo" else f" (from the package {found})"
        super().__init__(f"{kind} {name!r}{package}: {type(error).__name__}: {error}")


class BadArguments(ValueError):
    """Arguments that a part does not take.

    Attributes:
        field: where a recipe has them: "backbone_args", "head_args", "loss_args" or "decoder_args".
    """

    def __init__(self, kind: Kind, name: str, reason: str) -> None:
        self.field = f"{kind}_args"
        super().__init__(f"{kind} {name}: {reason}")


def load_part(kind: Kind, name: str) -> Callable[..., Any]:
    """The callable that makes a part.

    Raises:
        UnknownName: no such part; the message lists the nearest names.
        PartError: it cannot be imported.
    """
    part = get_part(kind, name)
    with _blamed_on(kind, name):
        return part.load()


def argument_names(kind: Kind, name: str) -> list[str]:
    """Arguments of its own that a part takes, ``**name`` for any others; raises as :func:`load_part`."""
    make = load_part(kind, name)
    with _blamed_on(kind, name):
        parameters = list(inspect.signature(make).parameters.values())[2 if kind == "backbone" else 0 :]
    return [f"**{p.name}" if p.kind is p.VAR_KEYWORD else p.name for p in parameters]


def make_part(kind: Kind, name: str, /, *given: Any, **args: Any) -> Any:
    """Make a part.

    Args:
        kind: "backbone", "head", "loss" or "decoder".
        name: the part's.
        given: what every part of this kind is given.
        args: arguments of its own, beside the defaults of :class:`Part`.

    Raises:
        UnknownName: no such part; the message lists the nearest names.
        BadArguments: arguments that it does not know, or refuses with a ValueError.
        PartError: it raises something else.
        ImportError: one of cryozoo's own needs an extra; the message says which.
    """
    make = load_part(kind, name)
    with _blamed_on(kind, name):
        signature = inspect.signature(make)
        try:
            signature.bind(*given, **args)
        except TypeError as error:
            takes = ", ".join(argument_names(kind, name)) or "none"
            raise BadArguments(kind, name, f"{error}; its arguments: {takes}") from None
        try:
            return make(*given, **args)
        except BadInput:  # a file of its own
            raise
        except ValueError as error:
            raise BadArguments(kind, name, str(error)) from error


@contextmanager
def blaming(*parts: NamedPart) -> Iterator[None]:
    """Report an exception from inside one of these parts as a PartError that names it.

    Nothing is wrapped around the parts, whose forward passes and exports stay what they are: the traceback tells on
    whose behalf code ran.
    """
    try:
        yield
    except (BadInput, Mismatch, PartError):
        raise
    except Exception as error:
        owners = [frame.f_locals.get("self") for frame, _ in walk_tb(error.__traceback__)]
        for kind, name, part in parts:
            if any(owner is part for owner in owners):
                raise PartError(kind, name, error) from error
        raise


def parts_of(encoder: Encoder) -> list[NamedPart]:
    """Its backbone and its head."""
    backbone, _, head = encoder.name.partition("-")
    return [("backbone", backbone, encoder.backbone), ("head", head, encoder.head)]


@contextmanager
def _blamed_on(kind: Kind, name: str) -> Iterator[None]:
    """While a part is imported or made."""
    try:
        yield
    except (BadInput, BadArguments, UnknownName):
        raise
    except Exception as error:
        found = _distribution(kind, name)
        if isinstance(error, ImportError) and found is not None and found.name == "cryozoo":
            raise  # it says what to install
        raise PartError(kind, name, error) from error


def _distribution(kind: Kind, name: str) -> Distribution | None:
    """None also of an encoder that was put together by hand, whose name nobody has registered."""
    try:
        return get_part(kind, name).distribution
    except UnknownName:
        return None
