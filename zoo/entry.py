"""What is known of a saved encoder: its ``config.json``, checked before anything is built from it. Imports no torch."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from .. import __version__
from ..particles.errors import BadInput, BadInputWarning
from ..particles.fields import (
    BOOLEAN,
    Rule,
    check_fields,
    from_plain,
    is_number,
    mapping,
    number,
    one_of,
    optional,
    setting,
    text,
    whole,
)
from ..particles.files import open_regular
from ..particles.strict_json import short, strict_json
from .registry import Kind, UnknownName, get_part, split_name

FORMAT = "cryozoo-encoder-2"
CONFIG = "config.json"
MODEL = "model.safetensors"
GOLDEN = "golden.safetensors"
CARD = "README.md"
FRAME = "frame.mrc"

_LARGEST_CONFIG = 2**20
_LONGEST_LIST = 64
_LARGEST_NUMBER = 65536
_CODE = {"auto_map", "custom_pipelines", "trust_remote_code", "_target_", "class_path", "py/object", "__reduce__"}
"""Keys by which other libraries name code to import and run."""

T = TypeVar("T")

_LINE = Rule(lambda x: isinstance(x, str) and 0 < len(x) <= 200, "a text of at most 200 characters")


@dataclass(frozen=True)
class Molecule:
    """In whose frame an encoder answers.

    Attributes:
        name: what people call it.
        source: an accession code or a file.
        symmetry: its point group.
    """

    name: str = setting(_LINE, "what people call it")
    source: str = setting(_LINE, "an accession code or a file")
    symmetry: str = setting(_LINE, "its point group")


@dataclass(frozen=True)
class FileFacts:
    """By what a file is known to be the one that was saved: its ``size`` in bytes and its ``sha256``."""

    size: int = setting(Rule(lambda x: type(x) is int and x >= 0, "a number of bytes"), "its size")
    sha256: str = setting(
        Rule(
            lambda x: isinstance(x, str) and re.fullmatch(r"[0-9a-f]{64}", x) is not None,
            "64 lower-case hexadecimal digits",
        ),
        "of its content",
    )


_LICENCE = Rule(
    lambda x: x is None or (isinstance(x, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}", x) is not None),
    "an SPDX identifier, such as CC0-1.0",
)


@dataclass(frozen=True)
class Licences:
    """Of the ``code``, the ``weights`` and the ``data`` they were trained on, as SPDX identifiers; None: not stated."""

    code: str | None = setting(_LICENCE, "of the code", None)
    weights: str | None = setting(_LICENCE, "of the weights", None)
    data: str | None = setting(_LICENCE, "of the map, model or particles that they were trained on", None)


_IN_A_COMMAND = Rule(
    lambda x: x is None or (isinstance(x, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.!+-]{0,99}", x) is not None),
    "a name or version",
)
"""What a message tells the reader to type."""


@dataclass(frozen=True)
class Origin:
    """Where a part came from: its name, and the installed package that brought it, as far as that is known."""

    name: str | None = setting(_IN_A_COMMAND, "of the part", None)
    distribution: str | None = setting(_IN_A_COMMAND, "the package that brought it", None)
    version: str | None = setting(_IN_A_COMMAND, "of that package", None)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Everything known of a saved encoder.

    Attributes:
        name: ``<backbone>-<head>``.
        image_size: box of the images in pixels.
        in_chans: channels of the images.
        pixel_size: Angstrom per pixel of the images.
        ctf: what is done about the CTF of the images.
        backbone_args: arguments of the backbone.
        head_args: arguments of the head.
        shift: whether it predicts shifts.
        tag: of the weights, or None.
        molecule: in whose frame it answers; None where it is not recorded.
        parameters: how many numbers were learnt.
        parts: which packages brought backbone and head; empty where it is not recorded.
        metrics: what it was measured to do, and where (``zoo/columns.py`` says what each number means).
        trained_with: plain data of the recipe; None where it is not recorded.
        files: size and sha256 by the name of a file.
        licences: of code, weights and data; None where they are not stated.
        citation: what to cite for the data, such as a DOI.
        superseded_by: the name of weights that are better; None where these are the best.
        source: where the files are: ``embedded``, ``local-dir:FOLDER`` or ``hf-hub:owner/repo@<commit>``.
        more: fields of the file that this cryozoo does not know.
    """

    name: str = setting(
        Rule(lambda x: isinstance(x, str) and len(x) <= 200, "<backbone>-<head>"), "of backbone and head"
    )
    image_size: int = setting(whole(8, 4096), "box in pixels")
    in_chans: int = setting(whole(1, 64), "channels of the images")
    pixel_size: float = setting(number("Angstrom per pixel", above=0, below=1000), "of the images")
    ctf: Literal["none", "phase_flip"] = setting(one_of("none", "phase_flip"), "what is done about the CTF", "none")
    backbone_args: Mapping[str, Any] = setting(mapping(), "arguments of the backbone")
    head_args: Mapping[str, Any] = setting(mapping(), "arguments of the head")
    shift: bool = setting(BOOLEAN, "whether it predicts shifts")
    tag: str | None = setting(optional(text("a name"), "no tag"), "of the weights", None)
    molecule: Molecule | None = setting(  # noqa: RUF009 (makes a field, as everywhere here)
        optional(Rule(lambda x: isinstance(x, Molecule), "name, source and symmetry"), "not recorded"),
        "its frame",
        None,
    )
    parameters: int = setting(whole(1, 10**10), "how many numbers were learnt")
    parts: Mapping[str, Origin] = setting(mapping(), "which packages brought backbone and head", {})
    metrics: Mapping[str, Any] = setting(mapping(), "what it was measured to do", {})
    trained_with: Mapping[str, Any] | None = setting(optional(mapping(), "not recorded"), "the recipe", None)
    files: Mapping[str, FileFacts] = setting(mapping(), "what is known of its files", {})
    licences: Licences | None = setting(  # noqa: RUF009
        optional(Rule(lambda x: isinstance(x, Licences), "code, weights and data"), "not stated"), "SPDX", None
    )
    citation: str | None = setting(optional(_LINE, "not stated"), "what to cite for the data", None)
    superseded_by: str | None = setting(optional(_LINE, "nothing"), "weights that are better", None)
    source: str = setting(text("where the files are"), "where the files are")
    more: Mapping[str, Any] = setting(mapping(), "fields that this cryozoo does not know", {})

    def __post_init__(self) -> None:
        check_fields(self, "entry")
        _check_name(self.name, self.tag, self.parts)
        for field in ("backbone_args", "head_args"):
            _check_arguments(field, getattr(self, field))

    @classmethod
    def from_config(cls, config: Mapping[str, Any], label: str) -> Entry:
        """The entry that a ``config.json`` and ``source`` make; ``label`` names the file in messages.

        Nothing in it is ever imported, called or opened. Fields that are not known are metadata and pass.

        Raises:
            BadInput: a field is missing, of another type, out of range or names code; or the format is a newer one.
        """
        config, _ = migrate(config, label)
        _refuse_code(config, label)
        known = {field.name for field in fields(cls)} - {"more"}
        values = {key: value for key, value in config.items() if key in known}
        for field, kind in (("molecule", Molecule), ("licences", Licences)):
            if values.get(field) is not None:
                values[field] = _part(kind, values[field], label, field)
        parts = values.get("parts", {})
        if not isinstance(parts, dict):
            _refuse(label, "parts", parts, "the backbone and the head")
        values["parts"] = {kind: _part(Origin, stated, label, f"parts.{kind}") for kind, stated in parts.items()}
        values["files"] = _files(values.get("files"), label)
        values["more"] = {key: value for key, value in config.items() if key not in known | {"format"}}
        entry = from_plain(cls, values, label)
        _warn_of_namesakes(entry, label)
        return entry

    def to_config(self) -> dict[str, Any]:
        """What stands in ``config.json``, which does not say where it is itself."""
        config = asdict(self)
        del config["source"]
        more = config.pop("more")
        return {"format": FORMAT, **config, **more}

    @property
    def full_name(self) -> str:
        """``<backbone>-<head>.<tag>``, or without a tag the name."""
        return f"{self.name}.{self.tag}" if self.tag else self.name

    @property
    def median_deg(self) -> float | None:
        """Median angular error on its test set in degrees; None where it was not measured."""
        return self.metrics.get("median_deg")

    def at_snr(self, snr: str) -> Mapping[str, Any]:
        """What was measured of new images at one SNR: ``alone`` and ``refined``; empty where it was not."""
        over_noise = self.metrics.get("over_noise", {})
        return over_noise.get("at", {}).get(snr, {})

    @property
    def data(self) -> Mapping[str, Any]:
        """What the recipe says of the data; empty where it is not recorded."""
        return self._recipe("data")

    @property
    def loss_args(self) -> Mapping[str, Any]:
        """What the recipe says of the loss; empty where it is not recorded."""
        return self._recipe("loss_args")

    @property
    def learnt_distances(self) -> bool:
        """Whether it was trained on distances alone, which know no frame."""
        return (self.trained_with or {}).get("loss") == "siamese_distance"

    @property
    def trained_without_ctf(self) -> bool:
        """Whether it was trained on simulated images without a contrast transfer function."""
        return "volume" in self.data and not self.data.get("defocus")

    @property
    def symmetry(self) -> str:
        """Point group that the training knew of."""
        return str(self.loss_args.get("symmetry") or self.data.get("symmetry") or "C1")

    def _recipe(self, field: str) -> Mapping[str, Any]:
        value = (self.trained_with or {}).get(field)
        return value if isinstance(value, Mapping) else {}


