"""``config.json`` of a saved encoder: what it must hold, checked before anything is built from it."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from .. import __version__
from ..particles.errors import BadInput, BadInputWarning
from ..particles.files import open_regular
from ..particles.strict_json import short, strict_json
from .registry import Kind, UnknownName, get_part, split_name

FORMAT = "cryozoo-encoder-1"
CONFIG, MODEL, GOLDEN, CARD = "config.json", "model.safetensors", "golden.safetensors", "README.md"

_LARGEST_CONFIG = 2**20
_LONGEST_LIST = 64
_LARGEST_NUMBER = 65536
_CODE = {"auto_map", "custom_pipelines", "trust_remote_code", "_target_", "class_path", "py/object", "__reduce__"}
"""Keys by which other libraries name code to import and run."""
_IN_A_COMMAND = r"[A-Za-z0-9][A-Za-z0-9_.!+-]{0,99}"
"""Of a name or version that a message tells the reader to type."""


def read_config(path: Path, label: str) -> dict[str, Any]:
    """Read and check a ``config.json``; ``label`` names it in messages."""
    with open_regular(path) as file:
        data = file.read(_LARGEST_CONFIG + 1)
    if len(data) > _LARGEST_CONFIG:
        raise BadInput(label, f"has more than {_LARGEST_CONFIG} bytes", expected="the configuration of an encoder")
    config = strict_json(data, label)
    check_config(config, label)
    return config


def check_config(config: Mapping[str, Any], label: str) -> None:
    """Refuse every field that is missing, of another type or out of range; unknown fields are metadata and pass.

    Nothing in it is ever imported, called or opened: a field that names code is refused.
    """
    check = _Check(config, label)
    check.format()
    check.no_code()
    check.parts()
    check.name()
    check.integer("image_size", 8, 4096)
    check.integer("in_chans", 1, 64)
    check.integer("parameters", 1, 10**10)
    if not _is_number(config.get("pixel_size")) or not 0 < config["pixel_size"] < 1000:
        check.refuse("pixel_size", config.get("pixel_size"), "Angstrom per pixel, above 0 and below 1000")
    check.arguments("backbone_args")
    check.arguments("head_args")
    check.manifest()
    check.molecule()


class _Check:
    def __init__(self, config: Mapping[str, Any], label: str) -> None:
        self.config = config
        self.label = label

    def refuse(self, field: str, found: Any, expected: str, hint: str | None = None) -> NoReturn:
        text = "missing" if found is None else short(found)
        raise BadInput(self.label, text, where=f"field {field}", expected=expected, hint=hint)

    def format(self) -> None:
        found = self.config.get("format")
        family = FORMAT.rpartition("-")[0]
        if isinstance(found, str) and found != FORMAT and re.fullmatch(rf"{family}-[1-9]\d{{0,8}}", found):
            hint = f"it is newer than this cryozoo ({__version__}): update cryozoo"
            self.refuse("format", found, FORMAT, hint)
        if found != FORMAT:
            self.refuse("format", found, FORMAT, "it was not saved by cryozoo")

    def no_code(self) -> None:
        for key in _keys(self.config):
            if key in _CODE:
                expected = "data alone: cryozoo runs no code of others"
                raise BadInput(self.label, "names code to run", where=f"field {key}", expected=expected)

    def name(self) -> None:
        name, tag = self.config.get("name"), self.config.get("tag")
        if not isinstance(name, str) or len(name) > 200:
            self.refuse("name", name, "<backbone>-<head>")
        try:
            backbone, head, tag_in_name = split_name(name)
            self.part("backbone", backbone)
            self.part("head", head)
        except UnknownName as error:
            raise BadInput(self.label, str(error), where="field name", hint="or update cryozoo") from None
        if tag_in_name is not None:
            self.refuse("name", name, "<backbone>-<head>; the tag is a field of its own")
        if tag is not None:
            try:
                split_name(f"{name}.{tag}")
            except UnknownName:
                self.refuse("tag", tag, "lower-case letters, digits and underscores, starting with a letter")

    def part(self, kind: Kind, name: str) -> None:
        """That it is here, and from the package that it was saved with."""
        stated = self.config.get("parts", {}).get(kind, {})
        package, version = stated.get("distribution"), stated.get("version")
        pinned = f"{package}=={version}" if version else package
        try:
            part = get_part(kind, name)
        except UnknownName as error:
            if package in (None, "cryozoo"):
                raise
            came = f"{error}; the file says that it came with {pinned}"
            hint = f"if you trust that package: pip install {pinned}"
            raise BadInput(self.label, came, where="field name", hint=hint) from None
        if package is None or (part.distribution and _normalised(part.distribution.name) == _normalised(package)):
            return
        # It is not refused: packages are renamed, and weights and golden images show whether it is another part.
        message = f"{kind} {name} came with {pinned}, and here it is from {part.distribution or 'no package'}"
        warnings.warn(BadInputWarning(f"{self.label}, field parts: {message}"), stacklevel=2)

    def parts(self) -> None:
        """Where the backbone and head came from; encoders of earlier versions do not say."""
        if "parts" not in self.config:
            return
        for kind, stated in self.mapping("parts").items():
            if not isinstance(stated, dict):
                self.refuse(f"parts.{kind}", stated, "name, distribution and version")
            for field, value in stated.items():
                if not (value is None or (isinstance(value, str) and re.fullmatch(_IN_A_COMMAND, value))):
                    self.refuse(f"parts.{kind}.{field}", value, "a name or version")

    def integer(self, field: str, least: int, most: int) -> None:
        value = self.config.get(field)
        if type(value) is not int or not least <= value <= most:
            self.refuse(field, value, f"a whole number from {least} to {most}")

    def mapping(self, field: str) -> Mapping[str, Any]:
        value = self.config.get(field)
        if not isinstance(value, dict):
            self.refuse(field, value, "names and values")
        return value

    def arguments(self, field: str) -> None:
        for key, value in self.mapping(field).items():
            if not re.fullmatch(r"[a-z][a-z0-9_]{0,60}", key):
                self.refuse(field, key, "names of arguments")
            if key == "pretrained":
                self.refuse(f"{field}.{key}", value, f"no weights but those of {MODEL}")
            values = value if isinstance(value, list) else [value]
            if len(values) > _LONGEST_LIST or not all(map(_is_plain, values)):
                expected = (
                    f"a number up to {_LARGEST_NUMBER}, a name, true, false, null, or up to {_LONGEST_LIST} of these"
                )
                raise BadInput(self.label, short(value), where=f"field {field}.{key}", expected=expected)

    def manifest(self) -> None:
        files = self.mapping("files")
        for name in (MODEL, GOLDEN):
            entry = files.get(name)
            if not isinstance(entry, dict):
                self.refuse(f"files, {name}", entry, "size and sha256")
            size, digest = entry.get("size"), entry.get("sha256")
            if type(size) is not int or size < 0:
                self.refuse(f"files, {name}, size", size, "a number of bytes")
            if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
                self.refuse(f"files, {name}, sha256", digest, "64 lower-case hexadecimal digits")

    def molecule(self) -> None:
        molecule, parts = self.config.get("molecule"), ("name", "source", "symmetry")
        if molecule is None:
            return
        if not isinstance(molecule, dict) or set(molecule) != set(parts):
            self.refuse("molecule", molecule, f"null, or {', '.join(parts)}")
        for part, text in molecule.items():
            if not isinstance(text, str) or not 0 < len(text) <= 200:
                self.refuse(f"molecule.{part}", text, "a text of at most 200 characters")


def _normalised(distribution: str) -> str:
    """Package indexes take these names for one."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _is_plain(value: Any) -> bool:
    """Whether it is small and harmless: neither a path, an address nor ``module:attribute`` can be written in it."""
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, str):
        return re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", value) is not None
    return _is_number(value) and abs(value) <= _LARGEST_NUMBER


def _is_number(value: Any) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))


def _keys(value: Any) -> Iterator[str]:
    """All keys at any depth; not by recursion, the depth is a stranger's choice."""
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, dict):
            yield from item
            left.extend(item.values())
        elif isinstance(item, list):
            left.extend(item)
