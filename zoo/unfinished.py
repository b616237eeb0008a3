"""What was found of the first particles by work that did not come to its end, kept for the next try."""

from __future__ import annotations

import hashlib
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from .. import __version__
from ..particles.errors import BadInput, BadInputWarning
from ..particles.files import atomic_write
from ..particles.stack import ParticleStack

Columns = Mapping[str, NDArray[np.generic]]
"""Arrays by name, with a row for each particle."""

_SECONDS = 60.0  # after which what is new is written, too


class Unfinished:
    """``NAME.partial-<key>.npz`` beside the output of work that goes through particles in their order.

    The key is a hash of what the result depends on: which images of which files, as they lie on disk (size and time of
    change), the settings, threads and versions. Only what has that key is gone on from, so that the end is the same bit
    for bit.

    Args:
        out: the output.
        stack: the particles.
        settings: all else that the result depends on, as what ``repr`` tells apart; files by :func:`as_it_lies`.
        whole: whether the images of all particles matter for each, not only its own.

    Attributes:
        done: of the first particles, from before, or None.

    Warns:
        BadInputWarning: something was left that does not match.
    """

    def __init__(self, out: Path, stack: ParticleStack, settings: object, *, whole: bool = False) -> None:
        self._out, self._stack, self._whole = out, stack, whole
        self._settings = repr((settings, torch.get_num_threads(), torch.__version__, __version__))
        self._files = [as_it_lies(path) for path in stack.image_files]
        self._parts: list[Columns] = []
        self._written = time.monotonic()
        self.done: Columns | None = None
        self._path: Path | None = None
        name = re.compile(re.escape(f"{out.stem}.partial-") + r"[0-9a-f]{16}\.npz")
        for path in sorted(path for path in out.parent.iterdir() if name.fullmatch(path.name)):
            found = _read(path)
            if found is None or _rows(found) > len(stack) or path != self._name(_rows(found)):
                message = "is damaged, of other particles, or was made with other settings: the work begins anew"
                warnings.warn(BadInputWarning(f"{path} {message}"), stacklevel=2)
            elif self.done is None or _rows(found) > _rows(self.done):
                self.done, self._path = found, path
        if self.done is not None:
            self._parts.append(self.done)

    def __len__(self) -> int:
        return sum(map(_rows, self._parts))

    def add(self, columns: Columns) -> None:
        """Of the next particles; what there is is written once a minute."""
        self._parts.append(columns)
        if time.monotonic() > self._written + _SECONDS:
            with suppress(BadInput, OSError):  # a full disk is no reason to stop
                self.keep()

    def keep(self) -> Path:
        """Write what there is, in place of what was written before."""
        joined = {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}
        path = self._name(len(self))
        with atomic_write(path, overwrite=True) as file:
            np.savez(file, **joined)  # type: ignore[arg-type]
        if self._path != path:
            self.remove()
        self._path, self._written = path, time.monotonic()
        return path

    @contextmanager
    def kept_on_failure(self) -> Iterator[None]:
        """Keep what there is when the work is stopped or fails, and say so."""
        try:
            yield
        except BaseException as error:
            if self._parts:
                with suppress(BadInput, OSError):  # nothing may hide the error itself
                    error.add_note(f"{len(self):,} finished ones are kept in {self.keep()}; the same command goes on")
            raise

    def remove(self) -> None:
        """Remove what was written."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _name(self, n: int) -> Path:
        key = fingerprint(self._stack, self._settings, n, whole=self._whole, files=self._files)
        return self._out.with_name(f"{self._out.stem}.partial-{key}.npz")


def fingerprint(
    stack: ParticleStack, settings: object, n: int | None = None, *, whole: bool = True, files: list[str] | None = None
) -> str:
    """16 hexadecimal digits of what work with particles depends on.

    Args:
        stack: the particles.
        settings: all else, as what ``repr`` tells apart.
        n: how many particles are done; by default all.
        whole: whether the images of all particles matter, not only of the first n.
        files: :func:`as_it_lies` of the stack's image files, where that is known.
    """
    table, n = stack.table, len(stack) if n is None else n
    assert table.file is not None
    assert table.index is not None
    files = [as_it_lies(path) for path in stack.image_files] if files is None else files
    key = hashlib.sha256(repr((settings, n, stack.pixel_size, stack.inverted)).encode())
    seen = len(table.file) if whole else n
    file, index = table.file[:seen], table.index[:seen]
    for position in dict.fromkeys(file.tolist()):
        key.update(f"{position}: {files[position]}".encode())
    key.update(file.tobytes() + index.tobytes())
    key.update(repr(table.corrected).encode())
    for column in (table.sign, table.group if whole else None):
        if column is not None:
            key.update(column[:seen].tobytes())
    if table.ctf is not None:
        for values in vars(table.ctf).values():
            key.update(values[:seen].numpy().tobytes())
    return key.hexdigest()[:16]


def as_it_lies(path: Path) -> str:
    """A file as it lies on disk: where, how large, and when it was changed."""
    status = os.stat(path)
    return repr((os.path.realpath(path), status.st_size, status.st_mtime_ns))


def _rows(columns: Columns) -> int:
    return len(next(iter(columns.values())))


def _read(path: Path) -> Columns | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            columns = dict(archive)
        return columns if len({len(values) for values in columns.values()}) == 1 else None
    except Exception:  # a damaged archive can raise anything
        return None
