"""The template of a recipe and the page of its fields hold what is declared, all of it."""

import re
from pathlib import Path

import cryozoo
from cryozoo.imaging.simulate import Imaging
from cryozoo.particles.fields import describe
from cryozoo.particles.yaml_files import parse_yaml
from cryozoo.training.beginning import check_names
from cryozoo.training.data import Recorded, Simulated
from cryozoo.training.make_objective import make_objective
from cryozoo.training.objective import Supervised
from cryozoo.training.recipe import Recipe
from cryozoo.training.recipe_page import recipe_page, recipe_template
from cryozoo.zoo.encoder import create_encoder

KINDS = (Recipe, Simulated, Imaging, Recorded)


def test_the_template_is_a_recipe_with_every_field_once() -> None:
    template = recipe_template()
    recipe = Recipe.from_dict(parse_yaml(template, "template"))
    assert isinstance(recipe.data, Simulated)
    assert recipe.data.volume == "phantom:0"
    names = [facts.name for kind in KINDS for facts in describe(kind)]
    written = re.findall(r"^ *#?(\w+):(?: |$)", template, flags=re.MULTILINE)
    assert sorted(written) == sorted(set(names))
    words = " ".join(template.replace("#", " ").split())
    assert all(facts.explained in words for kind in (Recipe, Simulated, Imaging) for facts in describe(kind))


def test_what_the_template_comments_out_is_the_default() -> None:
    template = recipe_template()
    alone = {facts.name for facts in describe(Recorded)} - {facts.name for facts in describe(Simulated)}
    spelt = re.sub(rf"^( *)#(?!(?:{'|'.join(alone)}):)(\w+:)", r"\1\2", template, flags=re.MULTILINE)
    assert spelt.count("\n#") < template.count("\n#")
    assert Recipe.from_dict(parse_yaml(spelt, "spelt")) == Recipe.from_dict(parse_yaml(template, "template"))


def test_what_the_template_trains_can_be_made() -> None:
    recipe = Recipe.from_dict(parse_yaml(recipe_template(), "template"))
    check_names(recipe)
    encoder = create_encoder(recipe.encoder, image_size=recipe.image_size, shift=True)
    assert type(make_objective(recipe, encoder)) is Supervised


def test_the_page_is_what_is_declared() -> None:
    page = Path(cryozoo.__file__).parent / "docs/recipe.md"
    hint = "python -m cryozoo.training.recipe_page > docs/recipe.md"
    assert page.read_text() == recipe_page(), hint
    rows = re.findall(r"^\| `(\w+)` \| ", recipe_page(), flags=re.MULTILINE)
    assert rows == [facts.name for kind in KINDS for facts in describe(kind)]
