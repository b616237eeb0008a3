"""The page of a report: HTML that needs no other file, for light and dark screens, narrow ones, and paper."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --panel: #f4f7f9; --ink: #22313f; --muted: #5b6b78;
  --line: #dde4ea; --blue: #2a6f97; --warn: #fff4e0; --warned: #b36b00; }
@media screen and (prefers-color-scheme: dark) { :root { --ground: #171d23; --panel: #1f272f; --ink: #dbe3ea;
  --muted: #9aa8b4; --line: #2f3a44; --blue: #6fb4e0; --warn: #33291a; --warned: #f0b45a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 60rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { margin: 0 0 1.5rem; font-size: 1.75rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 0 0 .4rem; font-size: 1.2rem; }
section { padding: 1.75rem 0 1.5rem; border-top: 1px solid var(--line); }
section > p { max-width: 46rem; }
.how { margin: 0 0 1.1rem; color: var(--muted); }
.doubts { margin: 0 0 1.75rem; padding: 1rem 1.25rem; border: 0; border-left: 4px solid var(--warned);
  background: var(--warn); overflow-wrap: anywhere; }
.doubts h2 { color: var(--warned); }
.doubts ul { margin: 0; padding-left: 1.2rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; }
.tiles div { padding: .9rem 1rem; border-radius: 6px; background: var(--panel); }
.tiles b { display: block; font-size: 1.6rem; line-height: 1.2; color: var(--blue); }
.tiles span { color: var(--muted); font-size: .875rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.5rem; margin: 1.25rem 0; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; }
img { display: block; max-width: 100%; height: auto; }
picture { display: block; max-width: 28rem; }
.pair, .wide { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17.5rem), 1fr)); gap: 1.5rem; }
.discs { display: grid; grid-template-columns: 6.4fr 3.65fr; gap: 1rem; }
.discs picture { max-width: none; }
@media (max-width: 40rem) { .discs { grid-template-columns: 1fr; } .discs picture + picture { max-width: 62%; } }
figure { margin: 0; }
figcaption { margin-top: .5rem; color: var(--muted); font-size: .875rem; }
figcaption b { color: var(--ink); }
.panels { display: flex; }
.panels > div { display: flex; flex-direction: column; flex: none; }
.panels span { flex: 1; writing-mode: vertical-rl; rotate: 180deg; text-align: center; font-size: .75rem;
  color: var(--muted); }
.panels img { min-width: 0; align-self: start; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem 1.1rem .35rem 0; border-bottom: 1px solid var(--line); text-align: right; }
th { color: var(--muted); font-weight: 500; white-space: nowrap; }
code { font: .875em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
pre { margin: .5rem 0 1.25rem; padding: .8rem 1rem; border-radius: 6px; background: var(--panel);
  white-space: pre-wrap; }
@media print { body { padding: 0; max-width: none; font-size: 10pt; } h2, .how { break-after: avoid; }
  figure, picture, pre, .tiles, table { break-inside: avoid; }
  .tiles div, pre, .doubts { border: 1px solid var(--line); } }
"""


def page(title: str, doubts: Sequence[str], sections: Sequence[str]) -> str:
    """A whole page; title and doubts are text, sections HTML."""
    listed = "".join(f"<li>{escape(doubt)}</li>" for doubt in doubts)
    warned = f'<section class="doubts"><h2>What is doubted</h2><ul>{listed}</ul></section>\n' if doubts else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
{warned}{"".join(sections)}</body>
</html>
"""


def section(title: str, how: str, content: str) -> str:
    """A part of the page: its title and how to read it are text, its content HTML."""
    return f'<section>\n<h2>{escape(title)}</h2>\n<p class="how">{escape(how)}</p>\n{content}\n</section>\n'


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text, the first one the head."""
    head, *body = rows
    lines = [f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in body]
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'
