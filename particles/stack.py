"""A stack of particle images with what is known about them, from a STAR file, a .cs table or an MRC file."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .ctf import CTF
from .errors import BadInput
from .files import Tally, open_regular
from .image_files import ImageFinder, MissingImageFile
from .mrc import Image, MrcStack
from .poses import PoseTable, from_table, load_table
from .relion import lacks_optics
from .star import StarFile
from .table import ParticleTable

# Squares and sums of larger values leave the range of float32.
_LARGEST_PIXEL = 1e15
_SCAN_BYTES = 1 << 26
_SAMPLE = 64  # images for the test of the contrast


class ParticleStack:
    """N particle images of L x L pixels, read from disk when they are asked for.

    Made by ``ParticleStack.open``. It holds no open files, so it can be copied to other processes and used by several
    threads. The images are as in the files, times ``blob/sign`` where a .cs table has it, or the negatives of that.

    Attributes:
        path: the file that was opened.
        image_size: L.
        pixel_size: Angstrom.
        inverted: whether images are multiplied by -1 when they are read.
        table: what the file says about the particles.
    """

    def __init__(
        self,
        table: ParticleTable,
        stacks: tuple[MrcStack, ...],
        *,
        image_size: int,
        pixel_size: float,
        invert: bool = False,
    ) -> None:
        self.path = table.path
        self.image_size = image_size
        self.pixel_size = pixel_size
        self.table = replace(table, image_size=image_size, pixel_size=pixel_size)
        self._stacks = stacks
        self.inverted = invert

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        datadir: str | Path | None = None,
        allow_outside: bool = False,
        skip_bad: bool = False,
        pixel_size: float | None = None,
        invert: bool = False,
    ) -> ParticleStack:
        """Open particles; the headers of all image files are read and held against the table.

        Image names in a table are looked for in the folder of the table, then in ``datadir``, then in the folders
        above the table, as in a RELION project whose tables lie in job folders, then in the working directory. A name
        may not lead out of the folder it is looked for in, by ``..``, as an absolute path or over a link, unless the
        target lies below the table's folder or ``datadir``.

        Args:
            path: .star, .cs, or a single .mrcs or .mrc file.
            datadir: another folder for the images.
            allow_outside: let image names lead anywhere.
            skip_bad: leave out rows whose image is missing, with its file or from it, NaN, infinite, constant or far
                too large, with a warning that counts them; all images are read once to find them.
            pixel_size: Angstrom, instead of what the table or the images say.
            invert: multiply the images by -1, where particles are dark.

        Raises:
            BadInput: a damaged or hostile file, with the row and what to do.
        """
        path = Path(path)
        open_regular(path).close()
        tally = Tally(path)
        if path.suffix.lower() in (".star", ".cs"):
            table = load_table(path)
            if pixel_size is None and lacks_optics(table):
                hint = "give pixel_size (Angstrom), or a table with data_optics"
                raise BadInput(path, "optics groups and no data_optics to define them", hint=hint)
            if table.file is None:
                what = "column rlnImageName" if path.suffix.lower() == ".star" else "fields blob/path and blob/idx"
                raise BadInput(path, f"no {what}", expected="names of image files")
            table, places = _found_files(table, ImageFinder(path, datadir, allow_outside), skip_bad, tally)
        elif path.suffix.lower() not in (".mrcs", ".mrc"):
            raise BadInput(path, f"the suffix {path.suffix!r}", expected="particle images: a .star, .cs or .mrcs file")
        else:
            table = ParticleTable(path, 0, files=(str(path),))
            places = [path]
        stacks = tuple(
            MrcStack(place, allow_truncated=skip_bad, report=partial(tally.add, where=str(place))) for place in places
        )
        if table.file is None:
            n = len(stacks[0])
            table = replace(table, size=n, file=np.zeros(n, dtype=np.int64), index=np.arange(n))
        image_size = _image_size(table, stacks)
        pixel_size = _pixel_size(table, stacks, pixel_size, tally)
        table = _check_indices(table, stacks, skip_bad, tally)
        _check_ctf(table, tally)
        stack = cls(table, stacks, image_size=image_size, pixel_size=pixel_size, invert=invert)
        if skip_bad:
            stack = stack._without_faults(tally)
        stack._check_contrast(tally)
        tally.warn()
        return stack

    def __len__(self) -> int:
        return self.table.size

    @property
    def ctf(self) -> CTF | None:
        """CTF parameters of every image, or None where the table has none."""
        return self.table.ctf

    @property
    def star(self) -> StarFile | None:
        """The STAR file, with the rows of this stack; None for other formats."""
        return self.table.origin if isinstance(self.table.origin, StarFile) else None

    @property
    def image_files(self) -> tuple[Path, ...]:
        """Where the files of ``table.files`` are."""
        return tuple(stack.path for stack in self._stacks)

    @property
    def image_ids(self) -> NDArray[np.int64]:
        """(N,) integers, the same for rows that name the same image of the same file, however it is spelled."""
        return _image_ids(self.table, self._stacks)

    @cached_property
    def poses(self) -> PoseTable | None:
        """The poses in the table, or None where it has none."""
        return None if self.table.rotation is None else from_table(self.table)

    def with_poses(
        self, rotation: ArrayLike, shift: ArrayLike | None = None, confidence: ArrayLike | None = None
    ) -> PoseTable:
        """Poses of these particles (see ``PoseTable``) that keep the rest of the table when they are saved."""
        return PoseTable(
            rotation, shift, confidence, image_size=self.image_size, pixel_size=self.pixel_size, particles=self.table
        )

    def subset(self, indices: ArrayLike) -> ParticleStack:
        """The chosen particles, in the order given."""
        rows = self._rows(indices)
        return ParticleStack(
            self.table.subset(rows),
            self._stacks,
            image_size=self.image_size,
            pixel_size=self.pixel_size,
            invert=self.inverted,
        )

    def images(self, indices: ArrayLike) -> Image:
        """Read images.

        Args:
            indices: (n,) rows, in any order, repeated or not.

        Returns:
            (n, L, L) float32.

        Raises:
            IndexError: a row outside 0 .. N - 1.
            BadInput: an image has NaN or infinite pixels, is constant or far too large; or a file was changed.
        """
        rows = self._rows(indices)
        images = self._read(rows)
        for fault, bad in _faults(images).items():
            where = self._where(int(rows[bad[0]]))
            raise BadInput(self.path, fault, where=where, hint="skip_bad (--skip-bad) leaves such rows out")
        return images

    def _rows(self, indices: ArrayLike) -> NDArray[np.int64]:
        rows = np.asarray(indices)
        if rows.size and rows.dtype.kind not in "iu":
            raise IndexError(f"rows of type {rows.dtype}, expected integers")
        rows = rows.astype(np.int64).reshape(-1)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
        return rows

    def _read(self, rows: NDArray[np.int64]) -> Image:
        file, index = _image_of(self.table)
        file, index = file[rows], index[rows]
        out = np.empty((len(rows), self.image_size, self.image_size), dtype=np.float32)
        order = np.argsort(file, kind="stable")
        starts = np.flatnonzero(np.diff(file[order], prepend=-1))
        for group in np.split(order, starts[1:]):
            if len(group):
                self._stacks[file[group[0]]].read_into(out, group, index[group])
        if self.table.sign is not None:
            out *= self.table.sign[rows, None, None].astype(np.float32)
        if self.inverted:
            np.negative(out, out=out)
        return out

    def _where(self, row: int) -> str:
        file, index = _image_of(self.table)
        place = f"image {index[row] + 1} of {self._stacks[file[row]].path}"
        return place if self.table.origin is None else f"{self.table.where(row)}, {place}"

    def _check_contrast(self, tally: Tally) -> None:
        """Particles are taken to be brighter than what is around them; say so where a sample looks otherwise."""
        rows = np.unique(np.linspace(0, len(self) - 1, _SAMPLE).astype(np.int64))
        images = self._read(rows)
        images = np.delete(images, [row for bad in _faults(images).values() for row in bad], axis=0).astype(np.float64)
        y, x = np.indices(images.shape[1:]) - self.image_size // 2
        radius = np.hypot(x, y) / self.image_size
        centre, edge = images[:, radius < 0.2], images[:, radius > 0.45]
        if len(images) >= 16 and centre.size:
            contrast = (centre.mean(axis=1) - edge.mean(axis=1)) / images.std(axis=(1, 2))
            # Five standard errors below zero: chance alone does not get there.
            if contrast.mean() < -5 * contrast.std(ddof=1) / np.sqrt(len(contrast)):
                what = "particles look darker than what is around them: invert=True (--invert) will invert the images"
                tally.add(what, f"by {-contrast.mean():.2f} standard deviations in {len(images)} images")

    def _without_faults(self, tally: Tally) -> ParticleStack:
        """Read everything once and drop the rows with bad images."""
        step = max(1, _SCAN_BYTES // (4 * self.image_size**2))
        bad: list[int] = []
        for start in range(0, len(self), step):
            rows = np.arange(start, min(start + step, len(self)))
            for fault, found in _faults(self._read(rows)).items():
                tally.add(f"left out: {fault}", self._where(int(rows[found[0]])), len(found))
                bad += rows[found].tolist()
        if not bad:
            return self
        keep = np.setdiff1d(np.arange(len(self)), bad)
        if not len(keep):
            raise BadInput(self.path, "no good image")
        return self.subset(keep)


def _faults(images: Image) -> dict[str, NDArray[np.int64]]:
    """What is wrong with which of the images; minimum and maximum tell, as NaN passes through both."""
    pixels = images.reshape(len(images), images.shape[1] * images.shape[2])
    low, high = pixels.min(axis=1), pixels.max(axis=1)
    largest = np.maximum(-low, high)
    finite = np.isfinite(largest)
    faults = {
        "an image with NaN or infinite pixels": ~finite,
        "a constant image": finite & (low == high),
        f"an image with values beyond {_LARGEST_PIXEL:g}": finite & (low != high) & (largest > _LARGEST_PIXEL),
    }
    return {fault: np.flatnonzero(bad) for fault, bad in faults.items() if bad.any()}


def _found_files(
    table: ParticleTable, finder: ImageFinder, skip_bad: bool, tally: Tally
) -> tuple[ParticleTable, list[Path]]:
    """Where the table's image files are; with ``skip_bad`` without the rows of those that are nowhere."""
    files = table.file
    assert files is not None
    places: dict[int, Path] = {}
    for number, row in zip(*np.unique(files, return_index=True), strict=True):
        try:
            places[int(number)] = finder.find(table.files[number], table, int(row))
        except MissingImageFile as error:
            if not skip_bad:
                raise
            missing = error
            count = int((files == number).sum())
            tally.add("left out: an image whose file is missing", f"{table.where(int(row))}, {error.found}", count)
    if len(places) < len(table.files):
        if not places:
            raise missing
        there = np.array(sorted(places))
        rows = np.flatnonzero(np.isin(files, there))
        names = tuple(table.files[number] for number in there)
        table = replace(table.subset(rows), files=names, file=np.searchsorted(there, files[rows]))
    return table, [places[number] for number in sorted(places)]


