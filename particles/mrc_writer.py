"""Writing MRC files, stacks of particle images and density maps; every value is finite, or nothing is written."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .files import atomic_write


class StackWriter:
    """Writes a stack of images as they come, in MRC mode 2 (float32), or 12 for float16.

    A context manager: the file appears under its name, complete, when the block ends, and not at all when it raises.

    Args:
        path: the .mrcs file.
        count: how many images will come.
        image_size: pixels along an edge.
        pixel_size: Angstrom.
        dtype: float32 or float16.
        overwrite: replace a file that is there already.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        count: int,
        image_size: int,
        pixel_size: float,
        dtype: DTypeLike = np.float32,
        overwrite: bool = False,
    ) -> None:
        self._path = path
        self._shape = (count, image_size, image_size)
        self._pixel_size = pixel_size
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._overwrite = overwrite
        self._written = 0
        self._statistics = _Statistics()

    def __enter__(self) -> StackWriter:
        self._stack = ExitStack()
        self._handle = self._stack.enter_context(atomic_write(self._path, overwrite=self._overwrite))
        self._handle.write(_header_bytes(self._shape, self._dtype, self._pixel_size, 0, self._statistics))
        return self

    def write(self, images: ArrayLike) -> None:
        """Append images (n, L, L)."""
        block = np.ascontiguousarray(images, dtype=self._dtype)
        if block.shape[1:] != self._shape[1:] or self._written + len(block) > self._shape[0]:
            raise ValueError(f"{self._written} images and {block.shape} more for a stack of shape {self._shape}")
        self._statistics.add(block)
        self._handle.write(block.data)
        self._written += len(block)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            if self._written != self._shape[0]:
                raise ValueError(f"{self._written} images for a stack of {self._shape[0]}")
            self._handle.seek(0)
            self._handle.write(_header_bytes(self._shape, self._dtype, self._pixel_size, 0, self._statistics))


def write_stack(path: str | Path, images: ArrayLike, pixel_size: float, *, overwrite: bool = False) -> None:
    """Write images (N, L, L) with ``pixel_size`` in Angstrom; float16 stays float16, all else becomes float32."""
    block = _writable(images)
    if block.shape[1] != block.shape[2]:
        raise ValueError(f"images of shape {block.shape}, expected (N, L, L)")
    n, size, _ = block.shape
    with StackWriter(
        path, count=n, image_size=size, pixel_size=pixel_size, dtype=block.dtype, overwrite=overwrite
    ) as writer:
        writer.write(block)


def write_volume(path: str | Path, volume: ArrayLike, pixel_size: float, *, overwrite: bool = False) -> None:
    """Write a map (Z, Y, X) with ``pixel_size`` in Angstrom; float16 stays float16, all else becomes float32."""
    data = volume_bytes(volume, pixel_size)
    with atomic_write(path, overwrite=overwrite) as handle:
        handle.write(data)


def volume_bytes(volume: ArrayLike, pixel_size: float) -> bytes:
    """What :func:`write_volume` writes."""
    block = _writable(volume)
    statistics = _Statistics()
    statistics.add(block)
    return _header_bytes(block.shape, block.dtype, pixel_size, 1, statistics) + block.tobytes()


def _writable(array: ArrayLike) -> NDArray[np.floating]:
    block = np.asarray(array)
    if block.ndim != 3 or not block.size:
        raise ValueError(f"an array of shape {block.shape}, expected three dimensions and something in it")
    return np.ascontiguousarray(block, dtype="<f2" if block.dtype == np.float16 else "<f4")


class _Statistics:
    """Minimum, maximum, mean and deviation of blocks seen one after the other, as the header wants them."""

    def __init__(self) -> None:
        self._count = 0
        self._low, self._high = np.inf, -np.inf
        self._sum = self._squares = 0.0

    def add(self, block: NDArray[np.floating]) -> None:
        """Count a block; ValueError where it is not finite, as nothing that is not is ever written."""
        if block.size:
            if not np.isfinite(block).all():
                raise ValueError(f"{np.count_nonzero(~np.isfinite(block))} values are NaN or infinite in {block.dtype}")
            values = block.astype(np.float64)
            self._count += values.size
            self._low, self._high = min(self._low, values.min()), max(self._high, values.max())
            self._sum += float(values.sum())
            self._squares += float(np.square(values).sum())

    def fields(self) -> dict[str, float]:
        # The standard's way to say "not known" is max < min, mean below both, negative deviation.
        if not self._count:
            return {"dmin": 0, "dmax": -1, "dmean": -2, "rms": -1}
        mean = self._sum / self._count
        deviation = np.sqrt(max(self._squares / self._count - mean**2, 0.0))
        return {"dmin": self._low, "dmax": self._high, "dmean": mean, "rms": deviation}


def _header_bytes(
    shape: tuple[int, ...], dtype: np.dtype, pixel_size: float, space_group: int, statistics: _Statistics
) -> bytes:
    if not (np.isfinite(pixel_size) and pixel_size > 0):
        raise ValueError(f"a pixel size of {pixel_size}, expected Angstrom")
    nz, ny, nx = shape
    depth = nz if space_group else 1  # in a stack of images every image is a cell of its own
    header = np.zeros((), dtype=HEADER_DTYPE.newbyteorder("<"))
    fields = {"nx": nx, "ny": ny, "nz": nz, "mx": nx, "my": ny, "mz": depth, "ispg": space_group}
    fields |= {"mode": {"f4": 2, "f2": 12}[dtype.str[1:]], "mapc": 1, "mapr": 2, "maps": 3, "nversion": 20140}
    for name, value in (fields | statistics.fields()).items():
        header[name] = value
    header["cella"] = tuple(n * pixel_size for n in (nx, ny, depth))
    header["cellb"] = (90, 90, 90)
    header["map"] = b"MAP "
    header["machst"] = (0x44, 0x44, 0, 0)
    header["nlabl"] = 1
    header["label"][0] = b"cryozoo"
    return header.tobytes()
