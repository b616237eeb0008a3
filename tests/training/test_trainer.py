"""Training: learns, is a function of its recipe, resumes bit for bit, survives kills."""

import copy
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml

from cryozoo.geometry.pose import Pose
from cryozoo.imaging.batch import Batch
from cryozoo.imaging.preprocessing import Preprocessing
from cryozoo.imaging.simulate import Imaging, Simulator
from cryozoo.imaging.simulate_files import write_simulated_stack
from cryozoo.imaging.volumes import Volume
from cryozoo.models.vgg import ConvNet
from cryozoo.particles.errors import BadInput
from cryozoo.training.batches import FixedSet, OnTheFly
from cryozoo.training.checkpoint import load_checkpoint, save_checkpoint
from cryozoo.training.data import Recorded, Simulated
from cryozoo.training.make_objective import make_objective
from cryozoo.training.optimisation import learning_rate
from cryozoo.training.recipe import Recipe
from cryozoo.training.trainer import Interrupted, _Trainer, train
from cryozoo.zoo import registry
from cryozoo.zoo.pretrained import load_pretrained

TINY = Recipe(
    encoder="test_vgg_gem-sixd_svd",
    image_size=32,
    pixel_size=8.0,
    backbone_args={"stem": "none", "activation": "relu"},
    data=Simulated("phantom:0", Imaging(snr=2.0, shift_sigma=8.0), held_out=256),
    loss_args={"norm": "l1"},
    steps=12,
    batch_size=16,
    validate_every=4,
    ema=0.9,
)


def states_equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


def test_same_recipe_same_weights_another_seed_others() -> None:
    first, again = train(TINY).encoder, train(TINY).encoder
    assert states_equal(first, again)
    assert not states_equal(first, train(dataclasses.replace(TINY, seed=1)).encoder)


