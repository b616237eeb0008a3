"""A picture of a row for somebody's own page: its place and its error, in one small SVG file."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape, quoteattr

_LETTER, _PAD, _HEIGHT = 6.6, 8, 20  # pixels, of Verdana at 11
_BEST, _OTHERS = "#1a7f37", "#57606a"


def badge(task: dict[str, Any], row: dict[str, Any]) -> str:
    """SVG of a row of :func:`.leaderboard.tables` that was done: place, ties, and the value by which it is ranked."""
    left, place = f"cryozoo {task['name']}", row.get("place")
    ties = sum(other.get("place") == place for other in task["rows"])
    rank = "" if place is None else f"place {place}" + (f" (of {ties} that tie)" if ties > 1 else "") + ", "
    right = f"{rank}{row['value']:.{task['digits']}f} {task['heading']}"
    a, b = (round(2 * _PAD + _LETTER * len(text)) for text in (left, right))
    both = f"{left}: {right}"
    boxes = (
        f'<rect width="{a}" height="{_HEIGHT}" fill="#24292f"/>'
        f'<rect x="{a}" width="{b}" height="{_HEIGHT}" fill="{_BEST if place == 1 else _OTHERS}"/>'
    )
    words = "".join(
        f'<text x="{x + _PAD}" y="14" textLength="{width - 2 * _PAD}">{escape(part)}</text>'
        for x, width, part in ((0, a, left), (a, b, right))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{a + b}" height="{_HEIGHT}" role="img" '
        f"aria-label={quoteattr(both)}><title>{escape(both)}</title>{boxes}"
        f'<g fill="#fff" font-family="Verdana,sans-serif" font-size="11">{words}</g></svg>\n'
    )
