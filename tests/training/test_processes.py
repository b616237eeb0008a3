"""Training in several processes: what one process does with the whole batch, and jobs that are killed and go on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cryozoo.imaging.simulate import Imaging
from cryozoo.particles.errors import BadInput
from cryozoo.training.data import Simulated
from cryozoo.training.processes import Processes
from cryozoo.training.recipe import Recipe
from cryozoo.training.trainer import train

FIXED = Recipe(
    "test_siamese_cnn-sixd_svd",  # has no statistics of batches, which processes have each of its own
    32,
    Simulated("phantom:0", Imaging(snr=2.0), images=80, split=(0.5, 0.25)),
    steps=6,
    batch_size=12,
    validate_every=3,
    lr=1e-3,
)


def start(recipe: Recipe, out: Path, processes: int) -> subprocess.Popen[str]:
    path = out.with_suffix(".json")
    path.write_text(json.dumps(recipe.to_dict()))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "cryozoo", "train", str(path), "--out", str(out), "--device", "cpu", "--no-progress"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def finish(job: subprocess.Popen[str]) -> str:
    said, _ = job.communicate(timeout=300)
    assert job.returncode == 0, said
    return said


def weights(out: Path) -> torch.Tensor:
    state = load_file(out / "model" / "model.safetensors")
    return torch.cat([state[name].flatten().double() for name in sorted(state)])


def test_two_processes_train_like_one(tmp_path: Path) -> None:
    """With the same images a step; controls: half of them, and weights that were not trained."""
    said = finish(start(FIXED, tmp_path / "two", 2))
    assert said.count("test_siamese_cnn-sixd_svd on cpu") == 1, "one process talks"
    found = weights(tmp_path / "two")
    others = []
    changes: dict[str, dict[str, float]] = {"one": {}, "half": {"batch_size": 6}, "untrained": {"lr": 1e-9}}
    for name, changed in changes.items():
        train(Recipe.from_dict({**FIXED.to_dict(), **changed}), tmp_path / name, device="cpu")
        others.append(float((found - weights(tmp_path / name)).abs().max()))
    one, half, untrained = others
    assert one < 1e-5
    assert min(half, untrained) > 100 * one
    logs = [(tmp_path / name / "log.csv").read_text().splitlines() for name in ("two", "one")]
    assert len(logs[0]) == len(logs[1]) == 3


@pytest.mark.slow
def test_a_killed_process_ends_the_job_which_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    """With statistics of batches, averaged weights, and new images at every step."""
    recipe = Recipe.from_dict(
        {
            **FIXED.to_dict(),
            "encoder": "test_d4_cnn-qcqp_bingham",
            "loss": "bingham_nll",
            "loss_args": {},
            "data": {"volume": "phantom:0", "snr": 2.0, "held_out": 64},
            "ema": 0.9,
            "steps": 300,
            "validate_every": 20,
        }
    )
    finish(start(recipe, tmp_path / "whole", 2))
    job = start(recipe, tmp_path / "killed", 2)
    while not (tmp_path / "killed" / "checkpoint.safetensors").exists():
        time.sleep(0.05)
        assert job.poll() is None
    workers = subprocess.run(["pgrep", "-P", str(job.pid)], capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    said, _ = job.communicate(timeout=120)
    assert job.returncode != 0, said
    assert not (tmp_path / "killed" / "result.json").exists()
    said = finish(start(recipe, tmp_path / "killed", 2))
    assert "goes on after step" in said
    assert torch.equal(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    job = start(Recipe.from_dict({**FIXED.to_dict(), "batch_size": 7}), tmp_path / "odd", 2)
    said, _ = job.communicate(timeout=120)
    assert job.returncode != 0
    assert "field batch_size: 7; expected a multiple of the 2 processes" in said


@pytest.mark.parametrize("what", ["recipe", "data", "step"])
def test_processes_that_differ_are_refused(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where one machine does not see the checkpoint of the others."""
    first = {"recipe": FIXED.to_dict(), "data": None, "step": 0}
    monkeypatch.setattr(Processes, "of_first", lambda self, make: {**first, what: "another"})
    with pytest.raises(BadInput, match=f"have not the same {what}; all machines must see"):
        train(FIXED, device="cpu")


def test_what_is_not_torchruns_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that other programs set mean nothing: the training is whole, and saved."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    train(FIXED, tmp_path / "alone", device="cpu")
    assert (tmp_path / "alone" / "result.json").exists()
