"""A run that is stopped leaves its best encoder, and one that has ended goes on when more steps are asked for."""

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from cryozoo.imaging.simulate import Imaging
from cryozoo.particles.errors import BadInput
from cryozoo.training.data import Simulated
from cryozoo.training.make_objective import make_objective
from cryozoo.training.optimisation import learning_rate
from cryozoo.training.recipe import Recipe
from cryozoo.training.run import FinishedRun
from cryozoo.training.trainer import Interrupted, TrainingResult, _Trainer, train
from cryozoo.zoo.pretrained import load_pretrained

RECIPE = Recipe(
    "test_vgg_gem-sixd_svd",
    32,
    Simulated("phantom:0", Imaging(snr=2.0), held_out=64),
    steps=9,
    batch_size=8,
    validate_every=4,
    ema=0.9,
)


def train_until(step: int, recipe: Recipe, out: Path) -> str:
    """Train until a signal comes in this step; what is said then."""
    trainer = _Trainer(recipe, out, None, False, False, make_objective)
    inner = trainer._train_step

    def stopped() -> float:
        if trainer.step == step - 1:
            signal.raise_signal(signal.SIGTERM)
        return inner()

    trainer._train_step = stopped  # type: ignore[method-assign]
    with pytest.raises(Interrupted) as stop:
        trainer.run()
    return str(stop.value)


def same(a: TrainingResult, b: TrainingResult) -> bool:
    mine, theirs = a.encoder.state_dict(), b.encoder.state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


def saved(out: Path) -> dict[str, Any]:
    """The metrics that travel with the encoder in ``out``."""
    entry = load_pretrained(f"local-dir:{out / 'model'}").entry
    assert entry is not None
    return dict(entry.metrics)


def test_a_stopped_run_leaves_its_best_encoder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train_until(3, RECIPE, out).endswith("goes on from there")
    assert not (out / "model").exists()
    assert train_until(6, RECIPE, out).endswith(f"; the encoder of step 4, the best so far, is in {out / 'model'}")
    metrics = saved(out)
    assert metrics["unfinished"].endswith("deg in the validation at step 4 of 9")
    assert metrics["validation"]["step"] == 4
    assert not {"median_deg", "n", "steps"} & metrics.keys()
    with pytest.raises(BadInput, match="at step 4 of 9; expected a training that has ended"):
        _ = FinishedRun.open(out).encoder

    whole, parts = train(RECIPE), train(RECIPE, out)
    assert same(whole, parts)
    assert "unfinished" not in saved(out)
    assert saved(out)["median_deg"] == whole.metrics["median_deg"]
    assert FinishedRun.open(out).encoder.name == RECIPE.encoder


def test_the_saved_encoder_is_the_validated_one(tmp_path: Path) -> None:
    """That of averaged weights, which the training goes on without."""
    train_until(6, RECIPE, tmp_path)
    trainer = _Trainer(RECIPE, tmp_path, None, False, False, make_objective)
    kept = load_pretrained(f"local-dir:{tmp_path / 'model'}").train().state_dict()
    assert kept.keys() == trainer.best.keys()
    assert all(torch.equal(kept[name], trainer.best[name]) for name in kept)
    assert not all(torch.equal(kept[name], tensor) for name, tensor in trainer._state().items())


def test_a_longer_run_goes_on_from_the_end(tmp_path: Path) -> None:
    longer = dataclasses.replace(RECIPE, steps=14)
    train(RECIPE, tmp_path / "a")
    lines: list[str] = []
    whole = train(longer, tmp_path / "a", report=lines.append)
    assert lines[0].endswith("; goes on after step 9 of 14, with the learning rates of 14 from there")
    assert [row["step"] for row in whole.history] == [4, 8, 9, 12, 14]
    assert whole.history[-1]["lr"] == learning_rate(longer, 13)
    assert whole.metrics["prolonged"] == saved(tmp_path / "a")["prolonged"] == "9 steps until step 9"
    assert json.loads((tmp_path / "a/recipe.json").read_text())["steps"] == 14

    train(RECIPE, tmp_path / "b")
    train_until(11, longer, tmp_path / "b")
    parts = train(longer, tmp_path / "b")
    assert same(whole, parts)
    assert parts.metrics["prolonged"] == "9 steps until step 9"


def test_what_does_not_prolong(tmp_path: Path) -> None:
    train(RECIPE, tmp_path)
    for steps in (3, 8):
        with pytest.raises(BadInput, match=f"recipe, field steps: {steps}; expected more than the 9 that .* has done"):
            train(dataclasses.replace(RECIPE, steps=steps), tmp_path)
    with pytest.raises(BadInput, match="differs in lr, steps"):
        train(dataclasses.replace(RECIPE, steps=20, lr=2e-3), tmp_path)


def test_a_result_is_not_that_of_other_weights(tmp_path: Path) -> None:
    """A better validation replaces the encoder, and what was measured of the old one goes."""
    train(RECIPE, tmp_path)
    trainer = _Trainer(dataclasses.replace(RECIPE, steps=20), tmp_path, None, False, False, make_objective)
    assert (tmp_path / "result.json").exists()
    trainer.best_error = 1e3
    trainer._validate(0.0, None)
    assert not (tmp_path / "result.json").exists()
    assert "unfinished" in saved(tmp_path)


def test_a_run_that_ended_early_for_want_of_patience_goes_on(tmp_path: Path) -> None:
    hopeless = dataclasses.replace(RECIPE, lr=1e-9, ema=0.0, patience=1, validate_every=1, steps=40)
    ended = train(hopeless, tmp_path).metrics["steps"]
    assert ended < 40
    assert train(dataclasses.replace(hopeless, steps=50), tmp_path).metrics["steps"] > ended
