"""Entering a result: what is claimed is made again, and what strangers write is never followed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cryozoo import save_pretrained
from cryozoo.benchmarks import task
from cryozoo.benchmarks.design import Design
from cryozoo.benchmarks.harness import run as run_design
from cryozoo.benchmarks.leaderboard import tables
from cryozoo.benchmarks.store import MODEL, PREDICTIONS, RESULT, Result, Store
from cryozoo.benchmarks.submission import grant, submit, verify_result
from cryozoo.benchmarks.task import Task
from cryozoo.particles.errors import BadInput, BadInputWarning
from cryozoo.zoo.pretrained import load_pretrained

PLAIN = {
    "title": "A phantom",
    "image_size": 32,
    "data": {"volume": "phantom:0", "snr": 1.0, "shift_sigma": 4.0, "held_out": 20},
    "pixel_size": 10.0,
}
DESIGN = Design("test_vgg_gem-sixd_svd", "chordal", training={"batch_size": 4})


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("done")
    run_design(Task.from_dict(PLAIN, "ours"), DESIGN, 0, folder, steps=3)
    return folder


@pytest.fixture
def ours(tmp_path, monkeypatch) -> None:
    """The task is one of those that are here."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "ours.yaml").write_text(json.dumps(PLAIN))
    monkeypatch.setattr(task, "TASKS", tmp_path / "tasks")


@pytest.fixture
def place(done, tmp_path) -> Path:
    """A copy of the result, to be changed."""
    return Path(shutil.copytree(done, tmp_path / "result"))


def changed(place: Path, change) -> Path:
    plain = json.loads((place / RESULT).read_text())
    change(plain)
    (place / RESULT).write_text(json.dumps(plain))
    return place


def test_weights_that_repeat_the_predictions_are_verified(ours, place):
    assert verify_result(place) == "verified"
    shutil.rmtree(place / MODEL)
    assert verify_result(place) == "predictions checked"


def test_a_task_that_nobody_knows_is_claimed(place):
    assert verify_result(place) == "claimed"


def test_an_easier_task_of_the_same_name_is_claimed_only(ours, place):
    changed(place, lambda plain: plain["task"].update(budget=9000.0))
    assert verify_result(place) == "claimed"


def test_weights_that_say_otherwise_are_refused(ours, place):
    encoder = load_pretrained(f"local-dir:{place / MODEL}")
    with torch.no_grad():
        encoder.get_parameter("projection.weight").add_(1)
    save_pretrained(encoder, place / MODEL, overwrite=True)
    with pytest.raises(BadInput, match="degrees off the predictions"):
        verify_result(place)


def test_better_numbers_than_predictions_give_are_refused(ours, place):
    changed(place, lambda plain: plain["metrics"].update(median_deg=1.0))
    with pytest.raises(BadInput, match=r"median_deg 1\.0, and its predictions give"):
        verify_result(place)


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain["task"].update(name="../../escape"),
        lambda plain: plain["task"].update(name="a/b"),
        lambda plain: plain["design"].update(encoder="../escape-sixd_svd"),
        lambda plain: plain["design"].update(loss="../../chordal"),
        lambda plain: plain["design"].update(loss="x" * 500),
        lambda plain: plain["design"].update(nosuch=1),
        lambda plain: plain.update(seed=10**9),
        lambda plain: plain.update(author="two\nlines"),
        lambda plain: plain.update(status="verified"),
        lambda plain: plain["task"].update(data={"volume": "/etc/passwd"}),
        lambda plain: plain["task"].update(image_size=10**9),
    ],
)
def test_a_hostile_result_is_refused(place, tmp_path, change):
    changed(place, change)
    store = Store(tmp_path / "store")
    with pytest.raises(BadInput):
        submit(place, store, author="somebody")
    assert not store.folder.exists()


def test_what_was_entered_is_shown_with_its_author(ours, place, tmp_path):
    store = Store(tmp_path / "store")
    target = submit(place, store, author="A. Nother", licence="CC0-1.0")
    assert sorted(path.name for path in target.iterdir()) == [PREDICTIONS, RESULT]
    (row,) = tables(store)[0]["rows"]
    assert (row["authors"], row["levels"]) == (["A. Nother"], ["predictions checked"])
    with pytest.raises(BadInput, match="already"):
        submit(place, store, author="A. Nother")


