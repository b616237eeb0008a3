"""STAR files, read so that everything in them can be written back unchanged.

This file knows the syntax: blocks, loops, key-value pairs, quoted values, comments. What RELION's columns mean is known
by ``relion.py``. The rows of a loop stay text, in one piece; columns are cut out of it when somebody asks. A row of
the wrong length, a duplicate column or block and a file that is not text are refused, with the line.

Not supported, because RELION does not write them: values over several lines, several loops in one block.
"""

from __future__ import annotations

import codecs
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import BadInput
from .files import atomic_write, looks_like, open_regular
from .star_text import Column, batches, check_text, checked_column, column_cells, numbered_lines, unquote

_MAX_COLUMNS = 2000
_NEW = "a new STAR table"


@dataclass(frozen=True, eq=False)
class StarBlock:
    """One ``data_`` block: a table (``loop_``), or key-value pairs, which are read as a table with one row.

    Attributes:
        name: without ``data_``; may be empty.
        labels: column names without the leading underscore.
        is_loop: whether it was or will be written as a loop.
    """

    name: str
    labels: tuple[str, ...]
    is_loop: bool
    _source: str
    _preamble: bytes  # comments and blank lines above "data_"
    _header: bytes  # from "data_" to the first row
    _text: bytes  # holds the rows between _start and _stop
    _start: int
    _stop: int
    _count: int
    _line: int | None  # number of the line at _start; None when the rows are not those of a file

    @classmethod
    def from_columns(cls, name: str, columns: Mapping[str, Column], *, comment: str = "") -> StarBlock:
        """Make a loop from columns of equal length, as ``StarFile.with_columns`` takes them, below a comment."""
        cells = [column_cells(checked_column(label, values)) for label, values in columns.items()]
        rows = b"".join(b" ".join(row) + b"\n" for row in zip(*cells, strict=True))
        labels = tuple(columns)
        preamble = b"\n# version 30001\n" + (f"# {comment}\n".encode() if comment else b"") + b"\n"
        header = _loop_header(name, labels)
        n = len(cells[0]) if cells else 0
        return cls(name, labels, True, _NEW, preamble, header, rows, 0, len(rows), n, None)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._count

    def __contains__(self, label: str) -> bool:
        return label in self.labels

    def text(self, label: str) -> list[str]:
        """Return a column as text, without the quotes around values.

        Raises:
            BadInput: there is no such column.
        """
        (k,) = self._positions((label,))
        return [unquote(row[k]).decode() for rows in self._batches() for row in rows]

    def numbers(self, *labels: str) -> NDArray[np.float64]:
        """Return columns as numbers, (rows, labels) float64; asking for several at once is faster.

        Raises:
            BadInput: there is no such column, or a value is not a finite number.
        """
        positions = self._positions(labels)
        out = np.empty((len(self), len(labels)))
        done = 0
        for rows in self._batches():
            for j, k in enumerate(positions):
                cells = [row[k] for row in rows]
                try:
                    out[done : done + len(rows), j] = list(map(float, cells))
                    # Python reads 1_000 as a number, other programs do not.
                    valid = b"_" not in b"".join(cells)
                except ValueError:
                    valid = False
                if not (valid and np.isfinite(out[done : done + len(rows), j]).all()):
                    self._refuse_number(done, cells, labels[j])
            done += len(rows)
        return out

    def integers(self, label: str) -> NDArray[np.int64]:
        """Return a column as whole numbers, (rows,) int64; ``3.0`` counts as whole.

        Raises:
            BadInput: there is no such column, or a value is not a whole number.
        """
        return self.whole(self.numbers(label)[:, 0], label)

    def whole(self, values: NDArray[np.float64], label: str) -> NDArray[np.int64]:
        """Return the numbers of a column, read before, as whole ones; BadInput as of :meth:`integers`."""
        wrong = np.flatnonzero((values != np.round(values)) | (np.abs(values) > 2**53))
        if len(wrong):
            where = self.where(int(wrong[0]), label)
            raise BadInput(self._source, f"{values[wrong[0]]:g}", where=where, expected="a whole number")
        return values.astype(np.int64)

    def where(self, row: int, label: str | None = None) -> str:
        """Say where row ``row`` (from 0) stands in the file, for messages; rows in messages count from 1."""
        place = f"data_{self.name}, row {row + 1}"
        if self._line is not None:
            lines = (n for n, _, _, cells in numbered_lines(self._text, self._start, self._stop, self._line) if cells)
            place += f" (line {next(islice(lines, row, None))})"
        return place + (f", {label}" if label else "")

    def with_columns(self, columns: Mapping[str, Column], *, without: Collection[str] = ()) -> StarBlock:
        """Return the block with columns replaced where the label exists and appended where not; some left out."""
        new = {label: checked_column(label, values) for label, values in columns.items()}
        for label, values in new.items():
            if len(values) != len(self):
                raise ValueError(f"{len(values)} values of {label} for {len(self)} rows")
        labels = self.labels + tuple(label for label in new if label not in self.labels)
        targets = [(labels.index(label), values) for label, values in new.items()]
        missing = [b""] * (len(labels) - len(self.labels))
        kept = [k for k, label in enumerate(labels) if label not in without]
        text = BytesIO()  # hands its buffer over without a copy
        done = 0
        for rows in self._batches():
            for cells in rows:
                cells += missing
            for k, values in targets:
                for cells, cell in zip(rows, column_cells(values[done : done + len(rows)]), strict=True):
                    cells[k] = cell
            text.writelines(b" ".join([cells[k] for k in kept]) + b"\n" for cells in rows)
            done += len(rows)
        labels = tuple(labels[k] for k in kept)
        header = _loop_header(self.name, labels)
        return self._with_rows(text.getvalue(), len(self), labels=labels, is_loop=True, _header=header)

    def with_rows(self, indices: ArrayLike) -> StarBlock:
        """Return the block with the chosen rows, in the order given."""
        lines = [line for _, _, line, cells in numbered_lines(self._text, self._start, self._stop, 0) if cells]
        chosen = [lines[i] + b"\n" for i in np.asarray(indices, dtype=np.int64).tolist()]
        if not self.is_loop:
            raise ValueError(f"data_{self.name} is not a loop")
        return self._with_rows(b"".join(chosen), len(chosen))

    def _with_rows(self, rows: bytes, n: int, **changes: object) -> StarBlock:
        return replace(self, _text=rows, _start=0, _stop=len(rows), _count=n, _line=None, **changes)  # type: ignore[arg-type]

    def _pieces(self) -> Iterator[bytes | memoryview]:
        """The block as it is written."""
        yield self._preamble
        yield self._header
        if self.is_loop and self._stop > self._start:
            yield memoryview(self._text)[self._start : self._stop]
            if self._text[self._stop - 1] != ord("\n"):
                yield b"\n"

    def _batches(self) -> Iterator[list[list[bytes]]]:
        return batches(self._text, self._start, self._stop)

    def _positions(self, labels: Sequence[str]) -> list[int]:
        for label in labels:
            if label not in self.labels:
                raise BadInput(self._source, f"no column {label}", where=f"data_{self.name}")
        return [self.labels.index(label) for label in labels]

    def _refuse_number(self, done: int, cells: list[bytes], label: str) -> None:
        for i, cell in enumerate(cells):
            try:
                valid = np.isfinite(float(cell)) and b"_" not in cell
            except ValueError:
                valid = False
            if not valid:
                found = repr(cell[:80].decode())
                raise BadInput(self._source, found, where=self.where(done + i, label), expected="a finite number")


