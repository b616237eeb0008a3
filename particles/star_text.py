"""The text of a STAR file: what may be in it, how lines are cut into values, and how values become text."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator, Sequence
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import BadInput

_MAX_LINE = 1 << 16
_CHUNK = 1 << 20
# A quoted value ends at a quote before white space; "#" starts a comment only where a value could start.
_CELL = re.compile(rb"""\s*('(?:[^']|'(?=\S))*'(?=\s|$)|"(?:[^"]|"(?=\S))*"(?=\s|$)|#.*|\S+)""")
_NEEDS_QUOTES = re.compile(rb"""\s|^['"#_]|^$|^(?:data_|loop_$)""")

Column = NDArray | Sequence[str]
"""What a column is made from: an array of numbers, or text."""


def check_text(path: str | Path, handle: FileIO) -> None:
    """Refuse what is not text or has endless lines before the file is in memory."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    rest, lines = 0, 1
    for chunk in iter(lambda: handle.read(_CHUNK), b""):
        if b"\0" in chunk:
            raise BadInput(path, "NUL bytes", expected="a STAR file, which is text")
        try:
            decoder.decode(chunk)
        except UnicodeDecodeError as error:
            line = lines + error.object.count(b"\n", 0, error.start)
            found, hint = f"byte {error.object[error.start]:#04x}, which is not UTF-8 text", "save the file as UTF-8"
            raise BadInput(path, found, where=f"line {line}", expected="a STAR file", hint=hint) from None
        lines += chunk.count(b"\n")
        first, *more = chunk.split(b"\n")
        longest = max(rest + len(first), max(map(len, more), default=0))
        if longest > _MAX_LINE:
            raise BadInput(path, f"a line of more than {_MAX_LINE} bytes", expected="a STAR file")
        rest = len(more[-1]) if more else rest + len(first)
    if decoder.getstate()[0]:
        raise BadInput(path, "bytes that are not UTF-8 text", expected="a STAR file")


def numbered_lines(
    text: bytes, start: int, stop: int, number: int
) -> Iterator[tuple[int, int, bytes, list[bytes] | None]]:
    """Line number, position, content and values of the lines between two positions, a megabyte at a time."""
    while start < stop:
        end = text.find(b"\n", start + _CHUNK, stop)
        end = stop if end < 0 else end + 1
        piece = text[start:end].removesuffix(b"\n")
        cut = _cutter(piece)
        for line in piece.split(b"\n"):
            yield number, start, line, cut(line)
            number += 1
            start += len(line) + 1


def batches(text: bytes, start: int, stop: int) -> Iterator[list[list[bytes]]]:
    """The cells of all rows between two positions, a megabyte of text at a time."""
    while start < stop:
        end = text.find(b"\n", start + _CHUNK, stop)
        end = stop if end < 0 else end
        piece = text[start:end]
        cut = _cutter(piece)
        yield [cells for line in piece.split(b"\n") if (cells := cut(line))]
        start = end + 1


def _cutter(text: bytes) -> Callable[[bytes], list[bytes] | None]:
    """The quickest function that cuts the lines of ``text`` into values."""
    return _cut if any(special in text for special in (b'"', b"'", b"#")) else bytes.split


def _cut(line: bytes) -> list[bytes] | None:
    """The values in a line, quotes kept, comment dropped; None when a quote is not closed."""
    if b'"' not in line and b"'" not in line and b"#" not in line:
        return line.split()
    cells = []
    end = 0
    while match := _CELL.match(line, end):
        cell = match[1]
        if cell.startswith(b"#"):
            break
        if cell[0] in b"'\"" and (len(cell) == 1 or cell[-1] != cell[0]):
            return None
        cells.append(cell)
        end = match.end()
    return cells


def unquote(cell: bytes) -> bytes:
    """A value without the quotes around it."""
    return cell[1:-1] if cell[0] in b"'\"" else cell


def checked_column(label: str, values: Column) -> Column:
    """The column; ValueError when it has more than one dimension or a number that is not finite."""
    if isinstance(values, np.ndarray):
        if values.ndim != 1:
            raise ValueError(f"{label} of shape {values.shape}, expected one dimension")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(f"{label} is not finite in row {np.flatnonzero(~np.isfinite(values))[0] + 1}")
    return values


def column_cells(values: Column) -> list[bytes]:
    """A column's values as they are written; ValueError for text that a STAR file cannot hold."""
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        return [_quote(str(v).encode()) for v in values]
    if values.dtype.kind == "f":
        # Six decimals as RELION has them, unless that would lose digits of a small or large number.
        return [(b"%.6f" if v == 0 or 1e-2 <= abs(v) < 1e9 else b"%.6e") % v for v in values.tolist()]
    return [b"%d" % v for v in values.tolist()]


def _quote(cell: bytes) -> bytes:
    if not _NEEDS_QUOTES.search(cell):
        return cell
    for quote in (b'"', b"'"):
        if quote not in cell and not set(cell) & {0, ord("\n"), ord("\r")}:
            return quote + cell + quote
    raise ValueError(f"{cell.decode()!r} cannot be written to a STAR file")
