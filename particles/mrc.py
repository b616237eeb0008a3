"""Reading MRC files: stacks of particle images and density maps (MRC2014, mode 0, 1, 2, 6, 12, either byte order).

A header is a claim, and every claim is held against the size of the file before memory is set aside for it. Pixels are
read with positioned reads and never mapped: a mapped file that is cut short by somebody else kills the process.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import ArrayLike, NDArray

from .errors import BadInput, BadInputWarning
from .files import looks_like, open_regular

_HEADER_BYTES = 1024
_MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_REFUSED_MODES = {3: "complex integers", 4: "complex numbers, a Fourier transform", 101: "packed 4-bit numbers"}
# In Angstrom. Programs that know no pixel size leave 0 or numbers far outside this range.
PIXEL_SIZES = (0.01, 1000.0)
_IMOD_STAMP = 1146047817  # "IMOD"
_MAX_BUFFERS = 256  # per call of preadv; the system's limit is 1024

Image = NDArray[np.float32]


@dataclass(frozen=True)
class _Header:
    """What a header says once it has been checked against the file."""

    shape: tuple[int, int, int]  # z, y, x; z is what the file holds, not more
    dtype: np.dtype
    offset: int
    pixel_size: float | None
    cubic: bool
    space_group: int
    fingerprint: tuple[int, int, int]
    identity: tuple[int, int]
    oddities: tuple[str, ...]


class MrcStack:
    """A stack of square images in one MRC file. A file with a single section is a stack of one image.

    The object holds no open file, so it can be copied to other processes. A file that changes after it was opened is
    refused at the next read.

    Args:
        path: the .mrcs or .mrc file.
        allow_truncated: accept a file that ends before the last image its header claims, and serve those it holds.
        report: called with a sentence for each oddity that does not stop the work; by default they are warnings.

    Raises:
        BadInput: not an MRC file, not a stack of square images, or the header disagrees with the size of the file.
    """

    def __init__(
        self, path: str | Path, *, allow_truncated: bool = False, report: Callable[[str], None] | None = None
    ) -> None:
        self.path = Path(path)
        self._header = _read_header(path, allow_truncated)
        n, rows, columns = self.shape
        if rows != columns:
            raise BadInput(path, f"images of {columns} x {rows} pixels", expected="square images")
        oddities = self._header.oddities
        if self._header.space_group == 1 and n > 1:
            oddities += ("the header says that this is a volume; its sections are taken for images",)
        for oddity in oddities:
            if report is None:
                warnings.warn(BadInputWarning(f"{path}: {oddity}"), stacklevel=2)
            else:
                report(oddity)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, L, L)."""
        return self._header.shape

    @property
    def pixel_size(self) -> float | None:
        """Angstrom, or None when the header holds no plausible one."""
        return self._header.pixel_size

    @property
    def identity(self) -> tuple[int, int]:
        """Device and number of the file, whichever name or link led to it."""
        return self._header.identity

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, indices: ArrayLike) -> Image:
        """Read images in any order, repeated or not.

        Args:
            indices: (n,) integers, counted from 0.

        Returns:
            (n, L, L) float32, values as in the file.

        Raises:
            IndexError: an index is outside 0 .. N - 1.
            BadInput: the file was changed or cut short since it was opened.
        """
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        out = np.empty((len(wanted), *self.shape[1:]), dtype=np.float32)
        self.read_into(out, np.arange(len(wanted)), wanted)
        return out

    def read_into(self, out: Image, rows: NDArray[np.int64], indices: NDArray[np.int64]) -> None:
        """Read image ``indices[i]`` into ``out[rows[i]]``, where ``out`` is (n, L, L) float32 in C order."""
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"{self.path}: image {indices.min()} to {indices.max()} of {len(self)}")
        if not (out.flags.c_contiguous and out.dtype == np.float32 and out.shape[1:] == self.shape[1:]):
            raise ValueError(f"{out.dtype} {out.shape} cannot take images of {self.shape[1:]} as float32 in C order")
        order = np.argsort(indices, kind="stable")
        with open_regular(self.path) as handle:
            if _fingerprint(handle.fileno()) != self._header.fingerprint:
                raise BadInput(self.path, "changed since it was opened")
            if self._header.dtype == out.dtype:
                self._fill(handle.fileno(), out, rows[order], indices[order])
            else:
                raw = np.empty((len(indices), *self.shape[1:]), dtype=self._header.dtype)
                self._fill(handle.fileno(), raw, np.arange(len(indices)), indices[order])
                out[rows[order]] = raw

    def _fill(self, fd: int, out: NDArray, rows: NDArray[np.int64], indices: NDArray[np.int64]) -> None:
        """Read ascending ``indices`` into rows of ``out``; neighbours in the file come with one system call."""
        if not len(indices):
            return
        size = out[0].nbytes
        flat = out.reshape(-1).view(np.uint8).data
        places = (rows * size).tolist()
        starts = np.flatnonzero(np.diff(indices, prepend=-2) != 1)
        stops = np.append(starts[1:], len(indices))
        positions = self._header.offset + indices[starts] * size
        for start, stop, position in zip(starts.tolist(), stops.tolist(), positions.tolist(), strict=True):
            for low in range(start, stop, _MAX_BUFFERS):
                buffers = [flat[p : p + size] for p in places[low : min(low + _MAX_BUFFERS, stop)]]
                self._read_exactly(fd, buffers, position + (low - start) * size)

    def _read_exactly(self, fd: int, buffers: list[memoryview], position: int) -> None:
        try:
            got = os.preadv(fd, buffers, position)
            for buffer in buffers:
                # The system may deliver less than asked for; only an end of the file delivers nothing.
                done = min(got, len(buffer))
                got -= done
                while done < len(buffer):
                    more = os.preadv(fd, [buffer[done:]], position + done)
                    if more == 0:
                        raise BadInput(self.path, "was cut short while it was read")
                    done += more
                position += len(buffer)
        except OSError as error:
            raise BadInput(self.path, f"cannot be read: {error.strerror}") from None


