"""YAML as people write it into recipes: 1e-3 is a number, and a key that comes twice is a mistake."""

from __future__ import annotations

import re
from collections.abc import Hashable
from functools import cache
from pathlib import Path
from typing import Any

from .errors import BadInput
from .files import looks_like, open_regular

_TEMPLATE = "`cryozoo train --template` prints one"


def parse_yaml(text: str, source: str | Path) -> Any:
    """The value that a text means; BadInput, naming ``source``, where it is not YAML or a key comes twice."""
    import yaml

    try:
        return yaml.load(text, Loader=_loader())
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}" if error.problem_mark else None
        hint = "indent with blanks, not tabs" if "'\\t'" in str(error.problem) else None
        raise BadInput(source, f"not readable as YAML or JSON: {error.problem}", where=where, hint=hint) from None
    except yaml.YAMLError as error:
        raise BadInput(source, f"not readable as YAML or JSON: {error}") from None


def read_yaml(path: str | Path, what: str, hint: str | None = _TEMPLATE) -> dict[str, Any]:
    """Names and values of a YAML or JSON file, which should be ``what``: a recipe; ``hint`` says how to come by one.

    Raises:
        BadInput: the file is missing, is something else, is not YAML, or has no names.
    """
    with open_regular(path) as file:
        data = file.read()
    found = looks_like(data)
    try:
        values = None if found else parse_yaml(data.decode(), path)
    except UnicodeDecodeError:
        found = "no text"
    except BadInput as error:
        raise BadInput(path, error.found, where=error.where, expected=what, hint=error.hint or hint) from None
    if found:
        raise BadInput(path, f"is {found}", expected=what, hint=hint)
    if not isinstance(values, dict):
        raise BadInput(path, "not a mapping", expected=what, hint=hint)
    return values


@cache
def _loader() -> type[Any]:
    """PyYAML's safe loader, which reads 1e-3 as a number (YAML 1.1 wants 1.0e-3) and keeps no key silently."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            if twice := [key for key in keys if keys.count(key) > 1]:
                raise yaml.constructor.ConstructorError(None, None, f"key {twice[0]!r} comes twice", node.start_mark)
            return super().construct_mapping(node, deep)

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )
    return Loader
