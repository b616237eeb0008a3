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
from .mrc import PIXEL_SIZES
from .table import (
    HALF_SET_CRYOSPARC,
    Floats,
    ParticleTable,
    assigned,
    checked_ctf,
    in_use,
    one_value,
    warn_dropped,
    warn_half_ctf,
)

_POSE, _SHIFT, _PIXEL = "alignments3D/pose", "alignments3D/shift", "alignments3D/psize_A"
# cryoSPARC has no field for how sure a pose is, and a name of its own keeps ours from being taken for something else.
_CONFIDENCE = "cryozoo/confidence"
_SPLIT = HALF_SET_CRYOSPARC[0]
# cryoDRGN divides by the length of the rotation vector.
_SMALLEST_ROTATION = 1e-6

# Fields that change images in ways that are not modelled, and their values where they do not.
_UNMODELLED = {
    "ctf/scale": None,
    **dict.fromkeys(("ctf/shift_A", "ctf/tilt_A", "ctf/trefoil_A", "ctf/tetra_A", "ctf/anisomag"), 0.0),
}
# cryoSPARC has no fields for images that were corrected for their CTF; ours keep what a STAR file said.
_CORRECTED = {name: f"cryozoo/{name}" for name in ("phase_flipped", "premultiplied")}
_CTF = {
    **{"defocus_u": "ctf/df1_A", "defocus_v": "ctf/df2_A", "defocus_angle": "ctf/df_angle_rad"},
    **{"voltage": "ctf/accel_kv", "spherical_aberration": "ctf/cs_mm", "amplitude_contrast": "ctf/amp_contrast"},
    **{"phase_shift": "ctf/phase_shift_rad", "b_factor": "ctf/bfactor"},
}
# What a refinement says about the poses that it found.
_OF_OLD_POSES = tuple(
    f"alignments3D/{name}"
    for name in (
        *("error", "error_min", "resid_pow", "slice_pow", "image_pow", "cross_cor", "alpha", "alpha_min", "weight"),
        *("pose_ess", "shift_ess", "class_posterior", "class_ess"),
    )
)


def read_cryosparc(fields: NDArray[np.void], table: ParticleTable) -> ParticleTable:
    """Fill ``table`` (path and nothing else) with what the fields say.

    Raises:
        BadInput: no particles, or a value that cannot be; with its row and field.
    """
    path = table.path
    if not len(fields):
        raise BadInput(path, "0 particles")
    pixel_size = _pixel_size(fields, path, "blob/psize_A")
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
        ctf=_ctf(fields, table),
        unmodelled=in_use({name: (fields[name], idle) for name, idle in _UNMODELLED.items() if name in _names(fields)}),
        corrected=tuple(name for name, field in _CORRECTED.items() if np.any(_field(fields, path, field))),
        group=None if (group := _field(fields, path, "ctf/exp_group_id")) is None else group.astype(np.int64),
        sign=_sign(fields, path),
        confidence=_field(fields, path, _CONFIDENCE),
        half_set=None if split is None else assigned(split.astype(np.int64) + 1),
    )
    if "blob/path" in _names(fields) and "blob/idx" in _names(fields):
        table = replace(table, **_image_names(fields, path))
    pose = _field(fields, path, _POSE, (3,))
    if pose is not None:
        table = replace(table, rotation=rotvec_to_matrix(torch.from_numpy(pose)).mT.contiguous().numpy())
    shift = _field(fields, path, _SHIFT, (2,))
    if shift is not None:
        unit = _shift_unit(fields, path, pixel_size)
        scale = 1.0 if unit is None else unit[:, None]
        table = replace(table, shift=-shift * scale, shift_in_pixels=unit is None)
    return table