def read_volume(path: str | Path) -> tuple[Image, float | None]:
    """Read a density map.

    Returns:
        (Z, Y, X) float32, and the voxel size in Angstrom, or None when the header holds no plausible one or the axes
        differ.

    Raises:
        BadInput: not an MRC file, the header disagrees with the size of the file, or a value is NaN or infinite.
    """
    header = _read_header(path, allow_truncated=False)
    for oddity in header.oddities:
        warnings.warn(BadInputWarning(f"{path}: {oddity}"), stacklevel=2)
    with open_regular(path) as handle:
        handle.seek(header.offset)
        values = np.fromfile(handle, dtype=header.dtype, count=int(np.prod(header.shape)))
    if values.size != np.prod(header.shape):
        raise BadInput(path, "was cut short while it was read")
    volume = values.reshape(header.shape).astype(np.float32, copy=False)
    if not np.isfinite(volume).all():
        raise BadInput(path, f"{np.count_nonzero(~np.isfinite(volume))} voxels are NaN or infinite")
    return volume, header.pixel_size if header.cubic else None


def _fingerprint(fd: int) -> tuple[int, int, int]:
    status = os.fstat(fd)
    return status.st_ino, status.st_size, status.st_mtime_ns


def _read_header(path: str | Path, allow_truncated: bool) -> _Header:
    with open_regular(path) as handle:
        head = handle.read(_HEADER_BYTES) or b""
        fingerprint = _fingerprint(handle.fileno())
        device = os.fstat(handle.fileno()).st_dev
    size = fingerprint[1]
    is_map = head[208:212] == b"MAP "
    if not is_map and (kind := looks_like(head)):
        raise BadInput(path, f"is {kind}", expected="an MRC file")
    if len(head) < _HEADER_BYTES:
        raise BadInput(path, f"{size} bytes", expected=f"an MRC file, which has a header of {_HEADER_BYTES} bytes")

    oddities = []
    stamp = head[212:214]
    order, where = (">", "big-endian header") if stamp == b"\x11\x11" else ("<", "little-endian header")
    # Python's integers: the product of three sizes must not wrap around.
    header = np.frombuffer(head, HEADER_DTYPE.newbyteorder(order))[0]
    nx, ny, nz, mode, extended = (int(header[name]) for name in ("nx", "ny", "nz", "mode", "nsymbt"))
    if min(nx, ny, nz) <= 0:
        raise BadInput(path, f"a size of {nx} x {ny} x {nz}", where=where, expected="positive sizes")
    if mode not in _MODES:
        found = f"mode {mode}" + (f" ({_REFUSED_MODES[mode]})" if mode in _REFUSED_MODES else "")
        raise BadInput(path, found, where=where, expected=f"one of the modes {sorted(_MODES)}")
    if extended < 0:
        raise BadInput(path, f"an extended header of {extended} bytes", where=where)
    axes = tuple(int(header[name]) for name in ("mapc", "mapr", "maps"))
    if axes not in ((1, 2, 3), (0, 0, 0)):
        raise BadInput(path, f"axes in the order {axes}", where=where, expected="columns x, rows y, sections z")
    if 401 <= header["ispg"] <= 630:
        raise BadInput(path, f"space group {header['ispg']}, a stack of volumes", where=where)

    dtype = np.dtype(order + ("u1" if mode == 0 and _is_unsigned(header, head, order) else _MODES[mode]))
    offset = _HEADER_BYTES + extended
    section = nx * ny * dtype.itemsize
    complete = max(size - offset, 0) // section
    sizes_agree = size == offset + nz * section
    if not is_map:
        oddities.append("the header has no MAP identifier")
    if stamp not in (b"DD", b"DA", b"\x11\x11"):
        oddities.append("the header has no valid machine stamp; read as little-endian")
    if oddities and not sizes_agree:
        claim = f"{nz} sections of {nx} x {ny}, mode {mode}"
        raise BadInput(path, f"{size} bytes with a damaged header ({claim})", expected="an MRC file")
    if complete < nz:
        found = f"{complete} complete images or sections of {nx} x {ny}, mode {mode}, in {size} bytes"
        if not (allow_truncated and complete):
            hint = "skip_bad (--skip-bad) uses the complete ones" if complete else None
            raise BadInput(path, found, where=where, expected=f"{nz} as the header claims", hint=hint)
        oddities.append("the file holds fewer images than its header claims")
    elif not sizes_agree:
        oddities.append("bytes follow the last image")
    shape = (min(nz, complete), ny, nx)
    pixel_size = _pixel_size(header)
    # Of stacks of images, which have no third axis, the header often says nothing here.
    cubic = pixel_size is not None and header["mz"] > 0 and abs(_spacing(header, "z") / pixel_size - 1) <= 0.01
    identity = (device, fingerprint[0])
    return _Header(shape, dtype, offset, pixel_size, cubic, int(header["ispg"]), fingerprint, identity, tuple(oddities))


def _is_unsigned(header: np.void, head: bytes, order: str) -> bool:
    """Whether the bytes of mode 0 are 0 to 255. MRC2014 says that they are signed; IMOD's stamp says which they are.

    Without the stamp the largest value of the header tells, where it is one that no signed byte can have.
    """
    stamp, flags = np.frombuffer(head[152:160], order + "i4").tolist()
    if stamp == _IMOD_STAMP:
        return not flags & 1
    return bool(header["dmin"] >= 0 and 127 < header["dmax"] <= 255)


def _pixel_size(header: np.void) -> float | None:
    """Cell length over sampling along x; None unless y agrees and the value is plausible."""
    if header["mx"] <= 0 or header["my"] <= 0:
        return None
    x, y = _spacing(header, "x"), _spacing(header, "y")
    return x if PIXEL_SIZES[0] <= x <= PIXEL_SIZES[1] and abs(x - y) <= 0.01 * x else None


def _spacing(header: np.void, axis: str) -> float:
    return float(header["cella"][axis]) / int(header[f"m{axis}"])