def read_entry(path: Path, label: str, source: str | None = None) -> Entry:
    """Read and check a ``config.json``.

    Args:
        path: the file.
        label: its name in messages.
        source: where the encoder's files are; default what the file says.
    """
    with open_regular(path) as file:
        data = file.read(_LARGEST_CONFIG + 1)
    if len(data) > _LARGEST_CONFIG:
        raise BadInput(label, f"has more than {_LARGEST_CONFIG} bytes", expected="the configuration of an encoder")
    config = strict_json(data, label)
    return Entry.from_config(config if source is None else {**config, "source": source}, label)


def migrate(config: Mapping[str, Any], label: str) -> tuple[dict[str, Any], list[str]]:
    """A configuration of any format in the newest one, and what was changed.

    Raises:
        BadInput: the format is newer, or none of ours.
    """
    found = config.get("format")
    family, _, newest = FORMAT.rpartition("-")
    match = re.fullmatch(rf"{family}-([1-9]\d{{0,8}})", found) if isinstance(found, str) else None
    if match is None:
        _refuse(label, "format", found, FORMAT, "it was not saved by cryozoo")
    if int(match[1]) > int(newest):
        _refuse(label, "format", found, FORMAT, f"it is newer than this cryozoo ({__version__}): update cryozoo")
    config, changes = dict(config), []
    if match[1] == "1":
        args = config.get("head_args")
        if isinstance(args, dict):
            config["shift"] = args.get("shift", False)
            config["head_args"] = {key: value for key, value in args.items() if key != "shift"}
            changes.append("head_args.shift is shift now")
    return {**config, "format": FORMAT}, changes


