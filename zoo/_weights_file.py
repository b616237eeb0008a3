"""Reading safetensors files of unknown origin: every claim is checked before anything believes it."""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ..particles.errors import BadInput
from ..particles.files import looks_like, open_regular
from ..particles.strict_json import short, strict_json
from .entry import FileFacts

LARGEST_HEADER = 2**20
"""Bytes; room for ten thousand tensors."""

_BYTES = {"F32": 4, "I64": 8}  # weights, and counters like that of a batch normalisation


class Damaged(BadInput):
    """A file is not the one its manifest describes; a new download may help."""


def read_tensors(path: Path, label: str, facts: FileFacts) -> dict[str, Tensor]:
    """Read a safetensors file that is exactly the one of its manifest.

    Args:
        path: the file.
        label: its name in messages, with its repository.
        facts: what its manifest says.

    Raises:
        Damaged: size or sha256 differ.
        BadInput: not a strictly valid safetensors file, or a number that is not finite.
    """
    data = _read(path, label, facts.size)
    digest = hashlib.sha256(data).hexdigest()
    if digest != facts.sha256:
        raise Damaged(label, f"sha256 {digest[:12]}...", expected=f"{facts.sha256[:12]}...", hint="get it again")
    check_header(data, label)
    try:
        tensors = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise BadInput(label, f"not readable: {error}") from None
    check_finite(tensors, label)
    return tensors


def check_finite(tensors: Mapping[str, Tensor], label: str) -> None:
    """Refuse NaN and infinity, naming the tensor."""
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise BadInput(label, "holds NaN or infinity", where=f"tensor {short(name)}", expected="finite weights")


def check_header(data: bytes, label: str) -> None:
    """Refuse what the format forbids, and what its readers let pass all the same: keys that come twice, and padding.

    The file is 8 bytes with the length of the header (little-endian), the header (JSON: name -> dtype, shape, begin and
    end in what follows), and the data.
    """
    if len(data) < 8:
        guess = looks_like(data)
        raise BadInput(label, f"{len(data)} bytes" + (f", looks like {guess}" if guess else ""), expected="safetensors")
    length = int.from_bytes(data[:8], "little")
    if length > min(LARGEST_HEADER, len(data) - 8):
        guess = looks_like(data)
        raise BadInput(
            label,
            f"claims a header of {length} bytes in a file of {len(data)}" + (f"; looks like {guess}" if guess else ""),
            expected=f"safetensors with a header of at most {LARGEST_HEADER} bytes",
        )
    header = data[8 : 8 + length]
    padding = len(header) - len(header.rstrip(b" "))
    if not header.startswith(b"{") or padding > 7:
        raise BadInput(label, "is padded", where="header", expected="'{' first, and at most 7 spaces at the end")
    table = strict_json(header, label, where="header")
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise BadInput(label, "is not text", where="header, __metadata__", expected="names and strings")
    spans = [(*_span(name, entry, label), name) for name, entry in table.items()]
    end = 0
    for begin, stop, name in sorted(spans):
        if begin != end:
            raise BadInput(
                label, f"begins at byte {begin}", where=f"header, {short(name)}", expected=f"{end}: no gap, no overlap"
            )
        end = stop
    if end != len(data) - 8 - length:
        raise BadInput(label, f"holds {len(data) - 8 - length} bytes of data, its header describes {end}")


def _span(name: str, entry: Any, label: str) -> tuple[int, int]:
    where = f"header, {short(name)}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise BadInput(label, f"is {short(entry)}", where=where, expected="dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BYTES:
        raise BadInput(label, f"dtype {short(dtype)}", where=where, expected=" or ".join(_BYTES))
    if not _naturals(shape) or len(shape) > 8:
        raise BadInput(label, f"shape {short(shape)}", where=where, expected="up to 8 whole numbers")
    if not _naturals(offsets) or len(offsets) != 2:
        raise BadInput(label, f"data_offsets {short(offsets)}", where=where, expected="two whole numbers")
    begin, end = offsets
    if end - begin != math.prod(shape) * _BYTES[dtype]:
        raise BadInput(label, f"{end - begin} bytes for {dtype} of shape {short(shape)}", where=where)
    return begin, end


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _read(path: Path, label: str, size: int) -> bytes:
    # Buffered: one read of the system may bring less than what was asked for.
    with open_regular(path) as raw, io.BufferedReader(raw) as file:
        found = os.fstat(file.fileno()).st_size
        if found != size:
            raise Damaged(label, f"{found} bytes", expected=f"{size} bytes", hint="get it again")
        data = file.read(size)
    if len(data) != size:
        raise Damaged(label, "was cut while it was read", hint="get it again")
    return data
