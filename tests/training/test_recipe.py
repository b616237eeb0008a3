"""Recipes: what is refused and in which words, and what earlier versions wrote."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cryozoo.imaging.simulate import Imaging
from cryozoo.particles.errors import BadInput, BadInputWarning
from cryozoo.training.data import Recorded, Simulated, data_from_plain
from cryozoo.training.migrations import migrated
from cryozoo.training.recipe import Recipe

GOOD: dict[str, Any] = {
    "encoder": "test_vgg_gem-sixd_svd",
    "image_size": 32,
    "steps": 10,
    "data": {"volume": "phantom:0", "snr": 0.5},
}
MISSING = object()


def written(tmp_path: Path, changes: dict[str, Any]) -> Path:
    """A recipe file with some fields changed; ``data.x`` is the field x of data."""
    recipe: dict[str, Any] = {**GOOD, "data": dict(GOOD["data"])}
    for name, value in changes.items():
        place, key = (recipe["data"], name.removeprefix("data.")) if name.startswith("data.") else (recipe, name)
        if value is MISSING:
            del place[key]
        else:
            place[key] = value
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


COUNT = "a whole number from 2 to 1,000,000,000"
SHARES = "the shares of training and validation, together below 1"
DEFOCUS = (
    "[lowest, highest] in Angstrom, 100 to 100,000 and underfocus positive (1.5 micrometres are 15,000), or nothing "
    "for no CTF"
)
SOURCE = "names and values: a volume or particles, and how they are used"
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"encoder": MISSING}, ", field encoder: missing; expected <backbone>-<head>"),
    ({"steps": MISSING}, ", field steps: missing; expected a whole number from 1 to 1,000,000,000"),
    (
        {"data": MISSING},
        f", field data: missing; expected {SOURCE}",
    ),
    (
        {"data": "phantom:0"},
        f", field data: 'phantom:0'; expected {SOURCE}",
    ),
    ({"data.volume": MISSING}, ", field data: neither volume nor particles; expected one of the two, to train on"),
    ({"data.particles": "a.star"}, ", field data: both volume and particles; expected one of the two, to train on"),
    ({"data.volume": 5}, ", field data.volume: 5; expected a map, an atomic model or phantom:SEED"),
    (
        {"data.defocus": 1.5},
        f", field data.defocus: 1.5; expected {DEFOCUS}",
    ),
    (
        {"data.defocus": [30000, 10000]},
        f", field data.defocus: (30000, 10000); expected {DEFOCUS}",
    ),
    ({"data.imagess": 100}, ": unknown field data.imagess; expected images, perhaps"),
    (
        {"data.images": 1},
        f", field data.images: 1; expected {COUNT}, or nothing for new ones at every step",
    ),
    ({"data.split": [0.5, 0.2]}, ", field data.split: split without images; give data.images, too"),
    (
        {"data.images": 90, "data.split": [0.5, 0.6]},
        f", field data.split: (0.5, 0.6); expected {SHARES}",
    ),
    (
        {"data.images": 90, "data.split": 0.5},
        f", field data.split: 0.5; expected {SHARES}",
    ),
    (
        {"data.images": 90, "data.held_out": 50},
        ", field data.held_out: held_out with images; the split of a fixed set says what is held out",
    ),
    (
        {"data.snr": "0.5"},
        ", field data.snr: '0.5'; expected a number above 0 or [lowest, highest], or nothing for no noise",
    ),
    ({"data.snr": 0}, ", field data.snr: 0; expected a number above 0 or [lowest, highest], or nothing for no noise"),
    (
        {"data.symmetry": "Q9"},
        ", field data.symmetry: 'Q9'; expected a point group: Cn, Dn, T, O or I, such as C1 or D7",
    ),
    (
        {"data.augment": "rotate"},
        ", field data.augment: 'rotate' without a fixed set; give data.images, or augment none",
    ),
    (
        {"data.images": 90, "data.augment": "turn"},
        ", field data.augment: 'turn'; expected one of none, d4, rotate, simulate",
    ),
    (
        {"data.snr": None, "data.junk": 0.1},
        ", field data.junk: junk without noise; give data.snr, too",
    ),
    (
        {"data.snr": None, "data.noise_ramp": 10},
        ", field data.noise_ramp: noise_ramp without noise; give data.snr, too",
    ),
    (
        {"data.images": 90, "data.noise_ramp": 10},
        ", field data.noise_ramp: noise_ramp for a fixed set; augment simulate makes new ones at every step",
    ),
    ({"optimiser": "adam"}, ": unknown field optimiser; expected optimizer, perhaps"),
    ({"lr": "fast"}, ", field lr: 'fast'; expected a number above 0 and below 10"),
    ({"lr": float("nan")}, ", field lr: nan; expected a number above 0 and below 10"),
    ({"batch_size": 1}, ", field batch_size: 1; expected a whole number from 2 to 1,000,000,000"),
    ({"betas": [0.9, 1.0]}, ", field betas: (0.9, 1.0); expected two numbers from 0 to below 1"),
    ({"schedule": "linear"}, ", field schedule: 'linear'; expected one of cosine, onecycle"),
    ({"seed": 256}, ", field seed: 256; expected a whole number from 0 to 255"),
    ({"shift": "yes"}, ", field shift: 'yes'; expected true or false"),
    ({"head_args": {"shift": True}}, ", field head_args: shift is not set here; shift is a field of its own"),
    ({"backbone_args": [1]}, ", field backbone_args: (1,); expected names and values"),
]


@pytest.mark.parametrize(("changes", "answer"), MISTAKES, ids=[str(list(changes)) for changes, _ in MISTAKES])
def test_a_mistake_has_a_one_line_answer(changes: dict[str, Any], answer: str, tmp_path: Path) -> None:
    """It names file, field, what was found and what would do."""
    path = written(tmp_path, changes)
    with pytest.raises(BadInput) as refused:
        Recipe.load(path)
    assert str(refused.value) == f"{path}{answer}"


@pytest.mark.parametrize("field", ["snr", "images", "held_out", "volumes"])
def test_fields_of_simulation_do_not_suit_particles_on_disk(field: str) -> None:
    with pytest.raises(BadInput, match=f"recipe: unknown field data.{field}; expected "):
        data_from_plain({"particles": "a.star", field: 1})


def test_plain_data_and_back(tmp_path: Path) -> None:
    recipe = Recipe.load(written(tmp_path, {"lr": 1e-3, "data.defocus": [1e4, 3e4], "data.images": 90}))
    assert recipe.data == Simulated("phantom:0", Imaging(snr=0.5, defocus=(1e4, 3e4)), images=90)
    plain = recipe.to_dict()
    assert plain["data"] == {"volume": "phantom:0", "snr": 0.5, "defocus": [1e4, 3e4], "images": 90}
    assert Recipe.from_dict(plain) == recipe
    assert data_from_plain({"particles": "a.star", "split": [0.8, 0.1]}) == Recorded("a.star", split=(0.8, 0.1))


def test_exponents_in_yaml_are_numbers(tmp_path: Path) -> None:
    path = written(tmp_path, {"lr": "1e-3"})
    path.write_text(path.read_text().replace("'1e-3'", "1e-3"))
    assert "lr: 1e-3\n" in path.read_text()
    assert Recipe.load(path).lr == 1e-3


def test_recipes_of_the_first_stage_load_and_say_what_changed(tmp_path: Path) -> None:
    shift = {"pairs": "all", "shift_weight": 0.5, "shift_scale": 10.0}
    old = {"augment": "d4", "data.images": 90, "loss": "siamese_distance", "loss_args": shift}
    with pytest.warns(BadInputWarning) as said:
        recipe = Recipe.load(written(tmp_path, old))
    assert [str(warning.message).partition(": ")[2] for warning in said] == [
        "augment is data.augment now",
        "loss_args.shift_weight is shift_weight now",
        "loss_args.shift_scale is shift_scale now",
    ]
    assert isinstance(recipe.data, Simulated)
    assert recipe.data.augment == "d4"
    assert (recipe.shift_weight, recipe.shift_scale, recipe.loss_args) == (0.5, 10.0, {"pairs": "all"})
    assert migrated(recipe.to_dict()) == (recipe.to_dict(), [])


def test_fields_are_in_the_docstring() -> None:
    assert "lr: peak learning rate (a number above 0 and below 10; by default 0.001)." in (Recipe.__doc__ or "")
    assert "source: the file it came from" in (Recipe.__doc__ or "")


def test_a_range_of_snr_and_flipped_phases():
    data = {
        "volume": "phantom:0",
        "snr": [0.05, 2.0],
        "noise_slope": 1.0,
        "defocus": [8000, 20000],
        "ctf": "phase_flip",
    }
    recipe = Recipe.from_dict({"encoder": "vgg_gem_xs-sixd_svd", "image_size": 32, "steps": 1, "data": data})
    assert recipe.data.imaging.snr_range == (0.05, 2.0)
    assert recipe.to_dict()["data"] == data
    opened = recipe.data.open(32, 8.0, torch.device("cpu"), 0)
    assert opened.preprocessing.ctf == "phase_flip"
    assert opened.batch(0, 3).images.isfinite().all()