def _image_of(table: ParticleTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    assert table.file is not None
    assert table.index is not None
    return table.file, table.index


def _image_ids(table: ParticleTable, stacks: tuple[MrcStack, ...]) -> NDArray[np.int64]:
    """(N,) as in ``ParticleStack.image_ids``: links and other spellings of a path are the same file."""
    file, index = _image_of(table)
    numbers: dict[tuple[int, int], int] = {}
    same = np.array([numbers.setdefault(stack.identity, len(numbers)) for stack in stacks])
    return same[file] * (index.max(initial=0) + 1) + index


def _image_size(table: ParticleTable, stacks: tuple[MrcStack, ...]) -> int:
    size = table.image_size or stacks[0].shape[1]
    for stack in stacks:
        if stack.shape[1] != size:
            expected = f"{size}, as " + ("the table says" if table.image_size else f"in {stacks[0].path}")
            raise BadInput(table.path, f"images of {stack.shape[1]} pixels", where=str(stack.path), expected=expected)
    return size


def _pixel_size(table: ParticleTable, stacks: tuple[MrcStack, ...], given: float | None, tally: Tally) -> float:
    if given is not None and not (np.isfinite(given) and given > 0):
        raise BadInput(table.path, f"pixel_size {given}", expected="a positive number of Angstrom")
    known = given or table.pixel_size
    headers = [(stack.pixel_size, stack.path) for stack in stacks if stack.pixel_size is not None]
    if known is None:
        if not headers:
            hint = "give pixel_size (Angstrom), or a table with data_optics"
            raise BadInput(table.path, "no pixel size in the table or the images", hint=hint)
        known = headers[0][0]
    for size, path in headers:
        assert size is not None
        if abs(size - known) > 0.01 * known:
            if given is None and table.pixel_size is None:
                found = f"pixels of {size:g} Angstrom and of {known:g} Angstrom"
                raise BadInput(table.path, found, where=str(path), hint="give pixel_size (Angstrom)")
            tally.add(f"the image header says that pixels have {size:g} Angstrom; {known:g} are used", str(path))
    return float(known)


def _check_indices(table: ParticleTable, stacks: tuple[MrcStack, ...], skip_bad: bool, tally: Tally) -> ParticleTable:
    file, index = _image_of(table)
    counts = np.array([len(stack) for stack in stacks])
    outside = np.flatnonzero(index >= counts[file])
    if len(outside):
        row = int(outside[0])
        found, expected = f"image {index[row] + 1}", f"1 to {counts[file[row]]}, as {stacks[file[row]].path} holds"
        if not skip_bad:
            hint = "skip_bad (--skip-bad) leaves such rows out"
            raise BadInput(table.path, found, where=table.where(row), expected=expected, hint=hint)
        if len(outside) == table.size:
            raise BadInput(table.path, f"no row whose image exists; the first is {found}", expected=expected)
        tally.add("left out: an image beyond the end of its file", table.where(row), len(outside))
        table = table.subset(np.setdiff1d(np.arange(table.size), outside))
    places = _image_ids(table, stacks)
    order = np.argsort(places, kind="stable")
    again = order[1:][np.diff(places[order]) == 0]
    if len(again):
        tally.add("an image that another row has too", table.where(int(again.min())), len(again))
    return table


def _check_ctf(table: ParticleTable, tally: Tally) -> None:
    """Defocus in nanometre or micrometre instead of Angstrom is a common slip; exactly 0 means that there is none."""
    if table.ctf is not None:
        both = np.stack([table.ctf.defocus_u.numpy(), table.ctf.defocus_v.numpy()])
        implausible = {
            "a negative defocus, which is overfocus here: other programs count the other way round": both < 0,
            "a defocus that is not plausible in Angstrom": (both > 0) & ((both < 2000) | (both > 150_000)),
        }
        for what, odd in implausible.items():
            if len(rows := np.flatnonzero(odd.any(axis=0))):
                tally.add(what, f"{table.where(int(rows[0]))}: {both[0, rows[0]]:g}", len(rows))
