"""Arrays in numpy's .npy format, from files that may lie.

``numpy.load`` refuses long headers, and sets aside what a header claims before it looks at the file. This reader admits
numbers and fixed-length strings, plain or in named fields, and only as many as the file holds.
"""

from __future__ import annotations

import math
import re
from io import BytesIO, FileIO
from pathlib import Path

import numpy as np
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0, read_magic
from numpy.typing import NDArray

from .errors import BadInput

MAGIC = b"\x93NUMPY"
_MAX_HEADER = 1 << 20
# What is left of a header without its strings: brackets, integers and True or False.
_STRING = re.compile(rb"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"")
_REST = re.compile(rb"(?:[\[\](){}:,\s\d]|True|False)*")


def read_npy(handle: FileIO | BytesIO, size: int, source: str | Path) -> NDArray:
    """Read one array that takes up all ``size`` bytes from the current position of ``handle``.

    Raises:
        BadInput: not this format, objects (pickles) inside, or the header claims more or less than there is.
    """
    start = handle.read(12)
    if not start.startswith(MAGIC) or len(start) < 12:
        raise BadInput(source, "no numpy array", expected="the .npy format")
    if start[6:8] not in (b"\1\0", b"\2\0", b"\3\0"):
        raise BadInput(source, f"version {start[6]}.{start[7]} of the .npy format", expected="1.0, 2.0 or 3.0")
    prefix, length = (10, 2) if start[6] == 1 else (12, 4)
    claimed = int.from_bytes(start[8 : 8 + length], "little")
    if claimed > min(_MAX_HEADER, size - prefix):
        raise BadInput(source, f"a header of {claimed} bytes in a file of {size}", where="header")
    header = start + handle.read(claimed + prefix - 12)
    try:
        dtype, shape, fortran = _parse_header(header, prefix)
    except Exception:  # numpy and Python's parser raise many kinds
        found = " ".join(header[prefix:].decode("latin-1").split())[:80]
        expected = "an array of numbers or text"
        raise BadInput(source, f"cannot use {found!r}", where="header", expected=expected) from None
    here, there = size - prefix - claimed, math.prod(shape) * dtype.itemsize
    if here != there:
        raise BadInput(source, f"{here} bytes of data", expected=f"{there} for shape {shape} as the header claims")
    data = bytearray(here)
    filled = 0
    while filled < here:
        got = handle.readinto(memoryview(data)[filled:])
        if not got:
            raise BadInput(source, "was cut short while it was read")
        filled += got
    return np.ndarray(shape, dtype, buffer=data, order="F" if fortran else "C")


def _parse_header(header: bytes, prefix: int) -> tuple[np.dtype, tuple[int, ...], bool]:
    """What numpy reads in a header, when it is numbers or text, plain or in fields, and no nested ones."""
    rest = _STRING.sub(b"", header[prefix:])
    depth = deepest = 0
    for character in rest:
        depth += (character in b"([{") - (character in b")]}")
        deepest = max(deepest, depth)
    # Nothing but a flat literal reaches Python's parser, which numpy uses and which deep ones can crash.
    if not _REST.fullmatch(rest) or deepest > 6:
        raise ValueError
    content = BytesIO(header)
    version = read_magic(content)
    read = read_array_header_1_0 if version == (1, 0) else read_array_header_2_0
    shape, fortran, dtype = read(content, max_header_size=_MAX_HEADER)
    if version == (3, 0) and dtype.names:  # as version 2, with names in UTF-8
        dtype.names = tuple(name.encode("latin-1").decode() for name in dtype.names)
    kinds = [dtype] if dtype.fields is None else [kind for kind, *_ in dtype.fields.values()]
    plain = all(kind.base.kind in "biufcSU" and kind.itemsize for kind in kinds)
    if not (plain and all(type(n) is int and n >= 0 for n in shape)):
        raise ValueError
    return dtype, shape, fortran
