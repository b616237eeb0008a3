"""Poses of particles, and their way in and out of the files of other programs."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .cryosparc import new_cryosparc, read_cryosparc, update_cryosparc
from .cs import read_cs, write_cs
from .errors import BadInput, BadInputWarning
from .files import atomic_write, open_regular
from .mrc import PIXEL_SIZES
from .npy import read_npy
from .pkl import read_poses, write_poses
from .relion import missing_angles, new_star, read_relion, update_star
from .star import StarFile
from .table import Floats, ParticleTable

IN_MEMORY = "poses"
"""The source of poses that are from no file: whoever made them knows which particles they are of."""

_NPZ = ("rotation", "shift", "confidence", "image_size", "pixel_size")


class PoseTable:
    """N poses, checked: every rotation is one, every number is finite.

    Args:
        rotation: (N, 3, 3), object to camera coordinates, as everywhere in this library.
        shift: (N, 2) in Angstrom, (x, y), where the content has moved; zero when not given.
        confidence: (N,), larger is surer.
        image_size: pixels along an edge; needed for cryoDRGN's fractions of the box.
        pixel_size: Angstrom; needed for formats that hold pixels or fractions of the box.
        particles: the table the particles came from; it is kept when the poses are saved in its format.
        source: the file they are from, or another name for messages; :data:`IN_MEMORY` when not given.

    Raises:
        BadInput: wrong shapes, nothing in them, numbers that are not finite, or matrices that are no rotations.
    """

    rotation: Floats
    shift: Floats
    confidence: Floats | None
    image_size: int | None
    pixel_size: float | None
    particles: ParticleTable | None
    source: str | Path

    def __init__(
        self,
        rotation: ArrayLike,
        shift: ArrayLike | None = None,
        confidence: ArrayLike | None = None,
        *,
        image_size: int | None = None,
        pixel_size: float | None = None,
        particles: ParticleTable | None = None,
        source: str | Path | None = None,
    ) -> None:
        self.source = source if source is not None else particles.path if particles is not None else IN_MEMORY
        self.rotation = np.ascontiguousarray(rotation, dtype=np.float64)
        n = len(self.rotation) if self.rotation.ndim else 0
        self.shift = np.zeros((n, 2)) if shift is None else np.ascontiguousarray(shift, dtype=np.float64)
        self.confidence = None if confidence is None else np.ascontiguousarray(confidence, dtype=np.float64)
        self.image_size = image_size
        self.pixel_size = pixel_size
        self.particles = particles
        self._check(n)

    def __len__(self) -> int:
        return len(self.rotation)

    def subset(self, indices: ArrayLike) -> PoseTable:
        """Return the chosen rows, in the order given."""
        rows = np.asarray(indices, dtype=np.int64).reshape(-1)
        return PoseTable(
            self.rotation[rows],
            self.shift[rows],
            None if self.confidence is None else self.confidence[rows],
            image_size=self.image_size,
            pixel_size=self.pixel_size,
            particles=None if self.particles is None else self.particles.subset(rows),
            source=self.source,
        )

    @classmethod
    def load(cls, path: str | Path, *, image_size: int | None = None, pixel_size: float | None = None) -> PoseTable:
        """Read poses.

        Args:
            path: .star (RELION 3.0, 3.1, 5), .cs (cryoSPARC), .pkl (cryoDRGN) or .npz (ours).
            image_size: pixels along an edge, where the file does not say.
            pixel_size: Angstrom, where the file does not say.

        Raises:
            BadInput: a damaged or hostile file, no poses in it, or shifts in pixels or fractions of a box whose size
                is not known.
        """
        suffix = Path(path).suffix.lower()
        if suffix == ".npz":
            return _load_npz(path, image_size, pixel_size)
        if suffix == ".pkl":
            rotation, fraction = read_poses(path)
            if fraction is None or not fraction.any():
                shift = None
            elif image_size is None or pixel_size is None:
                hint = "give image_size and pixel_size (--image-size, --pixel-size)"
                raise BadInput(
                    path, "shifts in fractions of the box", expected="to know the box in Angstrom", hint=hint
                )
            else:
                shift = -fraction * image_size * pixel_size
            return cls(rotation, shift, image_size=image_size, pixel_size=pixel_size, source=path)
        table = load_table(path)
        table = replace(table, image_size=table.image_size or image_size, pixel_size=table.pixel_size or pixel_size)
        if table.rotation is None:
            what = missing_angles(table) if suffix == ".star" else "alignments3D/pose"
            raise BadInput(path, f"no poses: {what} is missing")
        return from_table(table)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write poses.

        When the particles came from a file of the same format, everything else in it is kept: other blocks, columns
        and fields, and the names of the image files; but what belongs to poses that were replaced, such as priors and
        likelihoods, is left out, with a warning. Names of image files are not adapted to the folder of the new file:
        RELION reads them relative to the folder in which it is started, the project, and so does ``ParticleStack``
        when the new file lies anywhere below it. Otherwise the file holds what is known about the particles; what
        changes the images and has no place in the format is named in a warning.

        Args:
            path: .star (RELION; 3.1, or the dialect of the file that the particles came from), .cs (cryoSPARC), .pkl
                (cryoDRGN; no confidence) or .npz (ours).
            overwrite: replace a file that is there already.

        Raises:
            BadInput: another suffix, a file that exists, or a format that needs the box in pixels or Angstrom and
                shifts that are not zero while it is not known.
        """
        suffix = Path(path).suffix.lower()
        if suffix == ".star":
            self._star(path).write(path, overwrite=overwrite)
        elif suffix == ".cs":
            write_cs(path, self._cryosparc(path), overwrite=overwrite)
        elif suffix == ".pkl":
            box = 1.0
            if self.shift.any():
                self._need("image_size", "pixel_size", path=path)
                assert self.image_size is not None
                assert self.pixel_size is not None
                box = self.image_size * self.pixel_size
            write_poses(path, self.rotation, -self.shift / box + 0.0, overwrite=overwrite)
        elif suffix == ".npz":
            known = {name: getattr(self, name) for name in _NPZ if getattr(self, name) is not None}
            with atomic_write(path, overwrite=overwrite) as handle:
                np.savez(handle, **known)
        else:
            raise BadInput(path, f"the suffix {suffix!r}", expected="one of .star, .cs, .pkl, .npz")

    def _star(self, path: str | Path) -> StarFile:
        table = self._described()
        poses = (self.rotation, self.shift, self.confidence, self.pixel_size)
        if isinstance(table.origin, StarFile):
            return update_star(table.origin, table.block, *poses, replaced=self._replaced())
        self._warn_lost(path, (*table.unmodelled, *(["blob/sign -1"] if _is_dark(table) else [])))
        if any(name.lower().endswith(".mrc") for name in table.files):
            warnings.warn(BadInputWarning(f"{path}: RELION reads stacks of images from .mrcs, not .mrc"), stacklevel=4)
        return new_star(table)

    def _cryosparc(self, path: str | Path) -> NDArray[np.void]:
        table = self._described()
        poses = (self.rotation, self.shift, self.confidence, self.pixel_size)
        if isinstance(table.origin, np.ndarray):
            return update_cryosparc(table.origin, table.path, *poses, replaced=self._replaced())
        if self.shift.any():
            self._need("pixel_size", path=path)
        self._warn_lost(path, (*table.unmodelled, *table.corrected))
        return new_cryosparc(table, path)

    def _replaced(self) -> bool:
        """Whether the table that the particles came from has other poses, or none."""
        table = self.particles
        if table is None or table.rotation is None or not np.allclose(table.rotation, self.rotation, atol=1e-6):
            return True
        shift = _shift_in_angstrom(table)
        return not np.allclose(np.zeros_like(self.shift) if shift is None else shift, self.shift, atol=1e-4)

    def _warn_lost(self, path: str | Path, lost: Sequence[str]) -> None:
        """Say what changes the images, is known of them, and cannot be said in the format of ``path``."""
        if lost:
            what = f"{', '.join(lost)} of {self.source} cannot be written, and the images need it"
            warnings.warn(BadInputWarning(f"{path}: {what}"), stacklevel=5)

    def _described(self) -> ParticleTable:
        table = self.particles or ParticleTable(Path(str(self.source)), len(self))
        poses = {name: getattr(self, name) for name in _NPZ}
        return replace(table, **poses, shift_in_pixels=False)

    def _need(self, *names: str, path: str | Path) -> None:
        missing = [name for name in names if getattr(self, name) is None]
        if missing:
            found = f"shifts in Angstrom and no {' and '.join(missing)}"
            raise BadInput(path, found, expected="to know the box", hint=f"set {' and '.join(missing)} of the poses")

    def _check(self, n: int) -> None:
        rotation, shift, confidence, source = self.rotation, self.shift, self.confidence, self.source
        if rotation.shape != (n, 3, 3):
            raise BadInput(source, f"rotations of shape {rotation.shape}", expected="(N, 3, 3)")
        if shift.shape != (n, 2):
            raise BadInput(source, f"shifts of shape {shift.shape}", expected=f"({n}, 2)")
        if confidence is not None and confidence.shape != (n,):
            raise BadInput(source, f"confidences of shape {confidence.shape}", expected=f"({n},)")
        if self.particles is not None and self.particles.size != n:
            raise BadInput(source, f"{n} poses", expected=f"{self.particles.size}, one per particle")
        if not n:
            raise BadInput(source, "0 poses")
        for name, values in (("rotation", rotation), ("shift", shift), ("confidence", confidence)):
            if values is not None and not np.isfinite(values).all():
                row = int(np.argmin(np.isfinite(values.reshape(n, -1)).all(axis=1)))
                raise BadInput(
                    source, f"{name} {values[row].tolist()}", where=f"row {row + 1}", expected="finite numbers"
                )
        off = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
        if off.max() > 1e-3:
            row = int(np.argmax(off > 1e-3))
            found = f"a matrix whose rows are not orthonormal (off by {off[row]:.3g})"
            raise BadInput(source, found, where=f"row {row + 1}", expected="a rotation")
        mirrored = np.linalg.det(rotation) < 0
        if mirrored.any():
            found = f"a mirror (determinant -1) in {np.count_nonzero(mirrored)} rows"
            raise BadInput(source, found, where=f"row {np.argmax(mirrored) + 1}", expected="a rotation")
        for name, (low, high) in {"image_size": (1, 65536), "pixel_size": PIXEL_SIZES}.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise BadInput(source, f"{name} {value:g}", expected=f"{low} to {high:g}")


