"""The pages show the results as they are, and lead nowhere that is not there."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from cryozoo.benchmarks.pages import pages, with_tables
from cryozoo.benchmarks.runs import RESULTS
from cryozoo.benchmarks.tables import encoder_table

ROOT = RESULTS.parents[1]
_LINK = re.compile(r"\]\((?!https?:)(?P<target>[^)#\s]+)")


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_show_the_results_as_they_are(page: Path) -> None:
    assert with_tables(page.read_text()) == page.read_text()


def test_every_table_is_on_a_page() -> None:
    shown = {name for page in pages() for name in re.findall(r"begin results/([\w.]+) -->", page.read_text())}
    assert shown == {path.name for path in RESULTS.glob("*.md")}


def test_links_lead_to_files() -> None:
    written = [*pages(), *ROOT.glob("*/README.md"), ROOT / "docs" / "glossary.md", ROOT / "benchmarks/gpu/README.md"]
    broken = {
        f"{page.relative_to(ROOT)}: {target}"
        for page in written
        for target in _LINK.findall(page.read_text())
        if not (page.parent / target).exists()
    }
    assert broken == set()


def test_the_table_of_the_readme_is_that_of_the_results(data: Callable[[str], Path]) -> None:
    data("maps/clean70S_ecoli_65.mrc")
    assert encoder_table() == (RESULTS / "encoders.md").read_text()
    assert len((RESULTS / "encoders.md").read_text().splitlines()[0].split("|")) - 2 <= 6


def test_sections_are_filled_and_refilled(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("| table |\n")
    text = "x\n<!-- begin results/a.md -->\nold\n<!-- end results/a.md -->\ny\n"
    filled = with_tables(text, tmp_path)
    assert filled == "x\n<!-- begin results/a.md -->\n\n| table |\n\n<!-- end results/a.md -->\ny\n"
    assert with_tables(filled, tmp_path) == filled
