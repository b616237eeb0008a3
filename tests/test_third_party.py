"""A package of somebody else, installed with pip beside cryozoo, goes through everything in processes of its own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cryozoo.particles.errors import BadInput, BadInputWarning
from cryozoo.zoo import registry
from cryozoo.zoo.pretrained import load_pretrained

PACKAGE = Path(__file__).parent / "third_party"

TOUR = """
import sys, torch, cryozoo
from cryozoo.testing import check_backbone, check_head, check_loss
from cryozoo.zoo.registry import get_part

assert "plug_pool" in cryozoo.list_parts("backbone") and "plug_pool-plug_cross" in cryozoo.list_encoders("plug*")
assert str(get_part("head", "plug_cross").distribution) == "cryozoo-plug 1.2"
check_backbone(get_part("backbone", "plug_pool").load(), image_size=33, width=8)
check_head(get_part("head", "plug_cross").load()())
for symmetry in ("C1", "D2"):
    check_loss(cryozoo.create_loss("plug_cosine", symmetry=symmetry))

equivariant = cryozoo.create_encoder("test_d4_cnn-plug_cross", image_size=32, shift=True)
equivariant(torch.randn(8, 1, 32, 32))
cryozoo.testing.assert_equivariant(equivariant.eval())

recipe = {"encoder": "plug_pool-plug_cross", "image_size": 32, "pixel_size": 8.0, "loss": "plug_cosine", "steps": 4,
          "backbone_args": {"width": 8}, "validate_every": 2, "batch_size": 8}
recipe |= {"data": {"volume": "phantom:0", "held_out": 16}}
result = cryozoo.train(cryozoo.Recipe.from_dict(recipe), sys.argv[1])
assert 0 < result.metrics["median_deg"] < 180
cryozoo.save_pretrained(result.encoder, sys.argv[2])
encoder = cryozoo.load_pretrained("local-dir:" + sys.argv[2])
images = torch.randn(3, 1, 32, 32)
assert torch.equal(encoder(images).rotation, result.encoder(images).rotation)
print(encoder.predict(images[:, 0]).rotation.shape)
"""

TRAIN = """
import contextlib, io, json, sys
from unittest import mock
import plug
from cryozoo.cli.main import main

def fails(self, *args, **more):
    raise IndexError("out of range")

for number, (recipe, broken) in enumerate(json.loads(sys.argv[1])):  # torch is imported once for all of them
    breaking = contextlib.nullcontext()
    if broken:
        breaking = mock.patch.object(getattr(plug, broken[0]), broken[1], fails)
    with breaking, contextlib.redirect_stderr(io.StringIO()) as stderr, contextlib.redirect_stdout(io.StringIO()):
        try:
            main(["train", recipe, "--out", f"{sys.argv[2]}/{number}"])
        except SystemExit as stop:
            code = stop.code
    print(json.dumps([code, stderr.getvalue()]))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package installed into it, from a copy, because building leaves files beside the source."""
    folder = tmp_path_factory.mktemp("third_party")
    (folder / "source").mkdir()
    for name in ("pyproject.toml", "plug.py"):
        (folder / "source" / name).write_text((PACKAGE / name).read_text())
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", folder / "site", folder / "source"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def python(site: Path, code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def toured(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run and a saved encoder of the package."""
    folder = tmp_path_factory.mktemp("toured")
    done = python(site, TOUR, folder / "run", folder / "encoder")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(3, 3, 3)"
    return folder


def test_it_says_where_its_parts_came_from(toured: Path) -> None:
    for folder in ("encoder", "run/model"):
        parts = json.loads((toured / folder / "config.json").read_text())["parts"]
        package = {"distribution": "cryozoo-plug", "version": "1.2"}
        assert parts == {
            "backbone": {"name": "plug_pool", **package},
            "head": {"name": "plug_cross", **package},
        }


def test_without_the_package_an_encoder_says_what_to_install(toured: Path) -> None:
    with pytest.raises(BadInput, match=r"unknown backbone 'plug_pool'.* pip install cryozoo-plug==1\.2") as error:
        load_pretrained(f"local-dir:{toured / 'encoder'}")
    assert "config.json, field name" in str(error.value)