def test_a_level_is_granted_by_the_store_alone(ours, place, tmp_path, monkeypatch):
    store = Store(tmp_path / "store")
    target = submit(place, store, author="A. Nother")
    shutil.copytree(place / MODEL, target / MODEL)
    assert grant(store, target) == "verified"
    assert tables(store)[0]["rows"][0]["levels"] == ["verified"]
    replace(Result.read(target), author="Somebody else").write(target)
    assert tables(store)[0]["rows"][0]["levels"] == ["predictions checked"]
    with pytest.raises(BadInput, match=r"is not in .*; cryozoo submit"):
        grant(store, place)


def test_a_task_that_nobody_knows_is_claimed_on_the_page(place, tmp_path):
    store = Store(tmp_path / "store")
    submit(place, store, author="A")
    assert tables(store)[0]["rows"][0]["levels"] == ["claimed"]


def test_weights_of_another_network_are_refused(ours, place):
    """Even where they repeat the predictions."""
    result = Result.read(place)
    replace(result, design={**result.design, "backbone_args": {"gem_p": 5.0}}).write(place)
    with pytest.raises(BadInput, match=r"weights of an encoder with backbone_args .*as the design has it"):
        verify_result(place)


@pytest.mark.parametrize("weights", ["local-dir:/tmp/model", "hf-hub:a/b", "hf-hub:a/b@main", "ecoli_70s"])
def test_weights_that_can_change_are_refused(place, tmp_path, weights):
    with pytest.raises(BadInput, match="weights"):
        submit(place, Store(tmp_path / "store"), author="A", weights=weights)


@pytest.mark.parametrize(
    ("where", "value"),
    [("cost", {}), ("cost", {"parameters": "7"}), ("provenance", {}), ("history", [{"step": 1}])],
)
def test_what_pages_show_must_be_there(place, where, value):
    with pytest.raises(BadInput, match=f"field {where}"):
        Result.read(changed(place, lambda plain: plain.update({where: value})))


def test_an_installed_package_has_no_commit(place):
    """Its version stands for it."""
    result = Result.read(changed(place, lambda plain: plain["provenance"].update(commit=None)))
    assert result.made_by == f"version {result.provenance['cryozoo']}"


def test_a_file_that_is_none_is_not_waited_for(place, tmp_path):
    """A pipe in place of the map of a stranger's task."""
    import os

    os.mkfifo(tmp_path / "map.mrc")
    changed(place, lambda plain: plain["task"]["data"].update(volume=str(tmp_path / "map.mrc")))
    changed(place, lambda plain: plain["task"].update(data_sha256="0" * 64))
    with pytest.raises(BadInput):
        verify_result(place)


def test_test_sets_of_any_size_are_refused(place):
    with pytest.raises(BadInput, match="pixels in all"):
        Result.read(changed(place, lambda plain: plain["task"]["data"].update(held_out=10_000_000)))


def test_answers_to_another_task_are_not_ranked(ours, place, tmp_path):
    store = Store(tmp_path / "store")
    submit(place, store, author="A")
    other = Task.from_dict({**PLAIN, "budget": 9.0}, "ours")
    again = tmp_path / "again"
    run_design(other, DESIGN, 1, again, steps=3)
    submit(again, store, author="B")
    with pytest.warns(BadInputWarning, match="another task of the name ours"):
        (table,) = tables(store)
    assert [row["authors"] for row in table["rows"]] == [["A"]]


def test_the_command_line_enters_and_verifies(ours, place, tmp_path, run):
    store = tmp_path / "store"
    assert run("submit", place, "--store", store, "--author", "A. Nother").code == 0
    (target,) = store.glob("*/*/*")
    done = run("verify", target, "--store", store)
    assert (done.code, done.out.rpartition(": ")[2]) == (0, "predictions checked\n")
    assert run("submit", place, "--store", store, "--author", "A. Nother").code == 3
    assert json.loads((store / "verified.json").read_text())
