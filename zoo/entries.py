"""The encoders there are: combinations of parts, and the pretrained ones with their facts. Imports no torch.

A pretrained entry is ``weights/<backbone>-<head>.<tag>.json``: the ``config.json`` of :func:`cryozoo.save_pretrained`,
and ``source``, which says where the files are (``"embedded"``: beside it; ``"hf-hub:owner/repo@<commit>"``).
"""

from __future__ import annotations

import fnmatch
from pathlib import Path

from ..particles.errors import BadInput
from .entry import Entry, read_entry
from .registry import UnknownName, get_part, list_combinations, nearest, split_name

WEIGHTS = Path(__file__).parents[1] / "weights"


def list_encoders(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Names of encoders that match a shell pattern, sorted.

    Args:
        pattern: for instance ``"vgg_*-sixd*"``; of pretrained ones also of the molecule, ``"*ribosome*"``.
        pretrained: names with weights, ``<backbone>-<head>.<tag>``, for ``load_pretrained``; else all combinations,
            ``<backbone>-<head>``, for ``create_encoder``.
    """
    if not pretrained:
        return list_combinations(pattern)
    names = sorted(path.stem for path in WEIGHTS.glob("*.json"))
    return [name for name in names if fnmatch.fnmatchcase(name, pattern) or _is_of(name, pattern)]


def _is_of(name: str, pattern: str) -> bool:
    molecule = get_entry(name).molecule
    named = () if molecule is None else (molecule.name, molecule.source)
    return any(fnmatch.fnmatchcase(text.lower(), pattern.lower()) for text in named)


def whole_name(name: str) -> str:
    """``<backbone>-<head>.<tag>`` of a tag alone, where one pretrained encoder has it; other names as they are."""
    found = [known for known in list_encoders(pretrained=True) if known.partition(".")[2] == name]
    return found[0] if len(found) == 1 else name


def get_entry(name: str) -> Entry:
    """Everything known about a pretrained encoder, by field: see :class:`~cryozoo.zoo.entry.Entry`.

    Args:
        name: ``<backbone>-<head>.<tag>``, or the tag alone.

    Raises:
        BadInput: the entry is damaged.
        UnknownName: no such entry, with the nearest ones; or a name without its tag, with the tags there are.
    """
    name = whole_name(name)
    backbone, head, tag = split_name(name)
    if tag is None:
        get_part("backbone", backbone)
        get_part("head", head)
        if tagged := list_encoders(f"{name}.*", pretrained=True):
            raise UnknownName(f"{name!r} needs a tag, one of: {', '.join(tagged)}")
        raise UnknownName(f"no pretrained weights for {name!r}; create_encoder makes it with random ones")
    known = list_encoders(pretrained=True)
    if name not in known:
        raise UnknownName(f"no pretrained encoder {name!r}{nearest(name, known)}")
    path = WEIGHTS / f"{name}.json"
    entry = read_entry(path, str(path))
    if entry.full_name != name:
        raise BadInput(path, f"is the entry of {entry.full_name!r}", expected=name)
    return entry
