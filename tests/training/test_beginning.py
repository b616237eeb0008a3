"""Weights to begin with: those of a saved encoder of the same name and arguments, and none else."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from cryozoo.imaging.simulate import Imaging
from cryozoo.particles.errors import BadInput
from cryozoo.training.data import Simulated
from cryozoo.training.make_objective import make_objective
from cryozoo.training.recipe import Recipe
from cryozoo.training.trainer import _Trainer, train
from cryozoo.zoo.encoder import create_encoder
from cryozoo.zoo.pretrained import load_pretrained, save_pretrained

DATA = Simulated("phantom:0", Imaging(snr=2.0), held_out=16)


def recipe_from(folder: Path, name: str = "test_vgg_gem-sixd_svd") -> Recipe:
    return Recipe(name, 32, DATA, steps=4, batch_size=8, validate_every=2, pixel_size=8.0, init=f"local-dir:{folder}")


def start(folder: Path, name: str = "test_vgg_gem-sixd_svd", **changes: Any) -> Path:
    """The folder of an encoder with random weights, saved."""
    torch.manual_seed(7)
    arguments: dict[str, Any] = {"image_size": 32, "pixel_size": 8.0, "shift": True, **changes}
    save_pretrained(create_encoder(name, **arguments), folder)
    return folder


@pytest.mark.parametrize("name", ["test_vgg_gem-sixd_svd", "test_d4_cnn-sixd_svd"])
def test_training_begins_with_them(name: str, tmp_path: Path) -> None:
    recipe = recipe_from(start(tmp_path / "start", name), name)
    begun = load_pretrained(str(recipe.init)).train().state_dict()
    mine = _Trainer(recipe, None, None, False, False, make_objective).encoder.state_dict()
    assert mine.keys() == begun.keys()
    assert all(torch.equal(mine[name], begun[name]) for name in mine)


def test_they_travel_with_what_was_made_of_them(tmp_path: Path) -> None:
    """And a run that goes on needs them no more."""
    recipe = recipe_from(start(tmp_path / "start"))
    metrics = train(recipe, tmp_path / "run").metrics
    (tmp_path / "start").rename(tmp_path / "gone")
    again = train(dataclasses.replace(recipe, steps=6), tmp_path / "run").metrics
    source = load_pretrained(f"local-dir:{tmp_path / 'gone'}").entry
    entry = load_pretrained(f"local-dir:{tmp_path / 'run/model'}").entry
    assert source is not None
    assert entry is not None
    digest = source.files["model.safetensors"].sha256[:12]
    assert metrics["begun_from"] == again["begun_from"] == f"test_vgg_gem-sixd_svd, sha256 {digest}"
    assert entry.metrics["begun_from"] == metrics["begun_from"]
    assert entry.trained_with is not None
    assert entry.trained_with["init"] == "local-dir:start", "of somebody's folders nothing but the name"
    with pytest.raises(BadInput, match="differs in init"):
        train(dataclasses.replace(recipe, init=None), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "test_vgg_gem-sixd_gs"}, "has name test_vgg_gem-sixd_gs; expected test_vgg_gem-sixd_svd"),
        ({"shift": False}, "has shift False; expected True"),
        ({"image_size": 48}, "has image_size 48; expected 32"),
        ({"backbone_args": {"dropout": 0.5}}, r"has backbone_args \{'dropout': 0.5\}; expected \{\}"),
        ({"pixel_size": 4.0}, "has pixel_size 4.0; expected 8.0"),
    ],
)
def test_another_encoder_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    recipe = recipe_from(start(tmp_path / "start", **changes))
    with pytest.raises(BadInput, match=f"recipe, field init: local-dir:.*/start {message}, as what is to be trained"):
        train(recipe)


@pytest.mark.parametrize("name", ["test_vgg_gem-sixd_svd", "test_d4_cnn-sixd_svd"])
@pytest.mark.parametrize("backbone_lr", [0.0, 0.1])
def test_a_backbone_alone(name: str, backbone_lr: float, tmp_path: Path) -> None:
    """Under another head, of other pixels; frozen it stays as it is, statistics too."""
    folder = start(tmp_path / "start", name, pixel_size=4.0, image_size=48 if "vgg" in name else 32)
    begun = load_pretrained(f"local-dir:{folder}").train().state_dict()
    backbone, _ = name.split("-")
    recipe = dataclasses.replace(
        recipe_from(folder, f"{backbone}-quaternion"), init_part="backbone", backbone_lr=backbone_lr
    )
    mine = _Trainer(recipe, None, None, False, False, make_objective).encoder.state_dict()
    ours = [key for key in mine if key.startswith("backbone.")]
    assert all(torch.equal(mine[key], begun[key]) for key in ours)
    whole = train(recipe, tmp_path / "whole")
    trained = whole.encoder.train().state_dict()
    kept = [torch.equal(trained[key], begun[key]) for key in ours]
    assert all(kept) == (backbone_lr == 0)
    assert whole.metrics["begun_from"].startswith(f"backbone of {name}, sha256 ")
    assert any(not torch.equal(trained[key], mine[key]) for key in mine.keys() - set(ours))


def test_a_smaller_rate_moves_the_backbone_less(tmp_path: Path) -> None:
    recipe = dataclasses.replace(recipe_from(start(tmp_path / "start")), steps=1)
    begun = load_pretrained(f"local-dir:{tmp_path / 'start'}").get_submodule("backbone")

    def moved(backbone_lr: float) -> float:
        made = train(dataclasses.replace(recipe, backbone_lr=backbone_lr)).encoder.get_submodule("backbone")
        pairs = zip(made.parameters(), begun.parameters(), strict=True)
        return sum(float((a - b).detach().norm()) for a, b in pairs)

    assert moved(0.1) == pytest.approx(0.1 * moved(1.0), rel=0.05)


def test_a_backbone_for_images_of_one_size_is_refused(tmp_path: Path) -> None:
    folder = start(tmp_path / "start", "test_d4_cnn-sixd_svd", image_size=48)
    recipe = dataclasses.replace(recipe_from(folder, "test_d4_cnn-sixd_svd"), init_part="backbone")
    with pytest.raises(BadInput, match="start is for images of 48 pixels; expected 32"):
        train(recipe)


def test_another_backbone_is_refused(tmp_path: Path) -> None:
    recipe = dataclasses.replace(recipe_from(start(tmp_path / "start"), "test_d4_cnn-sixd_svd"), init_part="backbone")
    with pytest.raises(BadInput, match=r"field init: .*/start has backbone test_vgg_gem; expected test_d4_cnn"):
        train(recipe)


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("nosuch/model", "recipe, field init: .*local-dir:nosuch/model is a folder"),
        ("local-dir:nosuch", "nosuch: is not a folder"),
        (
            5,
            "recipe, field init: 5; expected a pretrained encoder of the same name and arguments, or nothing",
        ),
    ],
)
def test_what_is_none_is_refused_before_data_is_read(
    init: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Simulated, "open", lambda *_: pytest.fail("worked before it looked"))
    with pytest.raises(BadInput, match=message):
        train(dataclasses.replace(recipe_from(tmp_path), init=init))