def load_table(path: str | Path) -> ParticleTable:
    """Read the table of particles in a .star or .cs file.

    Raises:
        BadInput: another suffix, or a damaged or hostile file.
    """
    table = ParticleTable(Path(path), 0)
    suffix = table.path.suffix.lower()
    if suffix == ".star":
        return read_relion(StarFile.read(path), table)
    if suffix == ".cs":
        return read_cryosparc(read_cs(path), table)
    raise BadInput(path, f"the suffix {suffix!r}", expected="one of .star, .cs, .pkl, .npz")


def from_table(table: ParticleTable) -> PoseTable:
    """The poses that a table of particles holds."""
    assert table.rotation is not None
    return PoseTable(
        table.rotation,
        _shift_in_angstrom(table),
        table.confidence,
        image_size=table.image_size,
        pixel_size=table.pixel_size,
        particles=table,
    )


def _shift_in_angstrom(table: ParticleTable) -> Floats | None:
    shift = table.shift
    if shift is None or not (table.shift_in_pixels and shift.any()):
        return shift
    if table.pixel_size is None:
        raise BadInput(table.path, "shifts in pixels and no pixel size", hint="give pixel_size (Angstrom)")
    return shift * table.pixel_size


def _is_dark(table: ParticleTable) -> bool:
    return table.sign is not None and bool((table.sign < 0).any())


