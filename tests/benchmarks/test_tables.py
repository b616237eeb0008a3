"""Suites, and the tables they make."""

from pathlib import Path

import pytest

from cryozoo.benchmarks.readme import with_tables
from cryozoo.benchmarks.runs import RESULTS, load_results, markdown_table, spread
from cryozoo.benchmarks.suites import SUITES
from cryozoo.benchmarks.tables import _seconds_to
from cryozoo.training.recipe import Recipe


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_has_a_question_and_valid_recipes(name: str) -> None:
    runs = SUITES[name]()
    assert (SUITES[name].__doc__ or "").strip()
    assert runs
    for recipe in runs.values():
        assert Recipe.from_dict(recipe.to_dict()).to_dict() == recipe.to_dict()


@pytest.mark.parametrize("name", SUITES)
def test_results_belong_to_the_suites_recipes(name: str) -> None:
    """A result whose recipe is not (or no longer) that of its run would put a wrong number under a right name."""
    runs = SUITES[name]()
    for record in load_results(name):
        assert record["recipe"] == runs[record["run"]].to_dict()
        assert record["metrics"]["seed"] == record["recipe"]["seed"]
        assert record["metrics"]["commit"]


def test_the_readme_shows_the_results_as_they_are() -> None:
    readme = (RESULTS.parents[1] / "README.md").read_text()
    assert with_tables(readme) == readme


def test_sections_are_filled_and_refilled(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("| table |\n")
    text = "x\n<!-- begin results/a.md -->\nold\n<!-- end results/a.md -->\ny\n"
    filled = with_tables(text, tmp_path)
    assert filled == "x\n<!-- begin results/a.md -->\n\n| table |\n\n<!-- end results/a.md -->\ny\n"
    assert with_tables(filled, tmp_path) == filled


def test_markdown_and_spread() -> None:
    assert markdown_table(["a", "b"], [["1", "2"]]) == "| a | b |\n|---|---:|\n| 1 | 2 |\n"
    assert spread([1.0]) == "1.00"
    assert spread([1.001, 1.002]) == "1.00"
    assert spread([1.0, 3.0], 1) == "2.0 (1.0 to 3.0)"


def test_seconds_to_an_accuracy_need_every_seed() -> None:
    often = {"validate_every": 500}
    one = {"recipe": often, "history": [{"cpu_s": 10.0, "median_deg": 20.0}, {"cpu_s": 20.0, "median_deg": 9.0}]}
    other = {"recipe": often, "history": [{"cpu_s": 12.0, "median_deg": 14.0}, {"cpu_s": 24.0, "median_deg": 12.0}]}
    assert _seconds_to([one], 15) == "20"
    assert _seconds_to([one, other], 15) == "16 (12 to 20)"
    assert _seconds_to([one, other], 10) == ""
    assert _seconds_to([{**one, "recipe": {"validate_every": 1000}}], 15) == ""