def _refuse(source: str, field: str, found: Any, expected: str, hint: str | None = None) -> NoReturn:
    what = "missing" if found is None else short(found)
    raise BadInput(source, what, where=f"field {field}", expected=expected, hint=hint)


def _refuse_code(config: Mapping[str, Any], label: str) -> None:
    for key in _keys(config):
        if key in _CODE:
            expected = "data alone: cryozoo runs no code of others"
            raise BadInput(label, "names code to run", where=f"field {key}", expected=expected)


def _part(cls: type[T], value: Any, label: str, field: str) -> T:
    if not isinstance(value, dict):
        _refuse(label, field, value, " and ".join(part.name for part in fields(cls)))  # type: ignore[arg-type]
    return from_plain(cls, value, label, f"{field}.")


def _files(files: Any, label: str) -> dict[str, FileFacts]:
    if not isinstance(files, dict):
        _refuse(label, "files", files, f"size and sha256 of {MODEL} and {GOLDEN}")
    names = dict.fromkeys([MODEL, GOLDEN, *files])
    return {name: _part(FileFacts, files.get(name), label, f"files, {name}") for name in names}


def _check_name(name: str, tag: str | None, parts: Mapping[str, Origin]) -> None:
    try:
        backbone, head, tag_in_name = split_name(name)
    except UnknownName as error:
        raise BadInput("entry", str(error), where="field name") from None
    for kind, part in _named(backbone, head):
        try:
            get_part(kind, part)
        except UnknownName as error:
            found, hint = str(error), "or update cryozoo"
            if (package := _package(parts.get(kind, Origin()))) is not None:
                found += f"; the file says that it came with {package}"
                hint = f"if you trust that package: pip install {package}"
            raise BadInput("entry", found, where="field name", hint=hint) from None
    if tag_in_name is not None:
        _refuse("entry", "name", name, "<backbone>-<head>; the tag is a field of its own")
    if tag is not None:
        try:
            split_name(f"{name}.{tag}")
        except UnknownName:
            _refuse("entry", "tag", tag, "lower-case letters, digits and underscores, starting with a letter")


