"""Arrays in numpy's .npy format, from files that may lie.

``numpy.load`` refuses long headers, and sets aside what a header claims before it looks at the file. This reader admits
numbers and fixed-length strings, plain or in named fields, and only as many as the file holds.
"""

from __future__ import annotations

import ast
import math
import re
from io import BytesIO, FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import BadInput

MAGIC = b"\x93NUMPY"
_MAX_HEADER = 1 << 20
_TYPE = re.compile(r"[<>|=]?(?:[?]|[biufc][1-9]\d?|[SU][1-9]\d{0,5})")
# What is left of a header without its strings: brackets, integers and True or False.
_STRING = re.compile(r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"")
_REST = re.compile(r"(?:[\[\](){}:,\s\d]|True|False)*")


def read_npy(handle: FileIO | BytesIO, size: int, source: str | Path) -> NDArray:
    """Read one array that takes up all ``size`` bytes from the current position of ``handle``.

    Raises:
        BadInput: not this format, objects (pickles) inside, or the header claims more or less than there is.
    """
    start = handle.read(12)
    if not start.startswith(MAGIC) or len(start) < 12:
        raise BadInput(source, "no numpy array", expected="the .npy format")
    if start[6] not in (1, 2, 3):
        raise BadInput(source, f"version {start[6]} of the .npy format", expected="1, 2 or 3")
    prefix, length = (10, 2) if start[6] == 1 else (12, 4)
    claimed = int.from_bytes(start[8 : 8 + length], "little")
    if claimed > min(_MAX_HEADER, size - prefix):
        raise BadInput(source, f"a header of {claimed} bytes in a file of {size}", where="header")
    header = (start[prefix:] + handle.read(claimed + prefix - 12)).decode(
        "utf-8" if start[6] == 3 else "latin-1", "replace"
    )
    dtype, shape, fortran = _parse_header(header, source)
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


def _parse_header(text: str, source: str | Path) -> tuple[np.dtype, tuple[int, ...], bool]:
    rest = _STRING.sub("", text)
    depth = deepest = 0
    for character in rest:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    try:
        # Nothing but a flat literal reaches the parser.
        if not _REST.fullmatch(rest) or deepest > 6:
            raise ValueError
        header = ast.literal_eval(text.strip())
        descr, fortran, shape = header["descr"], header["fortran_order"], header["shape"]
        if not (isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape) and type(fortran) is bool):
            raise ValueError
        return np.dtype(_checked(descr)), shape, fortran
    except (ValueError, SyntaxError, TypeError, KeyError, IndexError, MemoryError, RecursionError):
        found = " ".join(text.split())[:80]
        raise BadInput(
            source, f"cannot use {found!r}", where="header", expected="an array of numbers or text"
        ) from None


def _checked(descr: object) -> str | list[tuple]:
    """A dtype description with plain types only: no objects, no padding, no nesting."""
    if isinstance(descr, str):
        if not _TYPE.fullmatch(descr):
            raise ValueError
        return descr
    if not (isinstance(descr, list) and descr and all(isinstance(field, tuple) for field in descr)):
        raise ValueError
    for field in descr:
        name, kind, *shape = field
        if not (isinstance(name, str) and name and isinstance(kind, str) and _TYPE.fullmatch(kind)):
            raise ValueError
        if shape and not (len(shape) == 1 and all(type(n) is int and 0 < n < 1000 for n in shape[0])):
            raise ValueError
    return descr