def update_cryosparc(
    fields: NDArray[np.void],
    path: str | Path,
    rotation: Floats,
    shift: Floats,
    confidence: Floats | None,
    pixel_size: float | None,
    *,
    replaced: bool = True,
) -> NDArray[np.void]:
    """The table with poses; what belongs to those that they replaced goes, all else is unchanged."""
    unit: float | Floats | None = pixel_size
    for name in ("blob/psize_A", _PIXEL):  # the unit of the shifts that were there wins
        if name in _names(fields) and fields[name].all():
            unit = fields[name].astype(np.float64)
    new = _held(_pose_fields(rotation, shift, confidence, unit), path)
    old = [name for name in (*_OF_OLD_POSES, _CONFIDENCE) if replaced and name in _names(fields) and name not in new]
    warn_dropped(path, old)
    kinds: dict[str, tuple] = {name: (name, fields.dtype[name]) for name in _names(fields) if name not in old}
    kinds |= {name: (name, values.dtype, values.shape[1:]) for name, values in new.items()}
    table = np.empty(len(fields), dtype=[*kinds.values()])
    for name in kinds:
        table[name] = new[name] if name in new else fields[name]
    return table


def new_cryosparc(table: ParticleTable, path: str | Path) -> NDArray[np.void]:
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
        new["blob/sign"] = (np.ones(n) if table.sign is None else table.sign).astype(np.float32)
    if table.group is not None:
        new["ctf/exp_group_id"] = table.group.astype(np.uint32)
    new |= {_CORRECTED[name]: np.ones(n, dtype=np.uint8) for name in table.corrected}
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
    _held(new, path)
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


def _held(new: dict[str, NDArray], path: str | Path) -> dict[str, NDArray]:
    """The fields themselves; BadInput for a number that is too large for the 32 bits that they have."""
    for name, values in new.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise BadInput(path, "a number that is not finite in 32 bits", where=name)
    return new


def _pixel_size(fields: NDArray[np.void], path: Path, name: str) -> Floats | None:
    """Angstrom, (N,)."""
    values = _field(fields, path, name)
    low, high = PIXEL_SIZES
    if values is not None and (wrong := np.flatnonzero((values < low) | (values > high))).size:
        where, expected = f"row {wrong[0] + 1}, {name}", f"{low:g} to {high:g} Angstrom"
        raise BadInput(path, f"{values[wrong[0]]:g}", where=where, expected=expected)
    return values


def _shift_unit(fields: NDArray[np.void], path: Path, pixel_size: Floats | None) -> Floats | None:
    """Pixel size of the shifts; that of the images where none was ever assigned."""
    if _PIXEL in _names(fields) and not _field(fields, path, _PIXEL).any():  # type: ignore[union-attr]
        return pixel_size
    return _pixel_size(fields, path, _PIXEL)


def _sign(fields: NDArray[np.void], path: Path) -> Floats | None:
    """1 or -1 of every image; None where none was ever assigned."""
    sign = _field(fields, path, "blob/sign")
    if sign is None or not sign.any():
        return None
    if (wrong := np.flatnonzero(np.abs(sign) != 1)).size:
        raise BadInput(path, f"{sign[wrong[0]]:g}", where=f"row {wrong[0] + 1}, blob/sign", expected="1 or -1")
    return sign


def _ctf(fields: NDArray[np.void], table: ParticleTable) -> CTF | None:
    path = table.path
    u, v, angle, voltage, aberration, contrast, phase, b_factor = (
        _field(fields, path, field) for field in _CTF.values()
    )
    defocus = {name: name in _names(fields) for name in ("ctf/df1_A", "ctf/df2_A", "ctf/df_angle_rad")}
    if any(defocus.values()) and not all(defocus.values()):
        missing, given = (" and ".join(name for name in defocus if defocus[name] is there) for there in (False, True))
        raise BadInput(path, f"{given} and no {missing}", expected="all three fields of the defocus, or none")
    if u is None or v is None or angle is None or voltage is None or aberration is None or contrast is None:
        constants = {"ctf/accel_kv": voltage, "ctf/cs_mm": aberration, "ctf/amp_contrast": contrast}
        warn_half_ctf(path, "ctf/df1_A" if u is not None else None, constants)
        return None
    phase, b_factor = (np.zeros_like(u) if values is None else values for values in (phase, b_factor))
    columns = (u, v, np.rad2deg(angle), voltage, aberration, contrast, np.rad2deg(phase), b_factor)
    return checked_ctf(CTF(*map(torch.from_numpy, columns)), table, _CTF)


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
