"""What a table of particles says, whichever program wrote it, in our conventions and with the table itself."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .ctf import CTF
from .errors import BadInput, BadInputWarning
from .star import StarFile

Floats = NDArray[np.float64]
# Where half-sets are, and how the first is numbered.
HALF_SET_RELION, HALF_SET_CRYOSPARC = ("rlnRandomSubset", 1), ("alignments3D/split", 0)


@dataclass(frozen=True, eq=False)
class ParticleTable:
    """N particles. None stands for what the table does not say.

    Attributes:
        path: the file that was read.
        size: N.
        origin: the table itself, for writing it back; None for a bare stack of images.
        block: the name of the STAR block with the particles.
        files: names of the image files, each once; empty when the table names none.
        file: (N,) position in ``files``.
        index: (N,) image in its file, from 0.
        image_size: pixels along an edge.
        pixel_size: Angstrom.
        ctf: CTF parameters, float64.
        unmodelled: names of columns about the microscope that ``ctf`` leaves out although they matter.
        corrected: what was done to the images about the CTF: "phase_flipped" or "premultiplied".
        group: (N,) number of the optics group (RELION) or exposure group (cryoSPARC), as in the table.
        sign: (N,) 1 or -1, by which pixels are multiplied to make particles bright.
        rotation: (N, 3, 3) in our convention.
        shift: (N, 2), where the content has moved; in Angstrom, or in pixels of ``pixel_size``.
        shift_in_pixels: which of the two.
        confidence: (N,).
        half_set: (N,) numbered from 1, as the table says, None where all are in the same; ``checked_half_set`` when it
            has to be 1 or 2.
    """

    path: Path
    size: int
    origin: StarFile | NDArray[np.void] | None = None
    block: str = ""
    files: tuple[str, ...] = ()
    file: NDArray[np.int64] | None = None
    index: NDArray[np.int64] | None = None
    image_size: int | None = None
    pixel_size: float | None = None
    ctf: CTF | None = None
    unmodelled: tuple[str, ...] = ()
    corrected: tuple[str, ...] = ()
    group: NDArray[np.int64] | None = None
    sign: Floats | None = None
    rotation: Floats | None = None
    shift: Floats | None = None
    shift_in_pixels: bool = False
    confidence: Floats | None = None
    half_set: NDArray[np.int64] | None = None

    def where(self, row: int, label: str | None = None) -> str:
        """Say where a row stands in the file; rows in messages count from 1."""
        if isinstance(self.origin, StarFile):
            if label is not None and label in self.origin.blocks.get("optics", ()):
                return f"data_optics, {label}"
            return self.origin[self.block].where(row, label)
        return f"row {row + 1}" + (f", {label}" if label else "")

    def subset(self, indices: NDArray[np.int64]) -> ParticleTable:
        """The chosen rows, in the order given."""
        origin = self.origin
        if isinstance(origin, StarFile):
            origin = origin.with_block(origin[self.block].with_rows(indices))
        elif origin is not None:
            origin = origin[indices]
        columns: dict[str, Any] = {
            name: None if (column := getattr(self, name)) is None else column[indices]
            for name in ("file", "index", "ctf", "group", "sign", "rotation", "shift", "confidence", "half_set")
        }
        return replace(self, size=len(indices), origin=origin, **columns)

    def check_uncorrected(self) -> None:
        """Refuse images to which the CTF cannot be applied any more.

        Raises:
            BadInput: images that were multiplied by the CTF or its sign already, and would be so twice.
        """
        if self.corrected:
            found = f"images that were corrected for the CTF ({', '.join(self.corrected)})"
            raise BadInput(self.path, found, hint="extract the particles without CTF correction")

    def warn_unmodelled(self) -> None:
        """Say what the CTF leaves out of what changed the images."""
        if self.unmodelled:
            what = f"{', '.join(self.unmodelled)}: not modelled, and ignored"
            warnings.warn(BadInputWarning(f"{self.path}: {what}"), stacklevel=3)

    def signs_of_ctf(self) -> CTF | None:
        """The CTF whose signs the images have; None where they have none, as they were flipped or multiplied already.

        Raises:
            BadInput: no CTF.
        """
        if self.corrected:
            return None
        if self.ctf is None:
            raise BadInput(
                self.path,
                "no CTF",
                expected="defocus, voltage, spherical aberration and amplitude contrast, by which phases are flipped",
                hint="take a table that has them, or an encoder that was trained without flipping (data ctf)",
            )
        return self.ctf

    def checked_half_set(self, hint: str | None = None) -> NDArray[np.int64] | None:
        """The half-sets, 1 or 2, where they are needed: what is wrong with them is nothing to who wants poses.

        Raises:
            BadInput: another number; ``hint`` says what to do.
        """
        number = self.half_set
        if number is not None and (wrong := np.flatnonzero((number < 1) | (number > 2))).size:
            label, lowest = HALF_SET_CRYOSPARC if isinstance(self.origin, np.ndarray) else HALF_SET_RELION
            found, expected = f"half-set {number[wrong[0]] + lowest - 1}", f"{lowest} or {lowest + 1}"
            raise BadInput(self.path, found, where=self.where(int(wrong[0]), label), expected=expected, hint=hint)
        return number


def one_value(values: Floats, table: str | Path, label: str) -> float:
    """The value all rows share.

    Raises:
        BadInput: they do not.
    """
    different = np.flatnonzero(np.abs(values - values[0]) > 1e-4 * np.abs(values[0]))
    if len(different):
        found = f"{values[0]:g} in row 1 and {values[different[0]]:g} in row {different[0] + 1}"
        raise BadInput(table, found, where=label, expected="the same for all", hint="split the table")
    return float(values[0])


def checked_ctf(ctf: CTF, table: ParticleTable, labels: Mapping[str, str]) -> CTF:
    """The CTF itself; ``labels`` are the columns that its fields come from.

    Raises:
        BadInput: a value that no microscope can have.
    """
    if wrong := ctf.impossible():
        name, row, expected = wrong
        found = f"{getattr(ctf, name)[row]:g}" + (" degrees" if labels[name].endswith("_rad") else "")
        raise BadInput(table.path, found, where=table.where(row, labels[name]), expected=expected)
    return ctf


def assigned(half_set: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
    """The half-sets; None where all particles are in the same, as programs write it that assigned none."""
    return None if half_set is None or (half_set == half_set[0]).all() else half_set


def warn_dropped(table: str | Path, labels: Sequence[str]) -> None:
    """Say which columns of a table do not go with its new poses."""
    if labels:
        what = f"{', '.join(labels)}: left out, as they belong to the poses that were replaced"
        warnings.warn(BadInputWarning(f"{table}: {what}"), stacklevel=4)


def warn_half_ctf(table: str | Path, defocus: str | None, constants: Mapping[str, Floats | None]) -> None:
    """Say that the CTF of a table is ignored, because it has a defocus and not all constants of the microscope."""
    missing = [name for name, values in constants.items() if values is None]
    if defocus is not None and missing:
        what = f"{defocus} and no {' and no '.join(missing)}: the CTF is ignored"
        warnings.warn(BadInputWarning(f"{table}: {what}"), stacklevel=3)


def in_use(columns: Mapping[str, tuple[NDArray[Any] | None, float | None]]) -> tuple[str, ...]:
    """The columns whose values matter, given these and what they are where they do not.

    None stands for values that are all the same.
    """
    given = ((name, values, idle) for name, (values, idle) in columns.items() if values is not None)
    return tuple(name for name, values, idle in given if (values != (values[0] if idle is None else idle)).any())
