"""Runs of the benchmark: what fails harms no other, what was stopped goes on, and nobody does another's work."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryozoo.benchmarks import engines
from cryozoo.benchmarks.design import Design, product
from cryozoo.benchmarks.engines import Local, Slurm, attempt
from cryozoo.benchmarks.harness import run, write_job
from cryozoo.benchmarks.reproduce import reproduce
from cryozoo.benchmarks.store import PREDICTIONS, RESULT, Result, Store, held
from cryozoo.benchmarks.sweep import sweep
from cryozoo.benchmarks.task import Task
from cryozoo.particles.errors import BadInput, BadInputWarning

TASK = Task.from_dict(
    {
        "title": "A phantom",
        "image_size": 32,
        "data": {"volume": "phantom:0", "snr": 1.0, "shift_sigma": 4.0, "held_out": 20},
        "pixel_size": 10.0,
        "budget": 0.5,
    },
    "phantom",
)
DESIGN = Design("test_vgg_gem-sixd_svd", "chordal", training={"batch_size": 4})


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Result:
    """A run of a few steps."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("done")
    run(TASK, DESIGN, 3, folder, steps=4)
    return Result.read(folder)


def test_a_result_says_all(done):
    assert (done.status, done.seed, done.recipe["steps"], done.task["name"]) == ("done", 3, 4, "phantom")
    assert done.metrics["n"] == 20
    assert {"parameters", "gmacs", "ms_per_image", "peak_memory_mb", "cpu_s"} <= done.cost.keys()
    assert done.provenance["hardware"]
    assert done.history[-1]["step"] == 4
    assert sorted(path.name for path in done.folder.iterdir()) == ["model", PREDICTIONS, RESULT]


def test_metrics_are_those_of_the_predictions(done):
    """By hand: the angle of R_true^T R from its trace."""
    predicted, truth = done.predictions().rotation, TASK.test().pose.rotation.double()
    trace = np.einsum("nij,nij->n", predicted.numpy(), truth.numpy())
    median = np.median(np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1))))
    assert done.metrics["median_deg"] == pytest.approx(median, abs=1e-4)


def test_the_model_that_is_kept_predicts_the_same(done):
    from cryozoo import load_pretrained
    from cryozoo.zoo.evaluate import predict_batches

    encoder = load_pretrained(f"local-dir:{done.folder / 'model'}")
    again = predict_batches(encoder, TASK.test().images).rotation
    assert torch.allclose(again.double(), done.predictions().rotation, atol=1e-5)


def test_a_result_is_reproduced(done):
    assert "bit for bit" in reproduce(done.folder)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (PREDICTIONS, lambda data: data[:-1] + bytes([data[-1] ^ 1])),
        (RESULT, lambda data: data.replace(b"cryozoo-result-1", b"cryozoo-result-2")),
        (RESULT, lambda data: data.replace(b'"seed": 3', b'"seed": -3', 1)),
        (RESULT, lambda data: data.replace(b'"status": "done"', b'"status": "good"')),
        (RESULT, lambda data: data[:-20]),
    ],
)
def test_what_was_tampered_with_is_refused(done, tmp_path, name, change):
    for file in (RESULT, PREDICTIONS):
        data = (done.folder / file).read_bytes()
        (tmp_path / file).write_bytes(change(data) if file == name else data)
    with pytest.raises(BadInput):
        Result.read(tmp_path).predictions()


def test_predictions_that_are_a_pickle_are_refused(done, tmp_path):
    import hashlib

    np.savez(tmp_path / PREDICTIONS, quaternion=np.array([{"a": 1}], dtype=object))
    digest = hashlib.sha256((tmp_path / PREDICTIONS).read_bytes()).hexdigest()
    with pytest.raises(BadInput, match="no predictions"):
        replace(done, folder=tmp_path, predictions_sha256=digest).predictions()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda arrays: {"rotation": np.eye(3, dtype=np.float32)[None].repeat(20, 0) * 1000}, "arrays rotation"),
        (lambda arrays: {**arrays, "quaternion": 2 * arrays["quaternion"]}, "not of length 1"),
        (lambda arrays: {**arrays, "shift": arrays["shift"][:1]}, "different lengths"),
        (lambda arrays: {**arrays, "shift": arrays["shift"][:, :1]}, "shift of shape"),
        (lambda arrays: {**arrays, "shift": arrays["shift"].astype(np.float64)}, "no float32"),
        (lambda arrays: {}, "arrays none"),
    ],
)
def test_predictions_that_are_none_are_refused(done, tmp_path, change, reason):
    """Whatever sha256 is stated: scaled matrices, for one, would be judged as smaller angles."""
    import hashlib

    with np.load(done.folder / PREDICTIONS) as archive:
        arrays = dict(archive)
    np.savez(tmp_path / PREDICTIONS, **change(arrays))
    digest = hashlib.sha256((tmp_path / PREDICTIONS).read_bytes()).hexdigest()
    with pytest.raises(BadInput, match=reason):
        replace(done, folder=tmp_path, predictions_sha256=digest).predictions()


