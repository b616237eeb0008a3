"""Suites, and the tables they make."""

from dataclasses import replace

import pytest

from cryozoo.benchmarks.runs import Result, load_results, markdown_table, spread
from cryozoo.benchmarks.suites import SUITES
from cryozoo.benchmarks.tables import _seconds_to
from cryozoo.training.data import Simulated
from cryozoo.training.recipe import Recipe
from cryozoo.zoo.encoder import create_encoder


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
        assert record.recipe.to_dict() == runs[record.run].to_dict()
        assert record.metrics["seed"] == record.recipe.seed
        assert record.metrics["commit"]


@pytest.mark.parametrize("name", SUITES)
def test_a_row_is_built_by_the_name_that_it_bears(name: str) -> None:
    """As many parameters as were measured, and no argument but those that change none."""
    built: dict[tuple[object, ...], int] = {}
    for result in load_results(name):
        recipe = result.recipe
        assert not recipe.backbone_args.keys() - {"dropout"}
        key = (recipe.encoder, recipe.image_size, recipe.shift)
        if key not in built:
            encoder = create_encoder(recipe.encoder, image_size=recipe.image_size, shift=recipe.shift)
            built[key] = sum(p.numel() for p in encoder.parameters())
        assert built[key] == result.metrics["parameters"], result.run
    assert built


def test_markdown_and_spread() -> None:
    assert markdown_table(["a", "b"], [["1", "2"]]) == "| a | b |\n|---|---:|\n| 1 | 2 |\n"
    assert spread([1.0]) == "1.00"
    assert spread([1.001, 1.002]) == "1.00"
    assert spread([1.0, 3.0], 1) == "2.0 (1.0 to 3.0)"


def test_seconds_to_an_accuracy_need_every_seed() -> None:
    recipe = Recipe("vgg_gem-sixd_svd", 32, Simulated("phantom:0"), 1, validate_every=500)
    one = Result("a", recipe, {}, [{"cpu_s": 10.0, "median_deg": 20.0}, {"cpu_s": 20.0, "median_deg": 9.0}])
    other = Result("b", recipe, {}, [{"cpu_s": 12.0, "median_deg": 14.0}, {"cpu_s": 24.0, "median_deg": 12.0}])
    assert _seconds_to([one], 15) == "20"
    assert _seconds_to([one, other], 15) == "16 (12 to 20)"
    assert _seconds_to([one, other], 10) == ""
    assert _seconds_to([replace(one, recipe=replace(recipe, validate_every=1000))], 15) == ""
