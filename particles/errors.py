"""One exception for every refusal of a file: it names the file, the place, what was found, expected, and what to do."""

from __future__ import annotations

from pathlib import Path


class BadInput(ValueError):
    """A file or argument that cannot be used; the command line prints it in one line and exits with code 3.

    Args:
        source: the file (or repository) that is refused.
        found: what is there.
        expected: what should be there.
        where: row, line, column, field or tensor inside the file.
        hint: what to do about it.
    """

    def __init__(
        self,
        source: str | Path,
        found: str,
        *,
        expected: str | None = None,
        where: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.source = str(source)
        self.found = found
        self.expected = expected
        self.where = where
        self.hint = hint
        message = self.source + (f", {where}" if where else "") + f": {found}"
        if expected:
            message += f"; expected {expected}"
        if hint:
            message += f"; {hint}"
        super().__init__(" ".join(message.split()))


class BadInputWarning(UserWarning):
    """Something odd in a file that does not stop the work; counted and reported."""
