"""Pose pickles as cryoDRGN writes and reads them: ``(rotations, translations)``, or rotations alone.

A pickle is a program. Here it is looked at before it runs, and it runs with nothing in its hands but the few names that
an array of numbers needs, each replaced by a stand-in of ours which sets memory aside only for data that are there.
"""

from __future__ import annotations

import os
import pickle
import pickletools
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import BadInput
from .files import atomic_write, looks_like, open_regular

_MAX_BYTES = 1 << 30  # ten million poses
_MAX_STEPS = 1000  # a pair of arrays takes about 60
_TYPE = re.compile(r"[biuf][1248]")
# Numbers, text, bytes, tuples, lists and calls. Nothing with a hash (dictionaries, sets): hashing nested tuples can be
# made to take for ever. Nothing that refers to things outside of the file, and no memo entries with large numbers, for
# which memory is set aside.
_STEPS = {
    *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS"),
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
    *("BINPUT", "MEMOIZE", "BINGET"),
}


def read_arrays(path: str | Path) -> tuple[Any, ...]:
    """Read a pickle that holds a numpy array or a tuple of them, and run no code of its own.

    Returns:
        The members of the tuple; a single array is a tuple of one. Members that are no arrays of numbers come out as
        what they are (lists, numbers, text).

    Raises:
        BadInput: not a pickle, damaged, too large, or it asks for anything but arrays of numbers.
    """
    with open_regular(path) as handle:
        size = os.fstat(handle.fileno()).st_size
        if size > _MAX_BYTES:
            raise BadInput(path, f"{size} bytes", expected=f"at most {_MAX_BYTES} bytes of poses")
        data = handle.read()
    if not data.startswith(b"\x80"):
        raise BadInput(path, f"is {looks_like(data) or 'something else'}", expected="a pickle of protocol 2 to 5")
    try:
        for steps, (step, _, _) in enumerate(pickletools.genops(data)):
            if step.name not in _STEPS:
                raise _Refused(f"the pickle instruction {step.name}")
            if steps == _MAX_STEPS:
                raise _Refused(f"more than {_MAX_STEPS} pickle instructions")
        loaded = _Unpickler(BytesIO(data)).load()
        members = loaded if isinstance(loaded, tuple) else (loaded,)
        return tuple(m.array if isinstance(m, _Array) else m for m in members)
    except _Refused as error:
        raise BadInput(path, str(error), expected="arrays of numbers and nothing else") from None
    except Exception as error:  # a hostile pickle can raise anything
        raise BadInput(path, f"a damaged pickle ({str(error)[:80]})") from None


def read_poses(path: str | Path) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Read poses.

    Returns:
        rotations (N, 3, 3) in our convention, and translations (N, 2) in fractions of the box or None.

    Raises:
        BadInput: as ``read_arrays``; or the arrays are not poses.
    """
    members = read_arrays(path)
    if len(members) > 2 or not all(isinstance(m, np.ndarray) for m in members):
        found = ", ".join(str(m.shape) if isinstance(m, np.ndarray) else type(m).__name__ for m in members)
        raise BadInput(path, f"({found})", expected="an array of rotations and one of translations")
    rotations = members[0]
    if rotations.ndim != 3 or rotations.shape[1:] != (3, 3) or rotations.dtype.kind != "f":
        found = f"{rotations.dtype} of shape {rotations.shape}"
        raise BadInput(path, found, where="rotations", expected="matrices (N, 3, 3) of floats")
    if len(members) == 1:
        return rotations.astype(np.float64), None
    translations = members[1]
    if translations.shape != (len(rotations), 2) or translations.dtype.kind != "f":
        found = f"{translations.dtype} of shape {translations.shape}"
        raise BadInput(path, found, where="translations", expected=f"({len(rotations)}, 2) floats")
    if len(wrong := _beyond_the_box(translations)):
        found = f"{len(wrong)} rows like {translations[wrong[0]].tolist()}"
        where = f"translations, row {wrong[0] + 1}"
        raise BadInput(path, found, where=where, expected="fractions of the box, -1 to 1, not pixels")
    return rotations.astype(np.float64), translations.astype(np.float64)


def write_poses(
    path: str | Path,
    rotations: NDArray[np.float64],
    translations: NDArray[np.float64],
    *,
    overwrite: bool = False,
) -> None:
    """Write rotations (N, 3, 3) and translations (N, 2) in fractions of the box as cryoDRGN does.

    Raises:
        BadInput: a translation of more than the box; or the file cannot be written.
    """
    if len(wrong := _beyond_the_box(translations)):
        found = f"a shift of {', '.join(f'{x:.3g}' for x in translations[wrong[0]])} boxes"
        hint = "leave the particle out, or give the right box (image_size, pixel_size)"
        raise BadInput(path, found, where=f"particle {wrong[0] + 1}", expected="-1 to 1 to be written", hint=hint)
    with atomic_write(path, overwrite=overwrite) as handle:
        pickle.dump((rotations, translations), handle, protocol=4)


def _beyond_the_box(translations: NDArray) -> NDArray[np.int64]:
    """Rows that move a particle by more than the box, or by NaN."""
    return np.flatnonzero(~(np.abs(translations) <= 1).all(axis=1))


class _Refused(Exception):
    pass


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if module == "numpy" and name in ("ndarray", "dtype"):
            return {"ndarray": _Array, "dtype": _Dtype}[name]
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _reconstruct
        if module in ("numpy.core.numeric", "numpy._core.numeric") and name == "_frombuffer":
            return _frombuffer
        if (module, name) == ("_codecs", "encode"):
            return _encode
        raise _Refused(f"{module}.{name}")


class _Dtype:
    """Stands in for ``numpy.dtype``: a kind of number, whose byte order comes later."""

    def __init__(self, code: object, *_: object) -> None:
        if not (isinstance(code, str) and _TYPE.fullmatch(code)):
            raise _Refused(f"an array of type {str(code)[:20]}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        if state[1] not in "<>|=" or any(field is not None for field in state[2:5]):
            raise _Refused("an array of records")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands in for ``numpy.ndarray``: takes shape, type and bytes, and holds them against each other."""

    array: NDArray

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.fill(data, dtype, shape, "F" if fortran else "C")

    def fill(self, data: Any, dtype: Any, shape: Any, order: Any) -> None:
        if not (isinstance(dtype, _Dtype) and isinstance(data, bytes | bytearray)):
            raise _Refused("an array of objects")
        self.array = np.ndarray(shape, dtype.dtype, buffer=data, order=order)  # never takes memory of its own
        if self.array.nbytes != len(data):
            raise _Refused(f"{len(data)} bytes for an array of shape {shape}")


def _reconstruct(kind: object, shape: object, code: object) -> _Array:
    if kind is not _Array:
        raise _Refused("a subclass of an array")
    return _Array()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any, axis_order: Any = None) -> _Array:
    array = _Array()
    array.fill(data, dtype, shape, "C" if order == "K" else order)
    if order == "K":  # the axes lie in memory in an order of their own
        array.array = array.array.transpose(axis_order)
    return array


def _encode(text: object, encoding: object) -> bytes:
    if not (isinstance(text, str) and encoding == "latin1"):
        raise _Refused("text in an encoding of its own")
    return text.encode("latin-1")