def test_resumed_run_equals_the_undisturbed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by a signal after every third step, with dropout, random pairs, Adam moments and averaged weights."""
    recipe = dataclasses.replace(
        TINY, backbone_args={**TINY.backbone_args, "dropout": 0.2}, loss="forum", loss_args={"pairs": "random"}
    )
    expected = train(recipe, tmp_path / "whole")

    stops = 0
    while True:
        trainer = _Trainer(recipe, tmp_path / "parts", None, False, False, make_objective)
        begun = trainer.step
        inner = trainer.data.batch

        def batch(step: int, size: int, part: int, parts: int, inner=inner, begun=begun):
            if step == begun + 2:
                signal.raise_signal(signal.SIGTERM)
            return inner(step, size, part, parts)

        monkeypatch.setattr(trainer.data, "batch", batch)
        try:
            result = trainer.run()
            break
        except Interrupted as stop:
            stops += stop.signum == signal.SIGTERM
    assert stops >= 3
    assert states_equal(result.encoder, expected.encoder)
    assert result.metrics["median_deg"] == expected.metrics["median_deg"]


KILLED = """
import sys
from pathlib import Path
from cryozoo.training.recipe import Recipe
from cryozoo.training.trainer import train
train(Recipe.load(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_kill_nine_at_five_random_moments(tmp_path: Path) -> None:
    """kill -9 leaves a readable checkpoint each time, and the run that is resumed after it ends in the same weights."""
    recipe = dataclasses.replace(TINY, steps=60, validate_every=2)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe.to_dict()))
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, str(path)]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, env=env)
    moments = random.Random(0)
    kills = 0
    while kills < 5:
        process = subprocess.Popen([*command, str(tmp_path / "parts")], env=env)
        checkpoint = tmp_path / "parts/checkpoint.safetensors"
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while process.poll() is None and (not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before):
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3))
        assert process.poll() is None, "the run ended before it could be killed"
        process.kill()
        process.wait()
        kills += 1
        if (tmp_path / "parts/model/config.json").exists():
            load_pretrained(f"local-dir:{tmp_path / 'parts/model'}")
    subprocess.run([*command, str(tmp_path / "parts")], check=True, env=env)
    whole, parts = (
        safetensors.torch.load_file(tmp_path / name / "model/model.safetensors") for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


def test_learns_far_better_than_chance() -> None:
    """400 steps on the phantom reach 70 degrees median; chance is 132."""
    recipe = dataclasses.replace(
        TINY,
        encoder="test_vgg_gem-qcqp_bingham",
        backbone_args={**TINY.backbone_args, "channels": [16, 32, 64]},
        loss="bingham_nll",
        loss_args={},
        steps=400,
        batch_size=32,
        lr=5e-3,
        validate_every=400,
        ema=0.0,
        seed=1,
    )
    metrics = train(recipe).metrics
    assert metrics["median_deg"] < 80
    assert metrics["chance_median_deg"] > 130
    assert metrics["shift_rmse_A"] < 0.95 * metrics["shift_rmse_of_zero_A"]


def test_fixed_set_is_split_without_overlap_and_augmented() -> None:
    source = Simulated("phantom:0", Imaging(snr=1.0), images=90, split=(0.5, 0.17), augment="d4")
    data = dataclasses.replace(source, augment="none").open(32, 8.0, torch.device("cpu"))
    assert isinstance(data, FixedSet)
    assert [len(data.train), len(data.validation), len(data.test)] == [45, 15, 30]
    everything = torch.cat([data.train.images, data.validation.images, data.test.images]).flatten(1)
    assert len(everything.unique(dim=0)) == 90
    seen = torch.cat([data.batch(step, 16).images for step in range(45)]).flatten(1)
    assert len(seen.unique(dim=0)) == 45, "16 epochs must show every training image and nothing else"
    assert train(dataclasses.replace(TINY, data=source)).metrics["n"] == 30


def test_new_particles_take_the_place_of_those_that_train() -> None:
    """Validation and test are those of the fixed set; noise grows from none to all."""
    source = Simulated("phantom:0", Imaging(snr=0.1), images=90)
    ramp = dataclasses.replace(source, augment="simulate", noise_ramp=10)
    fixed, new = (one.open(32, 8.0, torch.device("cpu")) for one in (source, ramp))
    assert isinstance(fixed, FixedSet)
    assert isinstance(new, OnTheFly)
    for part in ("validation", "test"):
        assert torch.equal(getattr(fixed, part).images, getattr(new, part).images)

    def noise(step: int) -> float:
        """Its share of the images' variance."""
        torch.manual_seed(0)
        batch = new.batch(step, 64)
        assert batch.pose.rotation is not None
        clean = new.simulator.projector(batch.pose.rotation, batch.pose.shift)[:, None]
        both = torch.stack([batch.images, fixed.preprocessing(clean, 8.0)]).flatten(2)
        both = both - both.mean(-1, keepdim=True)
        return 1 - float(torch.cosine_similarity(both[0], both[1], dim=-1).square().mean())

    shares = [noise(step) for step in (0, 3, 10, 500)]
    assert shares[0] < 1e-5
    # The SNR counts the variance within the circle, most of the particle's.
    assert shares[1] == pytest.approx(1 / (1 + 0.1 / 0.3**2), abs=0.15)
    assert shares[2] == shares[3] == pytest.approx(1 / 1.1, abs=0.05)
    with pytest.raises(BadInput, match="noise_ramp for a fixed set"):
        dataclasses.replace(ramp, augment="rotate")
    with pytest.raises(BadInput, match="noise_ramp without noise"):
        dataclasses.replace(ramp, imaging=Imaging())


def test_rows_that_show_one_image_stay_together() -> None:
    """A symmetry-expanded table names every image several times; none may be in training and test."""
    batch = Batch(torch.arange(90.0).reshape(90, 1, 1, 1), Pose(torch.eye(3).expand(90, 3, 3), torch.zeros(90, 2)))
    data = FixedSet(batch, Preprocessing(32, 8.0), image_ids=torch.arange(90) % 30)
    parts = [set((part.images.flatten() % 30).tolist()) for part in (data.train, data.validation, data.test)]
    assert [len(part) for part in parts] == [15, 5, 10]
    assert len(set.union(*parts)) == 30
    assert len(data.train) == 45


def test_particles_on_disk_with_symmetry_and_other_options(tmp_path: Path) -> None:
    simulator = Simulator(Volume.phantom(size=40, pixel_size=6.0), Imaging(snr=2.0, shift_sigma=6.0))
    write_simulated_stack(tmp_path / "stack.mrcs", simulator, 60)
    recipe = dataclasses.replace(
        TINY,
        data=Recorded(str(tmp_path / "stack.star"), symmetry="C2", augment="rotate"),
        optimizer="rmsprop",
        schedule="onecycle",
        patience=1,
        steps=40,
        validate_every=2,
    )
    result = train(recipe)
    assert result.metrics["n"] == 20
    assert result.metrics["steps"] < 40, "patience did not stop it"
    assert result.metrics["chance_mean_deg"] < 110


def test_distances_alone_are_judged_by_distances() -> None:
    """They fix poses up to a common frame, so no angle of a single image means anything."""
    recipe = dataclasses.replace(
        TINY, encoder="test_siamese_cnn-embedding", backbone_args={}, shift=False, loss="siamese_distance", loss_args={}
    )
    result = train(recipe)
    assert 0 < result.metrics["distance_mae_deg"] < 180
    assert 15 < result.metrics["chance_distance_mae_deg"] < 40
    assert "median_deg" not in result.metrics
    with pytest.raises(BadInput, match="gives no rotation"):
        train(dataclasses.replace(recipe, loss="geodesic"))


def test_schedules() -> None:
    cosine = dataclasses.replace(TINY, steps=1000, lr=1.0, warmup=0.1)
    assert learning_rate(cosine, 0) == pytest.approx(0.01, rel=1e-2)
    assert learning_rate(cosine, 99) == pytest.approx(0.975, abs=0.01)
    assert learning_rate(cosine, 999) < 1e-4
    one = dataclasses.replace(TINY, steps=1000, lr=1.0, schedule="onecycle")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=1000, pct_start=0.3)
    for step in range(1000):
        # torch spreads the two legs over 999 steps, we over 1000.
        assert learning_rate(one, step) == pytest.approx(reference.get_last_lr()[0], abs=4e-3)
        optimizer.step()
        if step < 999:
            reference.step()


