"""The objective of losses named reconstruction_...: poses and a map, learnt together."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from cryozoo.geometry.pose import Pose
from cryozoo.imaging.batch import Batch
from cryozoo.imaging.simulate import Imaging, Simulator
from cryozoo.imaging.simulate_files import write_simulated_stack
from cryozoo.imaging.volumes import Volume
from cryozoo.losses.base import LossOutput
from cryozoo.losses.reconstruction import Reconstruction
from cryozoo.models.hartley_grid import HartleyGrid
from cryozoo.particles.ctf import CTF, CTFModulus, CTFSquare
from cryozoo.particles.errors import BadInput
from cryozoo.particles.star import StarFile
from cryozoo.training.ab_initio import AbInitio
from cryozoo.training.data import Recorded, Simulated
from cryozoo.training.make_objective import make_objective
from cryozoo.training.recipe import Recipe
from cryozoo.training.trainer import _Trainer, train
from cryozoo.zoo.loss import create_loss
from cryozoo.zoo.parts import BadArguments
from cryozoo.zoo.pretrained import load_pretrained

TINY = Recipe(
    encoder="test_d4_cnn-sixd_svd",
    image_size=24,
    pixel_size=8.0,
    data=Simulated("phantom:0", Imaging(snr=4.0, shift_sigma=4.0, defocus=(8e3, 15e3)), ctf="phase_flip", images=80),
    loss="reconstruction_mirror",
    optimizer="adam",
    weight_decay=0.0,
    steps=6,
    batch_size=16,
    validate_every=3,
)


def test_map_and_encoder_are_learnt_saved_and_resumed(tmp_path: Path) -> None:
    result = train(TINY, tmp_path / "whole")
    assert {"residual", "mse", "medse", "median_deg"} <= result.metrics.keys()
    kept = load_pretrained(f"local-dir:{tmp_path / 'whole' / 'model'}").frame_map
    assert kept is not None
    assert kept.pixel_size == 8.0
    assert float(kept.data.abs().max()) > 0

    trainer = _Trainer(TINY, tmp_path / "parts", None, False, False, make_objective)
    while trainer.step < 3:
        loss = trainer._train_step()
    trainer._validate(loss, None)
    trainer._save()
    again = train(TINY, tmp_path / "parts")
    assert again.history[-1]["residual"] == result.history[-1]["residual"]
    assert all(torch.equal(a, b) for a, b in zip(again.encoder.parameters(), result.encoder.parameters(), strict=True))


def test_the_decoder_has_a_learning_rate_of_its_own() -> None:
    trainer = _Trainer(
        dataclasses.replace(TINY, decoder_lr=7.0, backbone_lr=0.5), None, None, False, False, make_objective
    )
    scales = {group["scale"]: sum(map(torch.numel, group["params"])) for group in trainer.optimizer.param_groups}
    assert scales[7.0] == 2 * 25**3
    assert scales.keys() == {7.0, 1.0, 0.5}


class Known(torch.nn.Module):
    """Stands for an encoder that answers with the poses of a batch, in any order of images."""

    def __init__(self, batch: Batch, turned: torch.Tensor) -> None:
        super().__init__()
        self.batch, self.turned = batch, turned

    def forward(self, images: torch.Tensor) -> Pose:
        start = next(i for i in range(len(self.batch)) if torch.equal(self.batch.images[i], images[0]))
        rotation = self.batch.pose.rotation
        assert rotation is not None
        return Pose(rotation[start : start + len(images)] @ self.turned)


def test_errors_are_those_after_an_alignment() -> None:
    """Poses in another frame are right; those of which half are swapped are not."""
    data = Simulated("phantom:0", Imaging(snr=4.0), images=80).open(24, 8.0, torch.device("cpu"))
    batch = data.validation
    objective = AbInitio(HartleyGrid(24), Reconstruction(), 8.0)
    turned = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    turned = turned * torch.linalg.det(turned)
    found = objective.measure(Known(batch, turned), batch)  # type: ignore[arg-type]
    assert found["mse"] < 1e-9
    assert found["acc_5"] == 1
    swapped = batch[torch.arange(len(batch)).roll(3)]
    shuffled = Batch(batch.images, swapped.pose)
    assert objective.measure(Known(shuffled, turned), batch)["mse"] > 1  # type: ignore[arg-type]


def test_flipped_phases_leave_the_modulus(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[CTF | None] = []
    compare = Reconstruction.forward

    def watched(self: Reconstruction, *args: Any) -> LossOutput:
        seen.append(args[-1])
        return compare(self, *args)

    monkeypatch.setattr(Reconstruction, "forward", watched)
    _Trainer(TINY, None, None, False, False, make_objective)._train_step()
    assert isinstance(seen[0], CTFModulus)


def test_what_cannot_be_made_is_named() -> None:
    with pytest.raises(BadInput, match="field decoder: unknown decoder 'hartley'; did you mean hartley_grid"):
        train(dataclasses.replace(TINY, decoder="hartley"))
    with pytest.raises(BadInput, match="field decoder_args"):
        train(dataclasses.replace(TINY, decoder_args={"width": 3}))
    with pytest.raises(BadInput, match="gives no rotation"):
        train(dataclasses.replace(TINY, encoder="test_siamese_cnn-embedding", shift=False))
    with pytest.raises(BadArguments, match="symmetry"):
        create_loss("reconstruction_l2", symmetry="D2")


@pytest.mark.slow
def test_learns_poses_and_a_map_without_labels() -> None:
    """D4 and an L2 loss, on images with little noise; rotations at random would be ten times as far."""
    recipe = Recipe(
        encoder="d4_vgg_gem-sixd_svd",
        backbone_args={"fields": [2, 4, 8, 16], "stem": "none", "depths": [1, 1, 2, 2], "kernels": [5, 3, 3, 3]},
        image_size=32,
        pixel_size=6.0,
        data=Simulated("phantom:0", Imaging(snr=10.0), images=6000, split=(0.9, 0.05)),
        shift=False,
        loss="reconstruction_l2",
        optimizer="adam",
        weight_decay=0.0,
        steps=2000,
        validate_every=500,
    )
    assert train(recipe).metrics["mse"] < 0.5


def test_particles_need_no_poses(tmp_path: Path) -> None:
    """Nor are any errors logged then; a loss that compares with true poses says what is missing."""
    write_simulated_stack(tmp_path / "p.mrcs", Simulator(Volume.phantom(size=24, pixel_size=8.0), Imaging(snr=4.0)), 60)
    star = StarFile.read(tmp_path / "p.star")
    angles = {"rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst"}
    star.with_block(star["particles"].with_columns({}, without=angles)).write(tmp_path / "blind.star")
    recipe = dataclasses.replace(TINY, data=Recorded(str(tmp_path / "blind.star"), augment="d4"))
    found = train(recipe).metrics
    assert "residual" in found
    assert "median_deg" not in found
    with pytest.raises(BadInput, match="field data: particles without poses; expected angles to learn"):
        train(dataclasses.replace(recipe, loss="chordal"))


def test_particles_on_disk_bring_their_ctf(tmp_path: Path) -> None:
    simulator = Simulator(Volume.phantom(size=24, pixel_size=8.0), Imaging(snr=4.0, defocus=(8e3, 15e3)))
    write_simulated_stack(tmp_path / "p.mrcs", simulator, 40)
    star = tmp_path / "p.star"
    plain = Recorded(str(star)).open(24, None, torch.device("cpu")).train.ctf
    assert type(plain) is CTF
    assert 8e3 <= float(plain.defocus_u.min()) < float(plain.defocus_u.max()) <= 15e3
    for column, kind in (("PhaseFlipped", CTFModulus), ("CtfPremultiplied", CTFSquare)):
        changed = tmp_path / f"{column}.star"
        table = StarFile.read(star).with_columns("optics", {f"rlnCtfDataAre{column}": ["1"]})
        table.write(changed)
        assert type(Recorded(str(changed)).open(24, None, torch.device("cpu")).train.ctf) is kind
