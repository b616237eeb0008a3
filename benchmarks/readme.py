"""Put the tables of ``results/`` into the README, between their markers: python -m cryozoo.benchmarks readme."""

from __future__ import annotations

import re
from pathlib import Path

from .runs import RESULTS

_SECTION = re.compile(r"(<!-- begin results/(?P<name>[\w.]+) -->\n).*?(<!-- end results/(?P=name) -->)", re.S)


def with_tables(text: str, results: Path = RESULTS) -> str:
    """``text`` with every marked section replaced by its file; a section without a file becomes empty."""

    def fill(match: re.Match[str]) -> str:
        file = results / match["name"]
        table = f"\n{file.read_text()}\n" if file.exists() else ""
        return match[1] + table + match[3]

    return _SECTION.sub(fill, text)
