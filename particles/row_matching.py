"""Which rows of two tables are of the same particle image."""

from __future__ import annotations

from pathlib import Path, PurePath

from .errors import BadInput
from .files import Tally
from .poses import PoseTable
from .table import ParticleTable


def matched_poses(poses: PoseTable, table: ParticleTable | None, count: int, path: str | Path) -> PoseTable:
    """The poses of the particles of a table, in its order.

    Where both name images the names decide: all of ``1@sub/a.mrcs``, or else ``1@a.mrcs``, where no two files of a
    table are called the same. Where one names none, rows of the same number belong together; also, with a warning,
    where no image is in both.

    Args:
        poses: to choose from.
        table: the particles whose poses are wanted, if there is a table of them.
        count: of these particles.
        path: the file they are from.

    Raises:
        BadInput: an image without a pose or with several, or another number of rows.
    """
    source = poses.source
    named = False
    for full in (True, False):
        wanted, known = _names(table, full), _names(poses.particles, full)
        if wanted is None or known is None:
            continue
        if wanted == known:
            return poses
        named = True
        place = {name: row for row, name in enumerate(known)}
        if place.keys().isdisjoint(wanted):
            continue
        if missing := next((row for row, name in enumerate(wanted, 1) if name not in place), None):
            found, where = f"no row for {wanted[missing - 1]}", f"row {missing} of {path}"
            raise BadInput(source, found, where=where, expected="one for every image")
        if repeated := {name for row, name in enumerate(known) if place[name] != row} & set(wanted):
            expected = f"one row for every image, or all rows in the order of {path}"
            raise BadInput(source, f"{min(repeated)} in several rows", expected=expected)
        return poses.subset([place[name] for name in wanted])
    if len(poses) != count:
        raise BadInput(source, f"{len(poses)} poses", expected=f"{count} as in {path}, or the same image names")
    if named:
        tally = Tally(source)
        tally.add("names no image that the other table names: rows of the same number are taken together", str(path))
        tally.warn()
    return poses


def _names(table: ParticleTable | None, full: bool) -> list[str] | None:
    """The image of every row, such as ``1@sub/a.mrcs`` or ``1@a.mrcs``; None where none is named, or not clearly."""
    if table is None or table.file is None or table.index is None:
        return None
    files = table.files if full else [PurePath(name).name for name in table.files]
    if len(set(files)) < len(files):
        return None
    return [f"{index + 1}@{files[file]}" for index, file in zip(table.index.tolist(), table.file.tolist(), strict=True)]
