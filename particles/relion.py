"""What RELION's columns mean, in our conventions: read from and written to STAR files of RELION 3.0, 3.1 and 5.

Angles are the Euler angles of our rotation. ``rlnOriginXAngst`` says how to move the content back, so it is the
negative of our shift; RELION 3.0 has ``rlnOriginX`` in pixels instead. What depends on the microscope is in
``data_optics`` since 3.1 and beside the particles before.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..geometry.rotations import euler_to_matrix, matrix_to_euler
from .ctf import CTF
from .errors import BadInput
from .mrc import PIXEL_SIZES
from .star import StarBlock, StarFile
from .star_text import Column
from .table import (
    HALF_SET_RELION,
    Floats,
    ParticleTable,
    assigned,
    checked_ctf,
    in_use,
    one_value,
    warn_dropped,
    warn_half_ctf,
)

_EULER = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_ORIGIN_ANGSTROM = ("rlnOriginXAngst", "rlnOriginYAngst")
_ORIGIN_PIXELS = ("rlnOriginX", "rlnOriginY")
_CONFIDENCE = "rlnParticleFigureOfMerit"
_HALF_SET = HALF_SET_RELION[0]
# Columns that change images in ways that are not modelled, and their values where they do not.
_UNMODELLED = {
    **{"rlnCtfScalefactor": None, "rlnBeamTiltX": 0.0, "rlnBeamTiltY": 0.0},
    **{"rlnMagMat00": 1.0, "rlnMagMat01": 0.0, "rlnMagMat10": 0.0, "rlnMagMat11": 1.0},
}
_UNMODELLED_VECTORS = ("rlnOddZernike", "rlnEvenZernike")  # written [0,0,1.5], zeros where they do not
_CORRECTED = {"phase_flipped": "rlnCtfDataArePhaseFlipped", "premultiplied": "rlnCtfDataAreCtfPremultiplied"}
_CTF = {
    **{"defocus_u": "rlnDefocusU", "defocus_v": "rlnDefocusV", "defocus_angle": "rlnDefocusAngle"},
    **{"voltage": "rlnVoltage", "spherical_aberration": "rlnSphericalAberration"},
    **{"amplitude_contrast": "rlnAmplitudeContrast", "phase_shift": "rlnPhaseShift", "b_factor": "rlnCtfBfactor"},
}
# Where a table of subtomograms keeps the part of a pose that angles in the plane and shifts in it leave out, and the
# value that changes nothing. Subtomogram averaging combines both parts; a projection has the second alone.
_SUBTOMOGRAM = {
    **dict.fromkeys(("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi"), 0.0),
    **{"rlnOriginZAngst": 0.0, "rlnOriginZ": 0.0, "rlnImageDimensionality": 2.0},
}
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_NUMBERS = (
    *(*_EULER, *_ORIGIN_ANGSTROM, *_ORIGIN_PIXELS, _CONFIDENCE, _HALF_SET),
    *_CTF.values(),
    *("rlnImagePixelSize", "rlnImageSize", "rlnDetectorPixelSize", "rlnMagnification"),
    *_CORRECTED.values(),
    *_SUBTOMOGRAM,
    *_UNMODELLED,
)
# What a refinement says about the poses that it found, and what one says where to look for them: RELION's local search
# would start from the latter, whatever the angles are.
_OF_OLD_POSES = (
    *("rlnAngleRotPrior", "rlnAngleTiltPrior", "rlnAnglePsiPrior", "rlnAnglePsiFlipRatio", "rlnAngleRotFlipRatio"),
    *("rlnAnglePsiFlip", "rlnOriginXPrior", "rlnOriginYPrior", "rlnOriginXPriorAngst", "rlnOriginYPriorAngst"),
    *("rlnOriginZPrior", "rlnOriginZPriorAngst"),
    *("rlnLogLikeliContribution", "rlnMaxValueProbDistribution", "rlnNrOfSignificantSamples"),
)

# RELION opens no data_optics without voltage, spherical aberration and amplitude contrast. Without a defocus beside the
# particles nobody, ``read_relion`` included, makes a CTF of them.
_UNKNOWN_MICROSCOPE = (300.0, 2.7, 0.1)


def read_relion(star: StarFile, table: ParticleTable) -> ParticleTable:
    """Fill ``table`` (path and nothing else) with what the file says.

    Raises:
        BadInput: no particles, or a value that cannot be; with its row and column.
    """
    name = _particle_block(star)
    if not star[name].is_loop:  # a table of one particle can come as labels and values
        star = star.with_columns(name, {})
    columns = _Columns(star, name)
    n = len(star[name])
    table = replace(table, size=n, origin=star, block=name)
    if subtomograms := in_use({label: (columns.get(label), flat) for label, flat in _SUBTOMOGRAM.items()}):
        expected, hint = "particles in 2D", "reconstruct subtomograms with the program that wrote the table"
        raise BadInput(star.source, f"subtomograms: {', '.join(subtomograms)}", expected=expected, hint=hint)
    image_size = columns.get("rlnImageSize")
    table = replace(
        table,
        image_size=None if image_size is None else int(one_value(image_size, star.source, "rlnImageSize")),
        pixel_size=columns.pixel_size(),
        ctf=columns.ctf(table),
        unmodelled=columns.unmodelled(),
        corrected=tuple(name for name, label in _CORRECTED.items() if np.any(columns.get(label))),
        group=columns.optics_group(),
        confidence=columns.get(_CONFIDENCE),
        half_set=assigned(columns.half_set()),
    )
    if "rlnImageName" in star[name]:
        table = replace(table, **_image_names(star[name], star.source))
    euler = [columns.get(label) for label in _EULER]
    if all(angle is not None for angle in euler):
        angles = torch.from_numpy(np.deg2rad(np.stack(euler, axis=1)))  # type: ignore[arg-type]
        table = replace(table, rotation=euler_to_matrix(angles).numpy())
    return replace(table, **columns.shift())


def missing_angles(table: ParticleTable) -> str:
    """The angle columns that a STAR file does not have, for messages."""
    assert isinstance(table.origin, StarFile)
    return ", ".join(label for label in _EULER if label not in table.origin[table.block])


def lacks_optics(table: ParticleTable) -> bool:
    """Whether particles are in optics groups and nothing says what these are; RELION 3.0 has no groups."""
    if not isinstance(table.origin, StarFile) or table.pixel_size is not None:
        return False
    return "optics" not in table.origin and "rlnOpticsGroup" in table.origin[table.block]


def pose_columns(
    rotation: Floats, shift: Floats, confidence: Floats | None, *, angstrom: bool, pixels: float | None
) -> dict[str, Column]:
    """Columns of poses; origins in Angstrom, or in pixels of the size ``pixels``, or both."""
    euler = np.rad2deg(matrix_to_euler(torch.from_numpy(rotation)).numpy())
    columns: dict[str, Column] = {label: euler[:, k] for k, label in enumerate(_EULER)}
    origin = -shift + 0.0  # no negative zeros in the file
    if angstrom:
        columns |= {label: origin[:, k] for k, label in enumerate(_ORIGIN_ANGSTROM)}
    if pixels is not None:
        columns |= {label: origin[:, k] / pixels for k, label in enumerate(_ORIGIN_PIXELS)}
    if confidence is not None:
        columns[_CONFIDENCE] = confidence
    return columns


def update_star(
    star: StarFile,
    name: str,
    rotation: Floats,
    shift: Floats,
    confidence: Floats | None,
    pixel_size: float | None,
    *,
    replaced: bool = True,
) -> StarFile:
    """The file with poses, in its dialect; what belongs to those that they replaced goes, all else is unchanged."""
    angstrom = "optics" in star or _ORIGIN_ANGSTROM[0] in star[name]
    pixels = None
    if not angstrom or _ORIGIN_PIXELS[0] in star[name]:
        if pixel_size is None and shift.any():
            raise BadInput(star.source, "no pixel size", expected="one, for shifts in pixels", hint="give pixel_size")
        pixels = pixel_size or 1.0
    columns = pose_columns(rotation, shift, confidence, angstrom=angstrom, pixels=pixels)
    old = [v for v in (*_OF_OLD_POSES, _CONFIDENCE) if replaced and v in star[name] and v not in columns]
    warn_dropped(star.source, old)
    return star.with_block(star[name].with_columns(columns, without=old))


def new_star(table: ParticleTable, *, microscope: tuple[float, float, float] | None = None) -> StarFile:
    """A file of RELION 3.1 with what is known about particles, their poses at least.

    Args:
        table: with rotations, and shifts in Angstrom.
        microscope: kV, mm and amplitude contrast of images without a CTF; None where they are not known.
    """
    assert table.rotation is not None
    assert table.shift is not None
    ctf, comment = table.ctf, ""
    if ctf is not None:
        settings = torch.stack([ctf.voltage, ctf.spherical_aberration, ctf.amplitude_contrast], 1).numpy()
    else:
        settings = np.tile(microscope or _UNKNOWN_MICROSCOPE, (table.size, 1))
        if microscope is None:
            comment = "the microscope is not known: RELION wants numbers here, and they mean nothing"
    # An optics group is that of the table, as long as its settings are the same.
    settings = np.column_stack([np.zeros(table.size) if table.group is None else table.group, np.round(settings, 6)])
    groups, group = np.unique(settings, axis=0, return_inverse=True)
    particles: dict[str, Column] = {}
    if table.file is not None and table.index is not None:
        pairs = zip(table.index.tolist(), table.file.tolist(), strict=True)
        particles["rlnImageName"] = [f"{index + 1:06d}@{table.files[file]}" for index, file in pairs]
    if table.pixel_size is not None:
        particles["rlnOpticsGroup"] = group.reshape(-1) + 1
    particles |= pose_columns(table.rotation, table.shift, table.confidence, angstrom=True, pixels=None)
    if ctf is not None:
        particles |= {
            "rlnDefocusU": ctf.defocus_u.numpy(),
            "rlnDefocusV": ctf.defocus_v.numpy(),
            "rlnDefocusAngle": ctf.defocus_angle.numpy(),
            "rlnPhaseShift": ctf.phase_shift.numpy(),
            "rlnCtfBfactor": ctf.b_factor.numpy(),
        }
    if (half_set := table.checked_half_set()) is not None:
        particles[_HALF_SET] = half_set
    if table.pixel_size is None:
        return StarFile([StarBlock.from_columns("particles", particles)])
    count = len(groups)
    optics: dict[str, Column] = {
        "rlnOpticsGroupName": [f"opticsGroup{k}" for k in range(1, count + 1)],
        "rlnOpticsGroup": np.arange(1, count + 1),
        "rlnVoltage": groups[:, 1],
        "rlnSphericalAberration": groups[:, 2],
        "rlnAmplitudeContrast": groups[:, 3],
        "rlnImagePixelSize": np.full(count, table.pixel_size),
    }
    if table.image_size is not None:
        optics["rlnImageSize"] = np.full(count, table.image_size)
    optics["rlnImageDimensionality"] = np.full(count, 2)
    optics |= {_CORRECTED[name]: np.ones(count, dtype=np.int64) for name in table.corrected}
    blocks = [StarBlock.from_columns("optics", optics, comment=comment), StarBlock.from_columns("particles", particles)]
    return StarFile(blocks)


def _particle_block(star: StarFile) -> str:
    tables = [name for name in star.blocks if name != "optics"]
    named = [name for name in tables if "rlnImageName" in star[name] or _EULER[0] in star[name]]
    if "particles" in tables:
        named = ["particles"]
    if len(named) != 1:
        found = f"{len(named)} blocks with particles among {[f'data_{name}' for name in star.blocks]}"
        raise BadInput(star.source, found, expected="one, data_particles")
    if not len(star[named[0]]):
        raise BadInput(star.source, "0 particles", where=f"data_{named[0]}")
    return named[0]


class _Columns:
    """Values per particle, from ``data_optics`` where it has them and from beside the particles where not."""

    def __init__(self, star: StarFile, name: str) -> None:
        self._source = star.source
        self._block = star[name]
        self._optics = star.blocks.get("optics")
        labels = [label for label in _NUMBERS if label in self._block]
        self._numbers = dict(zip(labels, self._block.numbers(*labels).T, strict=True))
        if self._optics is not None:
            self._group = self._groups(self._optics)

    def _groups(self, optics: StarBlock) -> NDArray[np.int64]:
        """(N,) the row of ``data_optics`` for every particle."""
        if "rlnOpticsGroup" not in self._block and len(optics) == 1:
            return np.zeros(len(self._block), dtype=np.int64)
        known = optics.integers("rlnOpticsGroup").tolist()
        if len(set(known)) != len(known):
            raise BadInput(self._source, "a group that is defined twice", where="data_optics, rlnOpticsGroup")
        row_of = {group: row for row, group in enumerate(known)}
        groups = self._block.integers("rlnOpticsGroup").tolist()
        rows = np.array([row_of.get(group, -1) for group in groups])
        if (rows < 0).any():
            row = int(np.argmax(rows < 0))
            where = self._block.where(row, "rlnOpticsGroup")
            raise BadInput(self._source, f"group {groups[row]}", where=where, expected=f"one of {known} in data_optics")
        return rows

    def get(self, label: str) -> Floats | None:
        if self._optics is not None and label in self._optics:
            return self._optics.numbers(label)[self._group, 0]
        return self._numbers.get(label)

    def _checked(self, label: str, low: float, high: float, unit: str) -> Floats | None:
        values = self.get(label)
        if values is not None and (wrong := np.flatnonzero((values <= low) | (values >= high))).size:
            row = int(wrong[0])
            in_optics = self._optics is not None and label in self._optics
            where = f"data_optics, {label}" if in_optics else self._block.where(row, label)
            expected = f"a value between {low:g} and {high:g} {unit}"
            raise BadInput(self._source, f"{values[row]:g}", where=where, expected=expected)
        return values

    def unmodelled(self) -> tuple[str, ...]:
        """Labels of :data:`_UNMODELLED` and vectors of aberrations that are not zero."""
        block = self._block if self._optics is None else self._optics
        vectors = [label for label in _UNMODELLED_VECTORS if label in block]
        used = [v for v in vectors if any(float(x) for cell in set(block.text(v)) for x in _NUMBER.findall(cell))]
        return (*in_use({label: (self.get(label), idle) for label, idle in _UNMODELLED.items()}), *used)

    def optics_group(self) -> NDArray[np.int64] | None:
        """(N,) the number that ``data_optics`` gives it."""
        if self._optics is None or "rlnOpticsGroup" not in self._optics:
            return None
        return self._optics.integers("rlnOpticsGroup")[self._group]

    def pixel_size(self) -> float | None:
        values = self._checked("rlnImagePixelSize", *PIXEL_SIZES, "Angstrom")
        if values is None:
            detector = self._checked("rlnDetectorPixelSize", 0, 1e6, "micrometre")
            magnification = self._checked("rlnMagnification", 0, 1e9, "")
            if detector is None or magnification is None:
                return None
            values = detector * 1e4 / magnification
        return one_value(values, self._source, "pixel size")

    def ctf(self, table: ParticleTable) -> CTF | None:
        u = self.get("rlnDefocusU")
        if u is None:
            self._refuse_without("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
        voltage = self._checked("rlnVoltage", 10, 3000, "kV")
        aberration, contrast = self.get("rlnSphericalAberration"), self.get("rlnAmplitudeContrast")
        if u is None or voltage is None or aberration is None or contrast is None:
            constants = {"rlnVoltage": voltage, "rlnSphericalAberration": aberration, "rlnAmplitudeContrast": contrast}
            warn_half_ctf(self._source, "rlnDefocusU" if u is not None else None, constants)
            return None

        def given(label: str, otherwise: Floats) -> Floats:
            values = self.get(label)
            return otherwise if values is None else values

        zero = np.zeros_like(u)
        v, angle = given("rlnDefocusV", u), given("rlnDefocusAngle", zero)
        phase, b_factor = given("rlnPhaseShift", zero), given("rlnCtfBfactor", zero)
        columns = (u, v, angle, voltage, aberration, contrast, phase, b_factor)
        return checked_ctf(CTF(*map(torch.from_numpy, columns)), table, _CTF)

    def half_set(self) -> NDArray[np.int64] | None:
        values = self._numbers.get(_HALF_SET)
        return None if values is None else self._block.whole(values, _HALF_SET)

    def shift(self) -> dict[str, Any]:
        for labels in (_ORIGIN_ANGSTROM, _ORIGIN_PIXELS):
            x, y = (self._numbers.get(label) for label in labels)
            if x is not None and y is not None:
                return {"shift": -np.stack([x, y], axis=1), "shift_in_pixels": labels is _ORIGIN_PIXELS}
            self._refuse_without(labels[0] if x is None else labels[1], *labels)
        return {}

    def _refuse_without(self, missing: str, *others: str) -> None:
        """Half a set of columns is a slip: taken for none at all, it would go unnoticed."""
        given = [label for label in others if self.get(label) is not None]
        if given:
            expected, hint = f"{missing} beside it", f"add {missing}, or take {' and '.join(given)} out"
            raise BadInput(self._source, f"{given[0]} and no {missing}", expected=expected, hint=hint)


def _image_names(block: StarBlock, source: str) -> dict[str, Any]:
    """Cut ``000001@stack.mrcs`` into the number, from 0, and the file."""
    seen: dict[str, int] = {}
    file = np.empty(len(block), dtype=np.int64)
    index = np.empty(len(block), dtype=np.int64)
    for row, name in enumerate(block.text("rlnImageName")):
        number, at, path = name.partition("@")
        # At most twelve digits: Python would take its time over a million.
        if not (at and path and number.isascii() and number.isdigit() and len(number) <= 12 and int(number) > 0) or (
            "@" in path
        ):
            where = block.where(row, "rlnImageName")
            expected = "a number from 1, @ and a file, as in 000001@stack.mrcs"
            raise BadInput(source, repr(name[:200]), where=where, expected=expected)
        file[row] = seen.setdefault(path, len(seen))
        index[row] = int(number) - 1
    return {"files": tuple(seen), "file": file, "index": index}
