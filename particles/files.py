"""Opening files that may be hostile and writing files that must not be half written."""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import stat
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import IO, Any

from .errors import BadInput, BadInputWarning

# First bytes of files that people take for images or tables by mistake.
_SIGNATURES = (
    (b"", "an empty file"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\xfd7zXZ", "an xz archive; unpack it first"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"\x93NUMPY", "a numpy array (.npy or .cs)"),
    (b"\x95CSDAT", "a cryoSPARC CSDAT table"),
    (b"\x80\x04\x95", "a Python pickle"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the real file"),
    (b"\xff\xfe", "UTF-16 text; save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text; save it as UTF-8"),
)
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def find_data(name: str | Path) -> Path:
    """A local file: as given, or below one of the folders of the environment variable ``CRYOZOO_DATA``."""
    folders = [Path(), *(Path(f) for f in os.environ.get("CRYOZOO_DATA", "").split(os.pathsep) if f)]
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    searched = ", ".join(str(f) for f in folders[1:]) or "CRYOZOO_DATA is not set"
    raise BadInput(name, "no such file", hint=f"give a path, or set CRYOZOO_DATA (searched: {searched})")


def looks_like(head: bytes) -> str | None:
    """Say what a file that starts with ``head`` seems to be, or None when that cannot be told."""
    start = head[:64].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, perhaps the error page of a failed download"
    if head[208:212] == b"MAP ":
        return "an MRC file"
    for magic, name in _SIGNATURES:
        if head.startswith(magic) and (magic or not head):
            return name
    return None


def open_regular(path: str | Path) -> FileIO:
    """Open a regular file for unbuffered reading, never waiting for anything.

    Raises:
        BadInput: missing, not readable, or a folder, named pipe, device or socket.
    """
    try:
        _require_regular(path, os.stat(path))  # before opening: to open a device can already do something
        handle = FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "r")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if isinstance(error, BadInput):
            raise
        raise BadInput(path, f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        _require_regular(path, os.fstat(handle.fileno()))  # the path may name something else by now
    except BadInput:
        handle.close()
        raise
    return handle


def _require_regular(path: str | Path, status: os.stat_result) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise BadInput(path, f"is {_KINDS.get(kind, 'not a regular file')}", expected="a file")


@contextmanager
def atomic_write(path: str | Path, *, overwrite: bool = False) -> Iterator[IO[bytes]]:
    """Write a file so that ``path`` holds either what it held before or all of the new content.

    The content goes to a temporary name in the same folder, reaches the disk, and takes the final name when the block
    ends. When the block raises, the temporary file is removed. What a killed run left of the same output is removed by
    the next one.

    Args:
        path: the file to write.
        overwrite: replace a file that is there already.

    Yields:
        A binary file, open for writing and seeking.

    Raises:
        BadInput: ``path`` exists and ``overwrite`` is not set, is not a regular file, lies in no folder or one that
            cannot be written to, or the disk is full.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name[:200]}.{uuid.uuid4().hex[:8]}.part")
    try:
        _refuse_existing(path, overwrite)
        for orphan in path.parent.glob(f".{glob.escape(path.name[:200])}.{'[0-9a-f]' * 8}.part"):
            _remove_abandoned(orphan)
        with open(partial, "xb") as handle:
            with suppress(OSError):  # not every network file system has locks
                fcntl.flock(handle, fcntl.LOCK_EX)  # tells other runs that this file is not abandoned
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
            _refuse_existing(path, overwrite)
            os.replace(partial, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        # Writing to an open file fails without a name; an error about any other file is not ours to explain.
        if error.filename is not None and Path(error.filename) not in (partial, path, path.parent):
            raise
        hint = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
        raise BadInput(path, f"cannot be written: {error.strerror or error}", hint=hint) from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def check_folder(path: str | Path) -> None:
    """See that a folder can be made and written to, before the work begins; nothing is made.

    Raises:
        BadInput: it is a file, lies below one, or nobody may write there.
    """
    path = Path(path)
    nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise BadInput(path, f"cannot be written to: {error.strerror or error}", expected="a folder") from None


def make_folder(path: str | Path) -> Path:
    """Make a folder; BadInput as of :func:`check_folder`."""
    check_folder(path)
    Path(path).mkdir(parents=True, exist_ok=True)
    return Path(path)


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if not path.exists():
        if not path.parent.is_dir():
            raise BadInput(path, "cannot be written: its folder does not exist", hint="make the folder first")
        return
    if not path.is_file():
        raise BadInput(path, "cannot be written: it is not a regular file")
    if not overwrite:
        raise BadInput(path, "exists already", hint="choose another name or allow overwriting")


def _remove_abandoned(orphan: Path) -> None:
    """Delete a temporary file unless its writer, which holds a lock on it, is alive."""
    with suppress(OSError), open(orphan, "rb") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        orphan.unlink()


def plain_json(value: Any) -> Any:
    """Plain data as JSON can hold it: lists for tuples, None for numbers that are not finite."""
    return json.loads(json.dumps(value), parse_constant=lambda _: None)


def write_json(path: str | Path, value: Any, *, overwrite: bool = False) -> None:
    """Write plain data as JSON (see :func:`plain_json`), atomically."""
    with atomic_write(path, overwrite=overwrite) as file:
        file.write((json.dumps(plain_json(value), indent=1, ensure_ascii=False) + "\n").encode())


class Tally:
    """Counts oddities that do not stop the work, to report each kind once.

    Args:
        source: the file they were met in or reached from.
    """

    def __init__(self, source: str | Path) -> None:
        self.source = source
        self._seen: dict[str, tuple[int, str]] = {}

    def add(self, what: str, where: str, count: int = 1) -> None:
        """Count an oddity; ``where`` is its row or file."""
        before, first = self._seen.get(what, (0, where))
        self._seen[what] = (before + count, first)

    def warn(self) -> None:
        """Issue one ``BadInputWarning`` per kind, with its count and first place, and start anew."""
        seen, self._seen = self._seen, {}
        for what, (count, first) in seen.items():
            place = first if count == 1 else f"{count} times, first: {first}"
            warnings.warn(BadInputWarning(f"{self.source}: {what} ({place})"), stacklevel=3)
