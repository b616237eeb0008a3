"""What the fields of cryoSPARC's tables mean, in our conventions.

``alignments3D/pose`` is the rotation vector of the transpose of our rotation. ``alignments3D/shift`` is in pixels of
``alignments3D/psize_A`` and has the sign of RELION's origin, the negative of our shift.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..geometry.rotations import matrix_to_rotvec, rotvec_to_matrix
from .ctf import CTF
from .errors import BadInput
from .table import HALF_SET_CRYOSPARC, Floats, ParticleTable, in_use, one_value, warn_half_ctf

_POSE, _SHIFT, _PIXEL = "alignments3D/pose", "alignments3D/shift", "alignments3D/psize_A"
# cryoSPARC has no field for how sure a pose is, and a name of its own keeps ours from being taken for something else.
_CONFIDENCE = "cryozoo/confidence"
_SPLIT = HALF_SET_CRYOSPARC[0]
# cryoDRGN divides by the length of the rotation vector.
_SMALLEST_ROTATION = 1e-6

# Fields that change images in ways that are not modelled, and their values where they do not.
_UNMODELLED = {
    "ctf/scale": None,
    **dict.fromkeys(("ctf/tilt_A", "ctf/trefoil_A", "ctf/tetra_A", "ctf/anisomag"), 0.0),
}


def read_cryosparc(fields: NDArray[np.void], table: ParticleTable) -> ParticleTable:
    """Fill ``table`` (path and nothing else) with what the fields say.

    Raises:
        BadInput: no particles, or a value that cannot be; with its row and field.
    """
    path = table.path
    if not len(fields):
        raise BadInput(path, "0 particles")
    pixel_size = _field(fields, path, "blob/psize_A")
    if pixel_size is not None and (pixel_size <= 0).any():
        row = int(np.argmax(pixel_size <= 0))
        raise BadInput(path, f"{pixel_size[row]:g}", where=f"row {row + 1}, blob/psize_A", expected="Angstrom")
    split = _field(fields, path, _SPLIT)
    shape = _field(fields, path, "blob/shape", (2,))
    if shape is not None and (shape[:, 0] != shape[:, 1]).any():
        row = int(np.argmax(shape[:, 0] != shape[:, 1]))
        raise BadInput(path, f"{shape[row]}", where=f"row {row + 1}, blob/shape", expected="square images")
    table = replace(
        table,
        size=len(fields),
        origin=fields,
        image_size=None if shape is None else int(one_value(shape[:, 0], path, "blob/shape")),
        pixel_size=None if pixel_size is None else one_value(pixel_size, path, "blob/psize_A"),
        ctf=_ctf(fields, path),
        unmodelled=in_use({name: (fields[name], idle) for name, idle in _UNMODELLED.items() if name in _names(fields)}),
        confidence=_field(fields, path, _CONFIDENCE),
        half_set=None if split is None else split.astype(np.int64) + 1,
    )
    if "blob/path" in _names(fields) and "blob/idx" in _names(fields):
        table = replace(table, **_image_names(fields, path))
    pose = _field(fields, path, _POSE, (3,))
    if pose is not None:
        table = replace(table, rotation=rotvec_to_matrix(torch.from_numpy(pose)).mT.contiguous().numpy())
    shift = _field(fields, path, _SHIFT, (2,))
    if shift is not None:
        unit = _field(fields, path, _PIXEL)
        scale = 1.0 if unit is None else unit[:, None]
        table = replace(table, shift=-shift * scale, shift_in_pixels=unit is None)
    return table


def update_cryosparc(
    fields: NDArray[np.void],
    rotation: Floats,
    shift: Floats,
    confidence: Floats | None,
    pixel_size: float | None,
) -> NDArray[np.void]:
    """The table with other poses and all else unchanged."""
    unit: float | Floats | None = pixel_size
    for name in ("blob/psize_A", _PIXEL):  # the unit of the shifts that were there wins
        if name in _names(fields):
            unit = fields[name].astype(np.float64)
    new = _pose_fields(rotation, shift, confidence, unit)
    kinds: dict[str, tuple] = {name: (name, fields.dtype[name]) for name in _names(fields)}
    kinds |= {name: (name, values.dtype, values.shape[1:]) for name, values in new.items()}
    table = np.empty(len(fields), dtype=[*kinds.values()])
    for name in kinds:
        table[name] = new[name] if name in new else fields[name]
    return table


def new_cryosparc(table: ParticleTable) -> NDArray[np.void]:
    """A table with what is known about particles, their poses at least, shifts in Angstrom; numbered from 1."""
    assert table.rotation is not None
    assert table.shift is not None
    n = table.size
    new: dict[str, NDArray] = {"uid": np.arange(1, n + 1, dtype=np.uint64)}
    if table.file is not None and table.index is not None:
        new["blob/path"] = np.array([name.encode() for name in table.files])[table.file]
        new["blob/idx"] = table.index.astype(np.uint32)
        if table.image_size is not None:
            new["blob/shape"] = np.full((n, 2), table.image_size, dtype=np.uint32)
        if table.pixel_size is not None:
            new["blob/psize_A"] = np.full(n, table.pixel_size, dtype=np.float32)
        new["blob/sign"] = np.ones(n, dtype=np.float32)
    if (ctf := table.ctf) is not None:
        parameters = {
            "accel_kv": ctf.voltage,
            "cs_mm": ctf.spherical_aberration,
            "amp_contrast": ctf.amplitude_contrast,
            "df1_A": ctf.defocus_u,
            "df2_A": ctf.defocus_v,
            "df_angle_rad": ctf.defocus_angle.deg2rad(),
            "phase_shift_rad": ctf.phase_shift.deg2rad(),
            "bfactor": ctf.b_factor,
        }
        new |= {f"ctf/{name}": values.float().numpy() for name, values in parameters.items()}
    new |= _pose_fields(table.rotation, table.shift, table.confidence, table.pixel_size)
    if (half_set := table.checked_half_set()) is not None:
        new[_SPLIT] = (half_set - 1).astype(np.uint32)
    fields = np.empty(n, dtype=[(name, values.dtype, values.shape[1:]) for name, values in new.items()])
    for name, values in new.items():
        fields[name] = values
    return fields


def _names(fields: NDArray[np.void]) -> tuple[str, ...]:
    return fields.dtype.names or ()


def _field(fields: NDArray[np.void], path: Path, name: str, shape: tuple[int, ...] = ()) -> Floats | None:
    """A field of finite numbers as float64, or None where there is none of that name."""
    if name not in _names(fields):
        return None
    values = fields[name]
    if values.dtype.kind not in "fiu" or values.shape[1:] != shape:
        found = f"{values.dtype} of shape {values.shape}"
        raise BadInput(path, found, where=name, expected=f"numbers of shape {(len(fields), *shape)}")
    finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise BadInput(path, f"{values[row]}", where=f"row {row + 1}, {name}", expected="finite numbers")
    return values.astype(np.float64)


def _pose_fields(
    rotation: Floats, shift: Floats, confidence: Floats | None, unit: float | Floats | None
) -> dict[str, NDArray]:
    """Fields of poses; ``unit`` is the pixel size, one or one per row."""
    pose = matrix_to_rotvec(torch.from_numpy(rotation).mT).numpy()
    tiny = np.linalg.norm(pose, axis=1) < _SMALLEST_ROTATION
    pose[tiny] = (_SMALLEST_ROTATION, 0, 0)
    size = np.broadcast_to(np.asarray(1.0 if unit is None else unit), len(rotation))
    new = {_POSE: pose.astype(np.float32), _SHIFT: (-shift / size[:, None] + 0.0).astype(np.float32)}
    if unit is not None:
        new[_PIXEL] = size.astype(np.float32)
    if confidence is not None:
        new[_CONFIDENCE] = confidence.astype(np.float32)
    return new


def _ctf(fields: NDArray[np.void], path: Path) -> CTF | None:
    sources = ("df1_A", "df2_A", "df_angle_rad", "accel_kv", "cs_mm", "amp_contrast", "phase_shift_rad", "bfactor")
    u, v, angle, voltage, aberration, contrast, phase, b_factor = (
        _field(fields, path, f"ctf/{name}") for name in sources
    )
    defocus = {name: name in _names(fields) for name in ("ctf/df1_A", "ctf/df2_A", "ctf/df_angle_rad")}
    if any(defocus.values()) and not all(defocus.values()):
        missing, given = (" and ".join(name for name in defocus if defocus[name] is there) for there in (False, True))
        raise BadInput(path, f"{given} and no {missing}", expected="all three fields of the defocus, or none")
    if u is None or v is None or angle is None or voltage is None or aberration is None or contrast is None:
        constants = {"ctf/accel_kv": voltage, "ctf/cs_mm": aberration, "ctf/amp_contrast": contrast}
        warn_half_ctf(path, "ctf/df1_A" if u is not None else None, constants)
        return None
    if (wrong := np.flatnonzero((voltage <= 10) | (voltage >= 3000))).size:
        where = f"row {wrong[0] + 1}, ctf/accel_kv"
        raise BadInput(path, f"{voltage[wrong[0]]:g}", where=where, expected="a value between 10 and 3000 kV")
    phase, b_factor = (np.zeros_like(u) if values is None else values for values in (phase, b_factor))
    columns = (u, v, np.rad2deg(angle), voltage, aberration, contrast, np.rad2deg(phase), b_factor)
    return CTF(*map(torch.from_numpy, columns))


def _image_names(fields: NDArray[np.void], path: Path) -> dict[str, Any]:
    if fields["blob/path"].dtype.kind not in "SU" or fields["blob/idx"].dtype.kind not in "iu":
        raise BadInput(path, "not text and integers", where="blob/path, blob/idx")
    unique, first, rank = np.unique(fields["blob/path"], return_index=True, return_inverse=True)
    order = np.argsort(first)  # as they come in the table
    file = np.argsort(order)[rank.reshape(-1)]
    files = []
    for name, row in zip(unique[order].tolist(), first[order].tolist(), strict=True):
        try:
            text = name.decode() if isinstance(name, bytes) else name
        except UnicodeDecodeError:
            where = f"row {row + 1}, blob/path"
            raise BadInput(path, f"{name[:80]!r}", where=where, expected="text in UTF-8") from None
        # A leading ">" marks a path inside of the project.
        files.append(text.removeprefix(">"))
        if not files[-1]:
            raise BadInput(path, "an empty name", where=f"row {row + 1}, blob/path", expected="an image file")
    index = fields["blob/idx"].astype(np.int64)
    if (index < 0).any():
        raise BadInput(path, "a negative number", where=f"row {np.argmax(index < 0) + 1}, blob/idx")
    return {"files": tuple(files), "file": file, "index": index}
