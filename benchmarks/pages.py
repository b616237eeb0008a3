"""Put the tables of ``results/`` into the pages that show them: python -m cryozoo.benchmarks pages."""

from __future__ import annotations

import re
from pathlib import Path

from .runs import RESULTS

_ROOT = RESULTS.parents[1]
_SECTION = re.compile(r"(<!-- begin results/(?P<name>[\w.]+) -->\n).*?(<!-- end results/(?P=name) -->)", re.S)


def pages() -> list[Path]:
    """The README of this checkout, and one page for each question in ``docs/results``."""
    return [_ROOT / "README.md", *sorted((_ROOT / "docs" / "results").glob("*.md"))]


def with_tables(text: str, results: Path = RESULTS) -> str:
    """``text`` with every marked section replaced by its file; a section without a file becomes empty."""

    def fill(match: re.Match[str]) -> str:
        file = results / match["name"]
        table = f"\n{file.read_text()}\n" if file.exists() else ""
        return match[1] + table + match[3]

    return _SECTION.sub(fill, text)
