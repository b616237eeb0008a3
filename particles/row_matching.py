"""Which rows of two tables are of the same particle image."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from .errors import BadInput
from .files import Tally
from .poses import IN_MEMORY, PoseTable
from .star import StarBlock, StarFile
from .table import ParticleTable

Names = list[str]

_IMAGES, _WITHOUT_FOLDERS = "the names of images", "the names of images, without folders"
_PARTICLES = ("rlnTomoParticleName", "rlnParticleName")
_MICROGRAPHS = ("rlnMicrographName", "rlnTomoName")
_PLACE = ("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ")


@dataclass(frozen=True)
class Matched:
    """Poses of particles of a table.

    Attributes:
        poses: n of them.
        rows: (n,) the row of each in the table, in ascending order; all rows, unless some have no pose.
    """

    poses: PoseTable
    rows: NDArray[np.int64]


def matched_poses(poses: PoseTable, table: ParticleTable | None, count: int, path: str | Path) -> Matched:
    """Find the poses of the particles of a table.

    What both tables say about a particle decides: the name of its image (all of ``1@sub/a.mrcs``), the ``uid`` of
    cryoSPARC, the name of the particle, the place on its micrograph or in its tomogram; or else ``1@a.mrcs``, where no
    two files of a table are called the same and none of the last three finds a particle: those that were picked or
    chosen anew are numbered anew. Particles without a pose are left out, with a warning that counts them. Where no
    particle is in both, or one file says nothing, rows of the same number belong together, with a warning.

    Args:
        poses: to choose from.
        table: the particles whose poses are wanted, if there is a table of them.
        count: of these particles.
        path: the file they are from.

    Raises:
        BadInput: an image with several poses, or rows that cannot be matched in tables of different length.
    """
    source, everything = poses.source, np.arange(count)
    if table is not None and table is poses.particles:
        return Matched(poses, everything)
    best: tuple[NDArray[np.int64], str, Names, dict[str, int]] | None = None
    repeated: BadInput | None = None
    compared = []
    for what, wanted, known in _shared(table, poses.particles):
        if what == _WITHOUT_FOLDERS and best is not None and best[1] != _IMAGES:
            break
        if wanted == known:
            return Matched(poses, everything)
        compared.append(what)
        place = {name: row for row, name in enumerate(known)}
        rows = np.array([row for row, name in enumerate(wanted) if name in place], dtype=np.int64)
        if twice := {name for row, name in enumerate(known) if place[name] != row} & set(wanted):
            expected = f"one row for every particle, or all rows in the order of {path}"
            repeated = repeated or BadInput(source, f"{min(twice)} in several rows", expected=expected)
        elif len(rows) and (best is None or len(rows) > len(best[0])):
            best = rows, what, wanted, place
            if len(rows) == count:
                break
    tally = Tally(source)
    if best is not None:
        rows, what, wanted, place = best
        if len(rows) < count:
            without = int(np.setdiff1d(everything, rows)[0])
            tally.add(f"no pose, by {what}: left out", f"row {without + 1} of {path}", count - len(rows))
            tally.warn()
        return Matched(poses.subset([place[wanted[row]] for row in rows.tolist()]), rows)
    if repeated is not None:
        raise repeated
    if len(poses) != count:
        expected = f"{count} as in {path}, or names of the same images"
        raise BadInput(source, f"{len(poses)} poses", expected=expected)
    if poses.source == IN_MEMORY:
        return Matched(poses, everything)
    why = f"differ in {' and in '.join(compared)}" if compared else "have no names of particles in common"
    tally.add(f"the two files {why}: rows of the same number are taken together", str(path))
    tally.warn()
    return Matched(poses, everything)


def _shared(table: ParticleTable | None, other: ParticleTable | None) -> Iterator[tuple[str, Names, Names]]:
    """What both tables name their particles by, and the names in both; the surest first."""
    if table is None or other is None:
        return
    mine, theirs = _names(table), _names(other)
    for what in mine:
        if what in theirs:
            yield what, mine[what](), theirs[what]()


def _names(table: ParticleTable) -> dict[str, Callable[[], Names]]:
    """What a table names its particles by, and what makes the names, which takes seconds for a million."""
    names: dict[str, Callable[[], Names]] = {}
    if table.file is not None and table.index is not None:
        names[_IMAGES] = lambda: _images(table, [os.path.normpath(name) for name in table.files])
    if isinstance(table.origin, np.ndarray) and "uid" in (table.origin.dtype.names or ()):
        uid = table.origin["uid"]
        if (uid != np.arange(1, len(uid) + 1)).any():  # row numbers, as ``new_cryosparc`` writes them, name nothing
            names["uid"] = lambda: [str(number) for number in uid.tolist()]
    if isinstance(table.origin, StarFile):
        block = table.origin[table.block]
        names |= {label: partial(block.text, label) for label in _PARTICLES if label in block}
        micrograph = next((label for label in _MICROGRAPHS if label in block), None)
        if micrograph is not None and all(label in block for label in _PLACE[:2]):
            names["places on micrographs"] = partial(_places, block, micrograph)
    files = [PurePath(name).name for name in table.files]
    if table.file is not None and len(set(files)) == len(files):
        names[_WITHOUT_FOLDERS] = partial(_images, table, files)
    return names


def _places(block: StarBlock, micrograph: str) -> Names:
    """The place of every row, such as ``12.0, 7.5 of a.mrc``; without folders where no two are called the same."""
    micrographs = block.text(micrograph)
    place = np.round(block.numbers(*(label for label in _PLACE if label in block)), 1).tolist()
    short = {name: PurePath(name).name for name in set(micrographs)}
    if len(set(short.values())) < len(short):
        short = {name: name for name in short}
    return [f"{', '.join(map(str, at))} of {short[name]}" for name, at in zip(micrographs, place, strict=True)]


def _images(table: ParticleTable, files: Names) -> Names:
    """The image of every row, such as ``1@sub/a.mrcs``."""
    assert table.index is not None
    assert table.file is not None
    return [f"{index + 1}@{files[file]}" for index, file in zip(table.index.tolist(), table.file.tolist(), strict=True)]