def test_what_failed_is_kept_and_tried_again_when_asked(done, tmp_path):
    store, told = Store(tmp_path / "store"), []
    place = store.place(TASK, DESIGN, 0)
    replace(done, seed=0, status="failed", reason="no memory").write(place)
    kept = sweep(store, TASK, [DESIGN], [0], Local(1), report=told.append)
    assert [result.status for result in kept] == ["failed"]
    again = sweep(store, TASK, [DESIGN], [0], Local(1), retry=True, report=told.append)
    assert [result.status for result in again] == ["done"]
    replace(done, seed=0, status="impossible", reason="as it was then").write(place)
    assert [result.status for result in sweep(store, TASK, [DESIGN], [0], Local(1))] == ["done"]


def test_answers_to_a_task_that_was_changed_are_not_lost(done, tmp_path):
    store = Store(tmp_path / "store")
    done.write(store.place(TASK, DESIGN, 3))
    with pytest.raises(BadInput, match="as it was before it was changed; give the task another name"):
        sweep(store, replace(TASK, budget=9.0), [DESIGN], [3], Local(1))
    assert store.get(TASK, DESIGN, 3) == done


def test_a_package_that_is_missing_leaves_out_one_design(done, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    store, told = Store(tmp_path / "store"), []
    done.write(store.place(TASK, DESIGN, 3))
    missing = Design("timm_resnet18-sixd_svd", "chordal")
    found = sweep(store, TASK, [missing, DESIGN], [3], Local(1), report=told.append)
    assert [result.label for result in found] == [DESIGN.label]
    assert any("timm_resnet18-sixd_svd+chordal: left out: timm_ backbones need timm" in line for line in told)


def test_what_is_left_of_another_training_is_not_gone_on_with(tmp_path):
    """The recipe of the design has changed since."""
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "recipe.json").write_text(json.dumps(DESIGN.recipe(TASK, 4, 2).to_dict()))
    run(TASK, DESIGN, 3, tmp_path)
    assert Result.read(tmp_path).seed == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[a, b]", "not a mapping"),
        ("designs:", "`designs`, a list, alone"),
        ("desings: []", "`designs`, a list"),
        ("designs: [3]", "design 1"),
    ],
)
def test_a_file_of_designs_that_is_none_is_refused(tmp_path, text, says):
    (tmp_path / "designs.yaml").write_text(text)
    words = [
        "benchmark",
        "phantom_snr1",
        "--designs",
        str(tmp_path / "designs.yaml"),
        "--store",
        str(tmp_path / "store"),
    ]
    refused = subprocess.run([sys.executable, "-m", "cryozoo", *words], capture_output=True, text=True, check=False)
    assert refused.returncode == 3
    assert says in refused.stderr


def test_a_store_leaves_out_what_it_cannot_read(done, tmp_path):
    store = Store(tmp_path)
    place = store.place(TASK, DESIGN, 3)
    done.write(place)
    bad = store.place(TASK, DESIGN, 4)
    bad.mkdir()
    (bad / RESULT).write_text("{")
    with pytest.warns(BadInputWarning, match="left out"):
        assert store.results() == [done]
    assert store.get(TASK, DESIGN, 3) == done
    assert store.get(TASK.within(9.0), DESIGN, 3) is None


def test_a_sweep_does_what_is_lacking(tmp_path):
    store, told = Store(tmp_path / "store"), []
    designs = [DESIGN, *product(["test_vgg_gem"], ["sixd_svd"], ["bingham_nll"])]
    found = sweep(store, TASK, designs, [0, 1], Local(2), report=told.append)
    assert [result.seed for result in found] == [0, 1]
    assert all(result.status == "done" for result in found)
    assert {result.status for result in store.results()} == {"done", "impossible"}
    before = {path: path.stat().st_mtime_ns for path in store.folder.rglob(RESULT)}
    assert sweep(store, TASK, designs, [0, 1], Local(2), report=told.append) == found
    assert {path: path.stat().st_mtime_ns for path in store.folder.rglob(RESULT)} == before
    assert "2 done" in told[-1]


