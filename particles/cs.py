"""cryoSPARC's .cs tables: a numpy array with named fields in a .npy file, strings as bytes.

What the fields mean is known by ``cryosparc.py``. Newer programs can also write a format of their own (CSDAT); it is
refused by name.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import BadInput
from .files import atomic_write, looks_like, open_regular
from .npy import MAGIC, read_npy


def read_cs(path: str | Path) -> NDArray[np.void]:
    """Read a .cs table.

    Returns:
        (N,) array with one named field per column.

    Raises:
        BadInput: another format, a header that disagrees with the size of the file, or objects (pickles) inside.
    """
    with open_regular(path) as handle:
        head = handle.read(512)
        handle.seek(0)
        if head.startswith(b"\x95CSDAT"):
            hint = "with cryosparc-tools: Dataset.load(path).save(new_path) writes the numpy format"
            raise BadInput(path, "is in cryoSPARC's CSDAT format", expected="the numpy format", hint=hint)
        if not head.startswith(MAGIC):
            raise BadInput(path, f"is {looks_like(head) or 'something else'}", expected="a cryoSPARC .cs table")
        table = read_npy(handle, os.fstat(handle.fileno()).st_size, path)
    if table.dtype.names is None or table.ndim != 1:
        raise BadInput(path, f"a plain array of shape {table.shape}", expected="a table with named fields")
    return table


def write_cs(path: str | Path, table: NDArray[np.void], *, overwrite: bool = False) -> None:
    """Write a .cs table (N,) with named fields."""
    with atomic_write(path, overwrite=overwrite) as handle:
        np.lib.format.write_array(handle, table, version=(1, 0), allow_pickle=False)
