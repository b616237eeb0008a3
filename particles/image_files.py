"""Where the image files are that a table names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from .errors import BadInput
from .table import ParticleTable

_PARENTS = 4  # folders above the table in which a project is looked for


class MissingImageFile(BadInput):
    """An image file is in none of the folders where it is looked for."""


class ImageFinder:
    """Looks for image files as people lay them, and sees to it that names do not lead astray.

    Args:
        table: the .star or .cs file, there or not.
        datadir: a folder to look in, or None.
        allow_outside: let names lead anywhere.

    Raises:
        BadInput: ``datadir`` is no folder.
    """

    def __init__(self, table: Path, datadir: str | Path | None, allow_outside: bool) -> None:
        self._allow_outside = allow_outside
        folder = Path(os.path.abspath(table)).parent
        self._roots = [folder] + ([] if datadir is None else [Path(os.path.abspath(datadir))])
        self._here = Path.cwd()
        self._above = [parent for parent in folder.parents[:_PARENTS] if parent != parent.parent]
        if datadir is not None and not os.path.isdir(datadir):
            raise BadInput(datadir, "is not a folder", expected="the folder with the images")

    def find(self, name: str, table: ParticleTable, row: int) -> Path:
        """Where image file ``name`` is, which row ``row`` of the table is the first to name.

        Raises:
            MissingImageFile: it is nowhere.
            BadInput: it leads out of where it may lie.
        """
        for base in self._bases(name):
            candidate = base / name
            if not os.path.exists(candidate):
                continue
            real = Path(os.path.realpath(candidate))
            # An absolute name is not looked for in a base, so only the named folders may hold it.
            inside = self._roots if os.path.isabs(name) else [*self._roots, base]
            if not self._allow_outside and not any(real.is_relative_to(os.path.realpath(root)) for root in inside):
                found = f"image file {name[:200]!r} leads out to {real}"
                hint = "give its folder as datadir (--datadir), or allow_outside (--allow-outside)"
                expected = f"a file below {self._roots[0]}"
                raise BadInput(table.path, found, where=table.where(row), expected=expected, hint=hint)
            return real
        found = f"image file {name[:200]!r} is missing"
        folders = ", ".join(map(str, self._roots))
        hint = f"looked in {folders}, in the folders above and here; give the folder as datadir (--datadir)"
        raise MissingImageFile(table.path, found, where=table.where(row), hint=hint)

    def _bases(self, name: str) -> list[Path]:
        # Nobody has named the working directory, so a name may not climb from it; from / it would reach everything.
        trusted = ".." not in Path(name).parts and self._here != self._here.parent
        # It comes last: the names of one project are often those of another, too.
        return [*self._roots, *self._above, *([self._here] if trusted else [])]


def needed_datadir(table: Path, names: Sequence[str], files: Sequence[Path]) -> Path | None:
    """The ``datadir`` without which image names are not found from a table.

    Args:
        table: where the table is, or will be.
        names: of image files, as the table has them.
        files: where each is.

    Returns:
        A folder from which the first name that is not found is found, or None where all are.
    """
    finder = ImageFinder(table, None, False)
    for name, file in zip(names, files, strict=True):
        real = os.path.realpath(file)
        with suppress(BadInput):
            if str(finder.find(name, ParticleTable(table, 0), 0)) == real:
                continue
        return next((folder for folder in file.absolute().parents if os.path.realpath(folder / name) == real), None)
    return None