def test_weights_to_begin_with_are_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run resumes without the network that brought them."""
    fetched = []

    def backbone(*args: int, pretrained: bool = False, **kwargs: str) -> ConvNet:
        fetched.append(pretrained)
        return ConvNet(*args, channels=(8, 16, 32), depths=(1, 1, 1), kernels=(5, 3, 3), **kwargs)  # type: ignore

    monkeypatch.setattr(registry, "_PARTS", copy.deepcopy(registry._PARTS))
    registry.register_backbone("fetched", backbone)
    recipe = dataclasses.replace(TINY, encoder="fetched-sixd_svd", backbone_args={"stem": "none", "pretrained": True})
    whole = train(recipe, tmp_path / "run").encoder
    assert states_equal(train(recipe, tmp_path / "run").encoder, whole)
    assert fetched[0]
    assert fetched.count(True) == 1


def test_another_recipe_does_not_resume(tmp_path: Path) -> None:
    train(TINY, tmp_path)
    with pytest.raises(BadInput, match="differs in lr"):
        train(dataclasses.replace(TINY, lr=2e-3), tmp_path)
    train(dataclasses.replace(TINY, lr=2e-3), tmp_path, restart=True)


def test_another_table_of_particles_does_not_resume(tmp_path: Path) -> None:
    simulator = Simulator(Volume.phantom(size=32, pixel_size=8.0), Imaging(snr=1.0))
    write_simulated_stack(tmp_path / "a.mrcs", simulator, 40)
    table = tmp_path / "a.star"
    recipe = dataclasses.replace(TINY, data=Recorded(str(table)), steps=2, validate_every=2)
    train(recipe, tmp_path / "run")
    train(recipe, tmp_path / "run")
    table.write_text(table.read_text() + "\n")
    with pytest.raises(BadInput, match=r"trained on another file of that name.*; use another folder"):
        train(recipe, tmp_path / "run")


@pytest.mark.parametrize("loss", ["reconstruction_l2", "chordal"])
def test_a_gradient_that_is_not_finite_spoils_nothing(tmp_path: Path, loss: str) -> None:
    recipe = dataclasses.replace(TINY, loss=loss, loss_args={}, shift=False)
    trainer = _Trainer(recipe, tmp_path, None, False, False, make_objective)
    weight = trainer.learnt[0]
    # The loss of step 6 is finite, its gradient is not.
    weight.register_hook(lambda gradient: gradient * (float("nan") if trainer.step == 5 else 1.0))
    found = rf"step 6: the norm of the gradient is nan; lower lr; the best so far is in {tmp_path}"
    with pytest.raises(BadInput, match=found):
        trainer.run()
    assert all(value.isfinite().all() for value in trainer.learnt)
    assert json.loads((tmp_path / "model/config.json").read_text())["metrics"]["validation"]["step"] == 4


def test_broken_checkpoint_is_named(tmp_path: Path) -> None:
    train(TINY, tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BadInput, match=r"checkpoint\.safetensors"):
        train(TINY, tmp_path)


def test_a_checkpoint_of_the_first_stage_goes_on(tmp_path: Path) -> None:
    """Its recipe had other fields, and said what it need not; the weights are those of the undisturbed run."""
    data = Simulated("phantom:0", Imaging(snr=1.0, shift_sigma=8.0), images=60, augment="d4")
    recipe = dataclasses.replace(TINY, data=data, shift_scale=10.0, shift_weight=0.5, ema=0.0)
    whole = train(recipe)
    trainer = _Trainer(recipe, tmp_path, None, False, False, make_objective)
    for _ in range(4):
        trainer._train_step()
    trainer._validate(0.0, None)
    trainer._save()
    path = tmp_path / "checkpoint.safetensors"
    tensors, state = load_checkpoint(path)
    first = state["recipe"]
    first["augment"] = first["data"].pop("augment")
    first["data"] |= {"split": [0.5, 0.17], "symmetry": "C1"}
    first["loss_args"] |= {name: first.pop(name) for name in ("shift_weight", "shift_scale")}
    save_checkpoint(path, tensors, state)
    assert states_equal(train(recipe, tmp_path).encoder, whole.encoder)


def test_a_share_of_what_trains_is_noise_alone() -> None:
    """And nothing of what validates and tests."""
    source = Simulated("phantom:0", Imaging(snr=1e4), held_out=32)
    plain, junk = (dataclasses.replace(source, junk=share).open(32, 8.0, torch.device("cpu")) for share in (0.0, 0.25))
    assert isinstance(plain, OnTheFly)
    assert isinstance(junk, OnTheFly)
    assert torch.equal(plain.test.images, junk.test.images)

    def like_projections(data: OnTheFly) -> torch.Tensor:
        torch.manual_seed(0)
        batch = data.batch(0, 400)
        assert batch.pose.rotation is not None
        clean = data.preprocessing(data.simulator.projector(batch.pose.rotation, batch.pose.shift)[:, None], 8.0)
        return torch.cosine_similarity(batch.images.flatten(1), clean.flatten(1))

    assert like_projections(plain).min() > 0.99  # the control
    found = like_projections(junk)
    assert int(((found > 0.99) | (found.abs() < 0.2)).sum()) == 400
    assert int((found < 0.2).sum()) == pytest.approx(100, abs=30)
