"""All fields of a recipe, in print: a file to fill in, and the page ``docs/recipe.md``.

``python -m cryozoo.training.recipe_page > docs/recipe.md`` writes the latter.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from ..imaging.simulate import Imaging
from ..particles.fields import FieldFacts, describe
from .data import Recorded, Simulated
from .recipe import Recipe

_TEMPLATE = """\
# A recipe for `cryozoo train`. It runs as it is, on a phantom: put in your map, and what your images are like.
# A field with # before its name is at its default, which it need not say.
"""

_PAGE = """\
# Fields of a recipe

What may stand in the file that `cryozoo train` takes. `cryozoo train --template` prints a recipe with all of it, to
fill in; `--set KEY=VALUE` replaces a field. This page is made of the declarations in the code, by
`python -m cryozoo.training.recipe_page`.
"""

_SECTIONS = {
    "The recipe": Recipe,
    "`data`: particles simulated from a volume": Simulated,
    "`data`: how they are imaged": Imaging,
    "`data`: particles on disk, in place of a volume": Recorded,
}


def recipe_template() -> str:
    """A recipe as YAML, every field once and explained: those with an example have it, others are commented out."""
    simulated = [*describe(Simulated), *describe(Imaging)]
    known = {facts.name for facts in simulated}
    recorded = [facts for facts in describe(Recorded) if facts.name not in known]
    data = [*_field_lines(simulated), "", "# particles on disk, in place of a volume", *_field_lines(recorded)]
    lines: list[str] = []
    for facts in describe(Recipe):
        lines += _field_lines([facts])
        if facts.name == "data":
            lines += [*(f"  {line}".rstrip() for line in data), ""]
    return "\n".join([_TEMPLATE, *lines, ""])


def recipe_page() -> str:
    """The fields as Markdown tables."""
    return "\n".join([_PAGE, *(f"## {title}\n\n{_table(describe(kind))}" for title, kind in _SECTIONS.items())])


def _field_lines(fields: Iterable[FieldFacts]) -> Iterator[str]:
    for facts in fields:
        yield from textwrap.wrap(facts.explained, 100, initial_indent="# ", subsequent_indent="#   ")
        hidden, value = ("#", facts.default) if facts.example is None else ("", facts.example)
        yield f"{hidden}{facts.name}: {value or ''}".rstrip()


def _table(fields: Iterable[FieldFacts]) -> str:
    rows = [("field", "meaning", "expected", "default"), ("---",) * 4]
    for facts in fields:
        default = "must be given" if facts.default is None else f"`{facts.default}`" if facts.default else "nothing"
        rows.append((f"`{facts.name}`", facts.meaning, facts.expected, default))
    return "".join(
        f"| {' | '.join(cell.replace('<', '&lt;').replace('|', '&#124;') for cell in row)} |\n" for row in rows
    )


if __name__ == "__main__":
    print(recipe_page(), end="")