class StarFile:
    """A STAR file: blocks by name, in the order of the file.

    ``star["particles"].numbers("rlnAngleRot")``; a file is changed by making another: ``star.with_columns(...)``.

    Attributes:
        source: the file it was read from, for messages.
        blocks: name without ``data_`` -> block.
    """

    def __init__(self, blocks: Sequence[StarBlock], *, source: str = _NEW, tail: bytes = b"") -> None:
        self.source = source
        self.blocks = {block.name: block for block in blocks}
        self._tail = tail

    @classmethod
    def read(cls, path: str | Path) -> StarFile:
        """Read a file; CRLF and a UTF-8 byte order mark are accepted.

        Raises:
            BadInput: not a text file in UTF-8, no ``data_`` block, or broken syntax; with the line.
        """
        with open_regular(path) as handle:
            head = handle.read(512)
            handle.seek(0)
            if kind := looks_like(head):
                raise BadInput(path, f"is {kind}", expected="a STAR file")
            check_text(path, handle)
            handle.seek(0)
            text = handle.read()
        text = text.removeprefix(codecs.BOM_UTF8)
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return _Parser(str(path), text).parse()

    def __getitem__(self, name: str) -> StarBlock:
        """Return the block ``data_<name>``.

        Raises:
            BadInput: there is no such block.
        """
        if name not in self.blocks:
            raise BadInput(self.source, f"no block data_{name}", expected=f"one of {sorted(self.blocks)}")
        return self.blocks[name]

    def __contains__(self, name: str) -> bool:
        return name in self.blocks

    def with_block(self, block: StarBlock) -> StarFile:
        """Return the file with the block of that name replaced, or appended."""
        return StarFile([*(self.blocks | {block.name: block}).values()], source=self.source, tail=self._tail)

    def with_columns(self, name: str, columns: Mapping[str, Column]) -> StarFile:
        """Return the file with columns of one block replaced or appended.

        The text of all other cells stays as it is. Floats are written with six decimals, values with white space are
        quoted.
        """
        return self.with_block(self[name].with_columns(columns))

    def write(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the file; blocks that were not changed come out as they came in, with LF line ends."""
        with atomic_write(path, overwrite=overwrite) as handle:
            for block in self.blocks.values():
                handle.writelines(block._pieces())
            handle.write(self._tail)


class _Parser:
    """One pass over the lines of a file."""

    def __init__(self, source: str, text: bytes) -> None:
        self._source = source
        self._text = text
        self._blocks: dict[str, StarBlock] = {}
        self._end = 0  # the first byte that belongs to no block yet

    def parse(self) -> StarFile:
        name: str | None = None
        labels: list[str] = []
        values: list[bytes] = []  # of key-value pairs
        preamble = b""
        is_loop = False
        begin = start = line_of_rows = n = 0

        def close() -> None:
            if name is None:
                return
            if is_loop and not labels:
                raise BadInput(self._source, "a loop without columns", where=f"data_{name}")
            text, first, last = (self._text, start, self._end) if n else (b"", 0, 0)
            if not is_loop:
                text = b" ".join(values)
                first, last = 0, len(text)
            header = self._text[begin : start if is_loop else self._end]
            if not header.endswith(b"\n"):
                header += b"\n"
            rows = n if is_loop else min(len(values), 1)
            line = line_of_rows if is_loop else None
            columns = tuple(labels)
            self._blocks[name] = StarBlock(
                name, columns, is_loop, self._source, preamble, header, text, first, last, rows, line
            )

        for number, position, line, cells in numbered_lines(self._text, 0, len(self._text), 1):
            if cells is None:
                raise self._refuse(number, line, "every quote to be closed")
            if not cells:
                continue
            head = cells[0]
            after = min(position + len(line) + 1, len(self._text))
            if head.startswith(b"data_"):
                close()
                name = head[5:].decode()
                if name in self._blocks:
                    raise BadInput(self._source, f"a second block data_{name}", where=f"line {number}")
                preamble = self._text[self._end : position]
                begin, start, n, is_loop, labels, values = position, after, 0, False, [], []
            elif name is None:
                raise self._refuse(number, line, "data_ before anything else")
            elif head == b"loop_":
                if is_loop or labels:
                    raise self._refuse(number, line, f"one loop in data_{name}, and no key-value pairs beside it")
                is_loop, start = True, after
            elif head.startswith(b"_"):
                label = head[1:].decode()
                if label in labels:
                    raise BadInput(self._source, f"a second column {label}", where=f"line {number}")
                if len(labels) == _MAX_COLUMNS:
                    raise self._refuse(number, line, f"at most {_MAX_COLUMNS} columns")
                if n or len(cells) != (1 if is_loop else 2):
                    raise self._refuse(number, line, "a row" if n else "a label" if is_loop else "a label and a value")
                labels.append(label)
                values += cells[1:]
                start, line_of_rows = after, number + 1
            elif not is_loop:
                raise self._refuse(number, line, "a label")
            elif len(cells) != len(labels):
                found = f"{len(cells)} values"
                raise BadInput(self._source, found, where=f"line {number}", expected=f"{len(labels)}, one per column")
            else:
                n += 1
            self._end = after
        close()
        if not self._blocks:
            raise BadInput(self._source, "no data_ block", expected="a STAR file")
        return StarFile([*self._blocks.values()], source=self._source, tail=self._text[self._end :])

    def _refuse(self, number: int, line: bytes, expected: str) -> BadInput:
        return BadInput(self._source, repr(line[:80].decode()), where=f"line {number}", expected=expected)


def _loop_header(name: str, labels: Sequence[str]) -> bytes:
    lines = [f"data_{name}", "", "loop_"] + [f"_{label} #{k}" for k, label in enumerate(labels, 1)]
    return "\n".join(lines).encode() + b"\n"