def test_a_part_of_the_same_name_from_elsewhere_is_reported(
    site: Path, toured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_PARTS", {kind: dict(table) for kind, table in registry._PARTS.items()})
    monkeypatch.syspath_prepend(site)
    registry.register_head("plug_cross", "plug:Cross")
    registry.register_backbone("plug_pool", "cryozoo.models.vgg:vgg_gem")
    warns = pytest.warns(BadInputWarning, match="plug_pool came with cryozoo-plug==1.2, and here it is from cryozoo ")
    with warns, pytest.raises(BadInput, match="backbone_args"):  # the weights are another network's
        load_pretrained(f"local-dir:{toured / 'encoder'}")


def trainings(site: Path, folder: Path, asked: list[tuple[Path, list[str] | None]]) -> list[tuple[int, str]]:
    """Exit code and standard error of ``cryozoo train`` by each recipe, with a method that fails, or without."""
    done = python(site, TRAIN, json.dumps([(str(recipe), broken) for recipe, broken in asked]), folder)
    assert done.returncode == 0, done.stderr
    return [(code, stderr) for code, stderr in map(json.loads, done.stdout.splitlines())]


def test_its_failures_in_training_are_its_own(site: Path, toured: Path, tmp_path: Path) -> None:
    expected = {
        "Pool.__init__": "backbone 'plug_pool'",
        "Pool.forward": "backbone 'plug_pool'",
        "Cross.rotation": "head 'plug_cross'",
        "Cross.representation": None,  # which only equivariant backbones ask for
        "Cosine.__init__": "loss 'plug_cosine'",
        "Cosine.compare": "loss 'plug_cosine'",
    }
    recipe = toured / "run" / "recipe.json"
    found = trainings(site, tmp_path, [(recipe, method.split(".")) for method in expected])
    why = "(from the package cryozoo-plug 1.2): IndexError: out of range (--debug shows where)"
    assert found == [(1, f"error: {whose} {why}\n") if whose else (0, "") for whose in expected.values()]


def test_its_failures_in_prediction_are_its_own(site: Path, toured: Path) -> None:
    code = """
import sys, torch, plug, cryozoo
encoder = cryozoo.load_pretrained("local-dir:" + sys.argv[1])
del plug.Pool.forward
encoder.predict(torch.randn(2, 32, 32))
"""
    error = python(site, code, toured / "encoder").stderr.splitlines()[-1]
    assert "PartError: backbone 'plug_pool' (from the package cryozoo-plug 1.2): NotImplementedError" in error


def test_what_a_recipe_asks_of_it_in_vain(site: Path, toured: Path, tmp_path: Path) -> None:
    expected: list[tuple[dict[str, object], str]] = [
        ({"backbone_args": {"depth": 3}}, "field backbone_args: backbone plug_pool: .*'depth'.*its arguments: width"),
        ({"backbone_args": {"width": 0}}, "field backbone_args: backbone plug_pool: width 0, expected at least 1"),
        ({"head_args": {"lmax": 3}}, "field head_args: head plug_cross: .*'lmax'.*its arguments: none"),
        ({"loss_args": {"foo": 3}}, "field loss_args: loss plug_cosine: .*'foo'.*its arguments: symmetry"),
        ({"encoder": "plug_pol-plug_cross"}, "field encoder: unknown backbone 'plug_pol'; did you mean plug_pool"),
        ({"encoder": "plug_pool-plug_cros"}, "field encoder: unknown head 'plug_cros'; did you mean plug_cross"),
        ({"encoder": "plug_pool-plug_cross.mine"}, "field encoder: 'plug_pool-plug_cross.mine' names pretrained"),
        ({"loss": "plug_cosin"}, "field loss: unknown loss 'plug_cosin'; did you mean plug_cosine"),
        ({"loss": "so3_nll"}, "fields encoder and loss: SO3NLL: needs the 35"),
    ]
    recipe = json.loads((toured / "run" / "recipe.json").read_text())
    recipes = [tmp_path / f"{number}.json" for number in range(len(expected))]
    for path, (change, _) in zip(recipes, expected, strict=True):
        path.write_text(json.dumps({**recipe, **change}))
    found = trainings(site, tmp_path / "run", [(path, None) for path in recipes])
    for path, (_, says), (code, stderr) in zip(recipes, expected, found, strict=True):
        assert code == 3
        assert re.search(rf"^error: {re.escape(str(path))}, {says}", stderr)
