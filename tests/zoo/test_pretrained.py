"""Saving and loading: what comes back is what was saved, and the folder says truly what it is."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import safetensors.torch
import torch
from huggingface_hub import ModelCard

from cryozoo.geometry.pose import Pose
from cryozoo.particles.errors import BadInput, BadInputWarning
from cryozoo.training.recipe import Recipe
from cryozoo.zoo import entries
from cryozoo.zoo._model_card import model_card
from cryozoo.zoo.cost import multiply_accumulates
from cryozoo.zoo.encoder import create_encoder
from cryozoo.zoo.entries import get_entry, list_encoders
from cryozoo.zoo.entry import Entry, Licences, migrate
from cryozoo.zoo.pretrained import load_pretrained, save_pretrained
from cryozoo.zoo.registry import UnknownName

NAME = "test_vgg_gem-qcqp_bingham"
FILES = {"config.json", "model.safetensors", "golden.safetensors", "README.md"}


def make(name=NAME, *, seed=0, image_size=32, **args):
    """An encoder whose batch normalisations have seen images."""
    torch.manual_seed(seed)
    try:
        encoder = create_encoder(name, image_size=image_size, **args)
    except ImportError as missing:
        pytest.skip(str(missing))
    encoder.train()(torch.randn(8, encoder.config["in_chans"], image_size, image_size))
    return encoder.eval()


def load(folder):
    return load_pretrained(f"local-dir:{folder}")


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def assert_same(found, expected):
    """Bit for bit: weights, and poses of images that neither has seen."""
    torch.testing.assert_close(dict(found.state_dict()), dict(expected.state_dict()), rtol=0, atol=0)
    size = expected.preprocessing.image_size
    images = torch.randn(3, expected.config["in_chans"], size, size, generator=torch.Generator().manual_seed(99))
    with torch.no_grad():
        poses = found(images), expected(images)
    for name, a, b in zip(Pose._fields, *poses, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b), name


def test_round_trip(combination, tmp_path):
    """Every head on every backbone."""
    name, args = combination
    encoder = make(name, pixel_size=3.5, backbone_args=args, shift=True)
    save_pretrained(encoder, tmp_path / "encoder", tag="toy")
    loaded = load(tmp_path / "encoder")
    assert_same(loaded, encoder)
    assert not any(module.training for module in loaded.modules())
    assert {path.name for path in (tmp_path / "encoder").iterdir()} == FILES
    assert (loaded.name, loaded.preprocessing) == (name, encoder.preprocessing)
    assert loaded.entry.to_config() == config_of(tmp_path / "encoder")
    assert loaded.entry.source == f"local-dir:{tmp_path / 'encoder'}"
    assert (loaded.entry.tag, loaded.entry.shift) == ("toy", True)


def test_round_trip_with_arguments(tmp_path):
    args = {"backbone_args": {"width": 0.5, "pool": "avgmax", "stem": "none"}, "head_args": {"confidence": "max"}}
    encoder = make(in_chans=2, image_size=25, **args)
    save_pretrained(encoder, tmp_path)
    assert_same(load(tmp_path), encoder)
    assert config_of(tmp_path)["backbone_args"] == args["backbone_args"]


def test_round_trip_with_another_head(tmp_path):
    """with_head changes the configuration too: the folder rebuilds what was saved, not what it was made from."""
    encoder = make().with_head("nined_svd", shift=True).eval()
    save_pretrained(encoder, tmp_path)
    loaded = load(tmp_path)
    assert loaded.name == "test_vgg_gem-nined_svd"
    assert_same(loaded, encoder)


def test_a_second_trip_writes_the_same_bytes(tmp_path):
    encoder = make()
    save_pretrained(encoder, tmp_path / "a", metrics={"median_deg": 3.0})
    save_pretrained(load(tmp_path / "a"), tmp_path / "b", metrics={"median_deg": 3.0})
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_nothing_else_is_touched(tmp_path):
    """Neither the encoder's mode nor torch's random numbers, default type or gradients."""
    encoder = make().train()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    save_pretrained(encoder, tmp_path)
    loaded = load(tmp_path)
    assert torch.equal(torch.rand(3), expected)
    assert all(module.training for module in encoder.modules())
    torch.testing.assert_close(dict(encoder.state_dict()), before, rtol=0, atol=0)
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_float64_is_saved_as_float32(tmp_path):
    encoder = make()
    save_pretrained(make().double(), tmp_path)
    assert_same(load(tmp_path), encoder)


def test_half_the_size(tmp_path):
    """A tensor with a number that float16 does not have stays as it is."""
    encoder = make()
    with torch.no_grad():
        encoder.projection.bias[0] = 1e6
        encoder.projection.weight[0, 0] = 1e-7
    save_pretrained(encoder, tmp_path / "whole")
    save_pretrained(encoder, tmp_path / "half", half=True)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]
    found = load(tmp_path / "half")
    assert all(p.dtype == torch.float32 for p in found.parameters())
    state = encoder.train().state_dict()
    for name, tensor in found.train().state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=2**-10, atol=1e-6)
    assert not torch.equal(found.projection.weight, encoder.projection.weight)
    assert torch.equal(found.projection.bias, encoder.projection.bias)
    save_pretrained(found, tmp_path / "again", half=True)
    assert_same(load(tmp_path / "again"), found.eval())


def test_loads_in_float32_whatever_the_default(tmp_path):
    encoder = make()
    save_pretrained(encoder, tmp_path)
    torch.set_default_dtype(torch.float64)
    try:
        loaded = load(tmp_path)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same(loaded, encoder)


def test_a_device_can_be_chosen(tmp_path):
    save_pretrained(make(), tmp_path)
    assert load_pretrained(f"local-dir:{tmp_path}", device="meta").projection.weight.device.type == "meta"


def test_what_cannot_be_loaded_is_not_saved(tmp_path):
    broken = make()
    with torch.no_grad():
        broken.projection.bias[0] = float("nan")
    with pytest.raises(BadInput, match=r"model\.safetensors, tensor 'projection\.bias': holds NaN"):
        save_pretrained(broken, tmp_path / "nan")
    changed = make()
    changed.projection = torch.nn.Linear(32, 11)
    with pytest.raises(BadInput, match="field parameters"):
        save_pretrained(changed, tmp_path / "changed")
    with pytest.raises(BadInput, match="field tag"):
        save_pretrained(make(), tmp_path / "tag", tag="Toy 64")
    with pytest.raises(BadInput, match="field auto_map: names code"):
        save_pretrained(make(), tmp_path / "code", metrics={"auto_map": "a.b"})
    with pytest.raises(BadInput, match=r"field molecule\.symmetry"):
        save_pretrained(make(), tmp_path / "molecule", molecule={"name": "a", "source": "b"})
    assert not any(tmp_path.iterdir())


# What the folder says of itself.

RECIPE = {"encoder": NAME, "image_size": 32, "steps": 10}


@pytest.mark.parametrize(
    ("data", "molecule"),
    [
        ({"volume": "phantom:3"}, {"name": "phantom:3", "source": "phantom:3", "symmetry": "C1"}),
        ({"volume": "maps/5j0n.mrc"}, {"name": "5j0n", "source": "maps/5j0n.mrc", "symmetry": "C1"}),
        (
            {"particles": "/data/somebody/run_data.star", "symmetry": "D2"},
            {"name": "run_data", "source": "run_data.star", "symmetry": "D2"},
        ),
    ],
)
def test_the_molecule_is_the_recipes(tmp_path, data, molecule):
    recipe = Recipe.from_dict({**RECIPE, "data": data})
    save_pretrained(make(), tmp_path, recipe=recipe)
    config = config_of(tmp_path)
    assert config["molecule"] == molecule
    assert "somebody" not in "".join(path.read_text() for path in (tmp_path / "config.json", tmp_path / "README.md"))
    assert {**config["trained_with"], "data": None} == {**recipe.to_dict(), "data": None}
    assert load(tmp_path).entry.trained_with == config["trained_with"]


def test_licences_and_what_is_better_are_said(tmp_path, run):
    save_pretrained(make(), tmp_path, tag="toy")
    stated = {"licences": {"code": "BSD-3-Clause", "data": "CC0-1.0"}, "citation": "doi:10.1/2", "superseded_by": "b"}
    (tmp_path / "config.json").write_text(json.dumps({**config_of(tmp_path), **stated}))
    with pytest.warns(BadInputWarning, match=rf"config\.json: {NAME}\.toy is superseded by b"):
        entry = load(tmp_path).entry
    assert entry.licences == Licences("BSD-3-Clause", None, "CC0-1.0")
    assert Entry.from_config({**entry.to_config(), "source": entry.source}, "again") == entry
    assert "- data: CC0-1.0\n- please cite for the data: doi:10.1/2" in model_card(entry)
    said = run("info", tmp_path).out
    assert all(words in said for words in ("licence of data", "CC0-1.0", "doi:10.1/2", "superseded by"))
    for field, bad in (
        ("licences", {"data": "free\nfor all"}),
        ("licences", 3),
        ("citation", ""),
        ("superseded_by", 1),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config_of(tmp_path), field: bad}))
        with pytest.raises(BadInput, match=f"field {field}"):
            load(tmp_path)
        (tmp_path / "config.json").write_text(json.dumps({**config_of(tmp_path), **stated}))


def test_unknown_fields_are_kept(tmp_path):
    save_pretrained(make(), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config_of(tmp_path), "doi": {"a": ["10.1", None]}}))
    entry = load(tmp_path).entry
    assert entry.more == {"doi": {"a": ["10.1", None]}}
    assert entry.to_config() == config_of(tmp_path)


def test_the_first_format_still_loads(tmp_path):
    """Whose head was told of the shift; what is saved from it is of the format of today."""
    old, new = tmp_path / "old", tmp_path / "new"
    encoder = make(head_args={"confidence": "max"}, shift=True)
    save_pretrained(encoder, old, tag="toy")
    today = config_of(old)
    first = {**today, "format": "cryozoo-encoder-1", "head_args": {"confidence": "max", "shift": True}}
    del first["shift"]
    (old / "config.json").write_text(json.dumps(first))
    assert_same(load(old), encoder)
    save_pretrained(load(old), new, tag="toy")
    assert config_of(new) == today
    assert today["format"] == "cryozoo-encoder-2"
    assert (today["shift"], today["head_args"]) == (True, {"confidence": "max"})


def test_a_migration_says_what_it_changed():
    first = {"format": "cryozoo-encoder-1", "head_args": {"shift": True, "dim": 3}}
    second = {"format": "cryozoo-encoder-2", "head_args": {"dim": 3}, "shift": True}
    assert migrate(first, "config.json") == (second, ["head_args.shift is shift now"])
    assert first["head_args"] == {"shift": True, "dim": 3}
    assert migrate(second, "config.json") == (second, [])
    unshifted = {"format": "cryozoo-encoder-1", "head_args": {}}
    assert migrate(unshifted, "config.json")[0] == {"format": "cryozoo-encoder-2", "head_args": {}, "shift": False}


METRICS = {
    "n": 2048,
    "median_deg": 3.0518437,
    "mean_deg": 8.125,
    "acc_5": 0.71484375,
    "chance_median_deg": 126.9,
    "auroc_5deg": float("nan"),
    "steps": 1500,
    "cpu_s": 361.2,
    "seed": 7,
    "cryozoo": "0.1.0",
    "commit": "0123456789ab",
    "hardware": "a | b",
}
MOLECULE = {"name": "tubulin_like", "source": "PDB 5J0N", "symmetry": "C1"}


def test_the_card_says_what_was_measured(tmp_path):
    save_pretrained(make(), tmp_path, metrics=METRICS, tag="toy", molecule=MOLECULE)
    assert config_of(tmp_path)["metrics"] == {**METRICS, "auroc_5deg": None}  # JSON has no NaN
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "cryozoo"
    assert card.data.license == "bsd-3-clause"
    assert {"cryo-em", "test_vgg_gem", "qcqp_bingham"} <= set(card.data.tags)
    assert card.data.model_name == f"{NAME}.toy"
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found == {name: METRICS[name] for name in ("median_deg", "mean_deg", "acc_5")}
    assert {result.dataset_name for result in card.data.eval_results} == {"tubulin_like"}
    rows = dict(
        line.strip("| ").split(" | ", 1) for line in card.text.splitlines() if line.startswith("| ") and line != "| | |"
    )
    assert float(rows["median angular error (degrees)"]) == pytest.approx(METRICS["median_deg"], rel=1e-3)
    assert float(rows["share within 5 degrees"]) == pytest.approx(METRICS["acc_5"], rel=1e-3)
    assert float(rows["median of random guesses (degrees)"]) == METRICS["chance_median_deg"]
    assert rows["seed"] == "7"
    assert rows["hardware"] == r"a \| b"
    assert "nan" not in card.text.lower()
    assert r"**tubulin\_like** (PDB 5J0N, symmetry C1)" in card.text
    assert "For images of another molecule they mean nothing" in card.text
    parameters = sum(parameter.numel() for parameter in make().parameters())
    assert f"{parameters:,} parameters" in card.text
    assert config_of(tmp_path)["parameters"] == parameters


def test_a_card_without_numbers(tmp_path):
    save_pretrained(make(), tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.eval_results is None
    assert "molecule it was trained on is not recorded" in card.text


# The golden outputs.


def restate(folder, name, tensors):
    data = safetensors.torch.save(tensors)
    (folder / name).write_bytes(data)
    config = config_of(folder)
    config["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("where", ["backbone.blocks.0.weight", "backbone.pool.gem.raw_p", "projection.bias"])
def test_another_weight_under_a_right_checksum_is_found(tmp_path, where):
    save_pretrained(make(), tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    tensors[where].view(-1)[0] += 1
    restate(tmp_path, "model.safetensors", tensors)
    with pytest.raises(BadInput, match=r"golden\.safetensors, tensor 'raw': the encoder does not repeat"):
        load(tmp_path)


def test_rounding_is_forgiven(tmp_path):
    """As another processor would round."""
    save_pretrained(make(), tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    for tensor in tensors.values():
        if tensor.is_floating_point():
            tensor *= 1 + 1e-6
    restate(tmp_path, "model.safetensors", tensors)
    load(tmp_path)


def test_golden_outputs_are_the_encoders(tmp_path):
    encoder = make()
    save_pretrained(encoder, tmp_path)
    golden = safetensors.torch.load_file(tmp_path / "golden.safetensors")
    with torch.no_grad():
        pose = encoder(golden["images"])
    assert torch.equal(golden["raw"], pose.raw)
    assert torch.equal(golden["rotation"], pose.rotation)
    assert len(golden["images"].unique(dim=0)) == len(golden["images"]) > 1


# Writing: never half an encoder.


def test_an_encoder_is_not_overwritten_by_chance(tmp_path):
    save_pretrained(make(seed=1), tmp_path)
    content = {name: (tmp_path / name).read_bytes() for name in FILES}
    with pytest.raises(BadInput, match=r"exists already"):
        save_pretrained(make(seed=2), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == content
    save_pretrained(make(seed=2), tmp_path, overwrite=True)
    assert_same(load(tmp_path), make(seed=2))


def test_the_folder_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(BadInput, match="cannot be written to"):
            save_pretrained(make(), folder)


@pytest.mark.parametrize("step", range(4))
def test_a_kill_leaves_an_old_encoder_or_none(tmp_path, monkeypatch, step):
    save_pretrained(make(seed=1), tmp_path)
    new = make(seed=2)
    done = []
    replace = os.replace

    def dies(*paths):
        done.append(paths)
        if len(done) > step:
            raise KeyboardInterrupt
        replace(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            save_pretrained(new, tmp_path, overwrite=True)
    assert len(done) > step
    with pytest.raises(BadInput, match=r"has no config\.json"):
        load(tmp_path)
    save_pretrained(new, tmp_path, overwrite=True)  # and is no obstacle
    assert_same(load(tmp_path), new)
    assert {path.name for path in tmp_path.iterdir()} == FILES


@pytest.mark.parametrize("step", range(4))
def test_a_full_disk_leaves_the_old_encoder(tmp_path, monkeypatch, step):
    save_pretrained(make(seed=1), tmp_path)
    new = make(seed=2)
    done = []

    def full(handle):
        done.append(handle)
        if len(done) > step:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(BadInput, match="free some space"):
            save_pretrained(new, tmp_path, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert_same(load(tmp_path), make(seed=1))


# Names.


def add_entry(weights, encoder, tag, source="embedded"):
    """What is done to publish an encoder with the package."""
    name = f"{encoder.name}.{tag}"
    folder = weights.with_name(f"saved_{name}")
    save_pretrained(encoder, folder, tag=tag)
    if source == "embedded":
        for end in ("safetensors", "golden.safetensors"):
            shutil.copy(folder / ("model.safetensors" if end == "safetensors" else end), weights / f"{name}.{end}")
    (weights / f"{name}.json").write_text(json.dumps({**config_of(folder), "source": source}))
    return name


@pytest.fixture
def weights(tmp_path, monkeypatch):
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setattr(entries, "WEIGHTS", folder)
    return folder


def test_embedded_weights(weights):
    encoder = make()
    name = add_entry(weights, encoder, "toy_32")
    add_entry(weights, make("test_siamese_cnn-sixd_svd"), "toy_32")
    loaded = load_pretrained(name)
    assert_same(loaded, encoder)
    assert loaded.entry == get_entry(name)
    assert loaded.entry.source == "embedded"
    assert list_encoders(pretrained=True) == ["test_siamese_cnn-sixd_svd.toy_32", name]
    assert list_encoders("*siamese*", pretrained=True) == ["test_siamese_cnn-sixd_svd.toy_32"]


def test_a_damaged_embedded_file_is_named(weights):
    name = add_entry(weights, make(), "toy")
    (weights / f"{name}.golden.safetensors").write_bytes(b"")
    with pytest.raises(BadInput, match=r"toy\.golden\.safetensors: 0 bytes"):
        load_pretrained(name)
    (weights / f"{name}.safetensors").unlink()
    with pytest.raises(BadInput, match=r"has no test_vgg_gem-qcqp_bingham\.toy\.safetensors"):
        load_pretrained(name)


@pytest.mark.parametrize("source", [None, 3, "local-dir:/tmp", "https://example.org"])
def test_an_entry_with_a_bad_source(weights, source):
    name = add_entry(weights, make(), "toy", source)
    with pytest.raises(BadInput, match="field source"):
        load_pretrained(name)


def test_an_entry_under_another_name(weights):
    name = add_entry(weights, make(), "toy")
    (weights / f"{name}.json").rename(weights / f"{NAME}.better.json")
    with pytest.raises(BadInput, match=r"is the entry of 'test_vgg_gem-qcqp_bingham\.toy'"):
        load_pretrained(f"{NAME}.better")


@pytest.mark.parametrize("function", [load_pretrained, get_entry])
def test_names_that_are_not_there(weights, function):
    with pytest.raises(UnknownName, match=rf"no pretrained weights for '{NAME}'"):
        function(NAME)
    add_entry(weights, make(), "toy_32")
    add_entry(weights, make(), "toy_64")
    with pytest.raises(UnknownName, match=rf"'{NAME}' needs a tag, one of: {NAME}\.toy_32, {NAME}\.toy_64$"):
        function(NAME)
    with pytest.raises(UnknownName, match=rf"no pretrained encoder '{NAME}\.toy_23'; did you mean {NAME}\.toy_32"):
        function(f"{NAME}.toy_23")
    with pytest.raises(UnknownName, match="unknown backbone 'test_vgg_gen'; did you mean test_vgg_gem"):
        function("test_vgg_gen-qcqp_bingham")
    with pytest.raises(UnknownName, match="'vgg' is not an encoder name"):
        function("vgg")
    with pytest.raises(UnknownName, match=r"weights are asked for by backbone_args=\{'pretrained': 'a1_in1k'\}"):
        function("timm_resnet18.a1_in1k-sixd_svd")


@pytest.mark.parametrize("name", ["/data/vgg", "./vgg", "owner/repo", "~/vgg", "..", "model.pt", "C:\\vgg", "here"])
def test_a_path_needs_a_prefix(weights, monkeypatch, name):
    monkeypatch.chdir(weights)
    (weights / "here").mkdir()
    with pytest.raises(UnknownName) as caught:
        load_pretrained(name)
    assert f"local-dir:{name}" in str(caught.value)
    assert f"hf-hub:{name}@<commit>" in str(caught.value)


def test_a_folder_of_the_same_name_hides_no_entry(weights, monkeypatch):
    name = add_entry(weights, make(), "toy")
    monkeypatch.chdir(weights)
    (weights / name).mkdir()
    assert load_pretrained(name).name == NAME


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("hf-hub:owner/repo", None, "name one commit"),
        ("hf-hub:owner/repo@main", None, "revision='main'"),
        ("hf-hub:owner/repo@0123456", None, "40 digits"),
        (f"hf-hub:owner/repo@{COMMIT}", "main", "name one commit"),
        (f"hf-hub:repo@{COMMIT}", None, "names no repository"),
        (f"hf-hub:../repo@{COMMIT}", None, "names no repository"),
        (f"hf-hub:owner/repo/file@{COMMIT}", None, "names no repository"),
    ],
)
def test_a_repository_is_named_with_its_commit(name, revision, message):
    with pytest.raises(UnknownName, match=message):
        load_pretrained(name, revision=revision)


def test_only_repositories_have_revisions(tmp_path):
    with pytest.raises(ValueError, match="revision 'main' is for hf-hub"):
        load_pretrained(f"local-dir:{tmp_path}", revision="main")


# The entries that ship.

SHIPPED = sorted(path.stem for path in entries.WEIGHTS.glob("*.json"))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_entry(name, monkeypatch):
    """All that can be computed again is; the weights need no other library, and no network."""
    for module in ("escnn", "timm", "e3nn", "torchvision", "huggingface_hub.hf_api"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    entry = get_entry(name)
    encoder = load_pretrained(name)  # which compares files, shapes and golden outputs
    assert encoder.entry == entry
    assert entry.parameters == sum(p.numel() for p in encoder.parameters())
    gmacs = multiply_accumulates(encoder) / 1e9
    assert entry.metrics.get("gmacs", gmacs) == pytest.approx(gmacs, rel=1e-6)  # older runs did not count them
    assert entry.metrics["parameters"] == entry.parameters
    assert None not in (entry.molecule, entry.licences)
    monkeypatch.undo()
    assert (entries.WEIGHTS / f"{name}.md").read_text() == model_card(entry)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipe(name, data):
    """The recipe that made it is there, as it was; and so is the map, where there are data."""
    entry, path = get_entry(name), entries.WEIGHTS / "recipes" / f"{name}.yaml"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BadInputWarning)  # fields have moved since the first
        recipe = Recipe.load(path)
        assert Recipe.from_dict(dict(entry.trained_with)) == recipe
    encoder = load_pretrained(name)
    if encoder.frame_map is None:
        assert recipe.data.volume.startswith("phantom:")
        return
    if recipe.data.volume.startswith("aligned/"):
        pytest.skip("was turned to its axes first")
    data(recipe.data.volume)
    assert entry.metrics["data_sha256"] == recipe.data.digest()
    torch.testing.assert_close(encoder.frame_map.data, recipe.frame_map().data, rtol=0, atol=1e-3)


def test_everything_shipped_belongs_to_an_entry():
    ends = ("json", "safetensors", "golden.safetensors", "md", "mrc")
    found = {path.name for path in entries.WEIGHTS.iterdir() if path.suffix in (".safetensors", ".json", ".md", ".mrc")}
    assert found - {"README.md"} <= {f"{name}.{end}" for name in SHIPPED for end in ends}


# What is imported.


def run(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_listing_imports_no_torch():
    code = "import sys, cryozoo; names = cryozoo.list_encoders('test_*'); cryozoo.list_encoders(pretrained=True);"
    code += "cryozoo.get_entry; print(*names, *sys.modules)"
    printed = run(code)
    assert NAME in printed
    assert "cryozoo.zoo.entries" in printed
    assert {"torch", "numpy"}.isdisjoint(printed)


def test_loading_imports_only_what_it_needs(tmp_path):
    save_pretrained(make(), tmp_path)
    code = "import sys, cryozoo; print(cryozoo.load_pretrained('local-dir:' + sys.argv[1]).name, *sys.modules)"
    printed = run(code, tmp_path)
    assert printed[0] == NAME
    assert {"timm", "torchvision", "escnn", "e3nn", "pandas", "huggingface_hub"}.isdisjoint(printed)
    assert Path(entries.__file__).stem in [name.rpartition(".")[2] for name in printed]
