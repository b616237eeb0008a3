"""Reading safetensors files of unknown origin: every claim is checked before anything believes it."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ..particles.errors import BadInput
from ..particles.files import looks_like, open_regular
from ..particles.strict_json import short, strict_json
from .entry import FileFacts

LARGEST_HEADER = 2**20
"""Bytes; room for ten thousand tensors."""

_TYPES = ("F32", "F16", "I64")  # weights, and counters like that of a batch normalisation
_DIMENSIONS = 8


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
    return parse_tensors(read_bytes(path, label, facts), label)


def read_bytes(path: Path, label: str, facts: FileFacts) -> bytes:
    """Read a file that is exactly the one of its manifest; otherwise as :func:`read_tensors`."""
    data = _read(path, label, facts.size)
    digest = hashlib.sha256(data).hexdigest()
    if digest != facts.sha256:
        raise Damaged(label, f"sha256 {digest[:12]}...", expected=f"{facts.sha256[:12]}...", hint="get it again")
    return data


def parse_tensors(data: bytes, label: str) -> dict[str, Tensor]:
    """The finite tensors in the bytes of a safetensors file.

    The file is 8 bytes with the length of the header (little-endian), the header (JSON: name -> dtype, shape, begin and
    end in what follows), and the data. What the format forbids its reader refuses; here stands what the reader lets
    pass all the same: keys that come twice, padding, and what no tensor of an encoder is.

    Raises:
        BadInput: the file is refused; the message names ``label``, and the tensor.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(LARGEST_HEADER, len(data) - 8):
        guess = looks_like(data)
        raise BadInput(
            label,
            f"claims a header of {length} bytes in {len(data)} bytes" + (f"; looks like {guess}" if guess else ""),
            expected=f"safetensors with a header of at most {LARGEST_HEADER} bytes",
        )
    header = data[8 : 8 + length]
    if not header.startswith(b"{") or len(header) - len(header.rstrip(b" ")) > 7:
        raise BadInput(label, "is padded", where="header", expected="'{' first, and at most 7 spaces at the end")
    strict_json(header, label, where="header")
    try:
        for name, tensor in safetensors.deserialize(data):
            dtype, shape = tensor["dtype"], tensor["shape"]
            if dtype not in _TYPES or len(shape) > _DIMENSIONS or max(shape, default=0) > len(data):
                expected = f"{' or '.join(_TYPES)}, at most {_DIMENSIONS} dimensions, none larger than the file"
                raise BadInput(
                    label, f"dtype {dtype}, shape {short(shape)}", where=f"tensor {short(name)}", expected=expected
                )
        tensors = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise BadInput(label, f"not readable: {error}", expected="safetensors") from None
    for name, values in tensors.items():
        if not torch.isfinite(values).all():
            raise BadInput(label, "holds NaN or infinity", where=f"tensor {short(name)}", expected="finite weights")
    return tensors


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
