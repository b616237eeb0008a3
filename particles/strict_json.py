"""JSON from strangers: one object, every key once, no NaN."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import BadInput


def strict_json(data: bytes, source: str | Path, *, where: str | None = None) -> dict[str, Any]:
    """Parse UTF-8 JSON that must be one object; BadInput names ``source`` and ``where`` when it is anything else.

    Of a key that comes twice some readers take the first and some the last: what one checks is not what another uses.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"key {short(key)} comes twice")
            found[key] = value
        return found

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a JSON number")

    try:
        value = json.loads(data.decode(), object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise BadInput(source, f"not valid JSON: {error}", where=where) from None
    if not isinstance(value, dict):
        raise BadInput(source, f"holds {short(value)}", where=where, expected="a JSON object")
    return value


def short(value: object) -> str:
    """``repr`` for a message: one line, at most 80 characters, whatever a stranger put there."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