def test_jobs_of_a_cluster_give_the_same_results(done, tmp_path):
    """Through submitit, on this machine in place of a cluster's nodes."""
    folders = tmp_path / "first", tmp_path / "second"
    for folder in folders:
        folder.mkdir()
        write_job(folder, TASK, DESIGN, 3, steps=4)
    finished = []
    Slurm(tmp_path / "submitit", cluster="local").run(folders, finished.append)
    assert sorted(finished) == sorted(folders)
    for folder in folders:
        assert Result.read(folder).predictions_sha256 == done.predictions_sha256


@pytest.mark.referee
def test_a_real_cluster_gives_the_same_results(done, tmp_path):
    """Where SLURM answers."""
    if shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True, check=False).returncode:
        pytest.skip("no SLURM answers here")
    place, other = tmp_path / "first", tmp_path / "second"
    for folder in (place, other):
        folder.mkdir()
        write_job(folder, TASK, DESIGN, 3, steps=4)
    finished = []
    Slurm(tmp_path / "submitit").run([place, other], finished.append)
    assert sorted(finished) == [place, other]
    for folder in (place, other):
        assert Result.read(folder).predictions_sha256 == done.predictions_sha256


def failing(folder: Path, body: str, monkeypatch, **changes) -> Result:
    """What comes of a job that runs this code in place of the harness."""
    write_job(folder, replace(TASK, **changes), DESIGN, 0)
    script = folder / "job.py"
    script.write_text(body)
    monkeypatch.setattr(engines, "COMMAND", [sys.executable, str(script)])
    attempt(folder)
    return Result.read(folder)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise RuntimeError('as it must')", "as it must"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "signal 9"),
        ("import sys; sys.exit(7)", "exit code 7"),
        ("import time; time.sleep(60)", "not done after"),
        (
            "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29)); bytearray(2**32)",
            "MemoryError",
        ),
    ],
)
def test_a_failure_is_a_result(tmp_path, monkeypatch, body, reason):
    monkeypatch.setattr(engines, "START", 1.0)
    result = failing(tmp_path, body, monkeypatch)
    assert result.status == "failed"
    assert reason in result.reason


def test_a_run_that_is_held_is_left_alone(tmp_path):
    write_job(tmp_path, TASK, DESIGN, 0)
    with held(tmp_path) as ours:
        assert ours
        attempt(tmp_path)
    assert not (tmp_path / RESULT).exists()


def test_two_sweeps_of_one_store_share_the_work(tmp_path):
    """Each run is done once, by one of them, and both see it."""
    plain = tmp_path / "task.json"
    plain.write_text(json.dumps(TASK.to_dict()))
    designs = [replace(DESIGN, training={"batch_size": size}) for size in (4, 5, 6)]
    (tmp_path / "designs.yaml").write_text(json.dumps({"designs": [design.to_dict() for design in designs]}))
    words = ["benchmark", str(plain), "--designs", str(tmp_path / "designs.yaml"), "--store", str(tmp_path / "store")]
    command = [sys.executable, "-m", "cryozoo", *words]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [child.communicate(timeout=300)[0] for child in both]
    assert [child.returncode for child in both] == [0, 0], said
    results = Store(tmp_path / "store").results()
    assert sorted(result.recipe["batch_size"] for result in results) == [4, 5, 6]
    for result in results:
        assert result.status == "done"
        assert result.predictions() is not None
        assert sum(f"{result.label}, seed 0: median_deg" in text for text in said) >= 1


def test_ctrl_c_keeps_what_is_done(tmp_path):
    """A sweep that is stopped leaves no failure, and the same command goes on."""
    task = TASK.within(30.0)
    plain = tmp_path / "task.json"
    plain.write_text(json.dumps(task.to_dict()))
    (tmp_path / "designs.yaml").write_text(json.dumps({"designs": [DESIGN.to_dict()]}))
    words = ["benchmark", str(plain), "--designs", str(tmp_path / "designs.yaml"), "--store", str(tmp_path / "store")]
    # A suite that a script has put into the background ignores Ctrl-C, and so would what it starts.
    child = subprocess.Popen(
        [sys.executable, "-m", "cryozoo", *words],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    place = Store(tmp_path / "store").place(replace(task, name="task"), DESIGN, 0)
    deadline = time.monotonic() + 120
    while not (place / "training" / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    assert child.returncode == 130
    assert not (place / RESULT).exists()
    assert (place / "training" / "checkpoint.safetensors").exists()
    with held(place) as ours:
        assert ours