def _load_npz(path: str | Path, image_size: int | None, pixel_size: float | None) -> PoseTable:
    arrays: dict[str, NDArray] = {}
    try:
        with open_regular(path) as handle, zipfile.ZipFile(handle) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                # Only what is not compressed: such a member is no larger than the file.
                if name not in _NPZ or name in arrays or member.compress_type != zipfile.ZIP_STORED:
                    raise BadInput(path, f"{member.filename[:80]!r}", expected="poses saved by cryozoo")
                content = archive.read(member)
                arrays[name] = read_npy(BytesIO(content), len(content), f"{path}, {name}")
    except BadInput:
        raise
    except Exception as error:  # a damaged archive can raise anything
        raise BadInput(path, f"a damaged .npz file ({str(error)[:80]})") from None
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu":
            raise BadInput(path, f"{array.dtype}", where=name, expected="numbers")
    if "rotation" not in arrays:
        raise BadInput(path, "no rotation", expected="poses saved by cryozoo")
    for name in ("image_size", "pixel_size"):
        if name in arrays and arrays[name].size != 1:
            raise BadInput(path, f"{arrays[name].size} values", where=name, expected="one")
    return PoseTable(
        arrays["rotation"],
        arrays.get("shift"),
        arrays.get("confidence"),
        image_size=int(arrays["image_size"].item()) if "image_size" in arrays else image_size,
        pixel_size=float(arrays["pixel_size"].item()) if "pixel_size" in arrays else pixel_size,
        source=path,
    )