def _named(backbone: str, head: str) -> tuple[tuple[Kind, str], tuple[Kind, str]]:
    return ("backbone", backbone), ("head", head)


def _package(origin: Origin) -> str | None:
    """What to install for a part of somebody else's; None where it is not known, or our own."""
    if origin.distribution in (None, "cryozoo"):
        return None
    return f"{origin.distribution}=={origin.version}" if origin.version else origin.distribution


def _warn_of_namesakes(entry: Entry, label: str) -> None:
    """A part that another package brought is not refused: packages are renamed, and the golden images are repeated."""
    backbone, head, _ = split_name(entry.name)
    for kind, name in _named(backbone, head):
        stated, here = entry.parts.get(kind, Origin()), get_part(kind, name).distribution
        if stated.distribution is None or (here and _normalised(here.name) == _normalised(stated.distribution)):
            continue
        came = _package(stated) or stated.distribution
        message = f"{kind} {name} came with {came}, and here it is from {here or 'no package'}"
        warnings.warn(BadInputWarning(f"{label}, field parts: {message}"), stacklevel=3)


def _normalised(distribution: str) -> str:
    """Package indexes take these names for one."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _check_arguments(field: str, args: Mapping[str, Any]) -> None:
    for key, value in args.items():
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,60}", key):
            _refuse("entry", field, key, "names of arguments")
        if key == "pretrained":
            _refuse("entry", f"{field}.{key}", value, f"no weights but those of {MODEL}")
        if (field, key) == ("head_args", "shift"):
            _refuse("entry", f"{field}.{key}", value, "the field shift alone to say it")
        values = value if isinstance(value, list) else [value]
        if len(values) > _LONGEST_LIST or not all(map(_is_plain, values)):
            expected = f"a number up to {_LARGEST_NUMBER}, a name, true, false, null, or up to {_LONGEST_LIST} of these"
            raise BadInput("entry", short(value), where=f"field {field}.{key}", expected=expected)


def _is_plain(value: Any) -> bool:
    """Whether it is small and harmless: neither a path, an address nor ``module:attribute`` can be written in it."""
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, str):
        return re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", value) is not None
    return is_number(value) and abs(value) <= _LARGEST_NUMBER


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
