"""Objectives: terms against loops; and a source of data and an objective that the trainer never heard of."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cryozoo.geometry.pose import Pose
from cryozoo.geometry.sampling import random_rotations
from cryozoo.imaging.batch import Batch
from cryozoo.imaging.preprocessing import Preprocessing
from cryozoo.losses.base import LossOutput
from cryozoo.losses.chordal import Chordal
from cryozoo.training.batches import TrainingData
from cryozoo.training.data import DataSource, Simulated
from cryozoo.training.make_objective import make_objective
from cryozoo.training.objective import Distances, Objective, Supervised
from cryozoo.training.recipe import Recipe
from cryozoo.training.trainer import train
from cryozoo.zoo.encoder import PoseEncoder, create_encoder

RECIPE = Recipe("test_vgg_gem-sixd_svd", 32, Simulated("phantom:0", held_out=32), 4, batch_size=8, validate_every=2)


def test_the_shift_is_a_term_in_angstrom() -> None:
    torch.manual_seed(0)
    encoder = create_encoder("test_vgg_gem-sixd_svd", image_size=32, shift=True)
    batch = Batch(torch.randn(6, 1, 32, 32), Pose(random_rotations(6), 5 * torch.randn(6, 2)))
    output = Supervised(Chordal(), shift_weight=3.0, shift_scale=4.0)(encoder.eval(), batch, 0.5)
    predicted = encoder(batch.images).shift
    assert predicted is not None
    assert batch.pose.shift is not None
    errors = [
        sum(abs(a - b) for a, b in zip(p, t, strict=True)) / 2
        for p, t in zip(predicted.tolist(), batch.pose.shift.tolist(), strict=True)
    ]
    assert output.terms["shift"].tolist() == pytest.approx(errors, rel=1e-5)
    expected = output.parts["rotation"].item() + 3.0 * sum(errors) / 6 / 4.0
    assert output.total.item() == pytest.approx(expected, rel=1e-5)
    plain = create_encoder("test_vgg_gem-sixd_svd", image_size=32)
    with pytest.raises(ValueError, match="has no shift to compare"):
        Supervised(Chordal(), shift_weight=1.0)(plain, batch, 0.5)


def test_what_a_recipe_asks_for() -> None:
    encoder = create_encoder("test_vgg_gem-sixd_svd", image_size=32, pixel_size=5.0, shift=True)
    recipe = replace(RECIPE, data=Simulated("phantom:0", symmetry="D2"))
    made = make_objective(recipe, encoder)
    assert type(made) is Supervised
    assert (made.symmetry, made.loss.symmetry, made.shift_weight) == ("D2", "D2", 0.3)
    assert made.shift_scale == encoder.shift_scale == 32 * 5.0 / 20
    distances = make_objective(replace(recipe, loss="siamese_distance", shift=False), encoder)
    assert type(distances) is Distances
    assert (distances.criterion, distances.shift_weight) == ("distance_mae_deg", 0)
    assert type(make_objective(replace(recipe, loss="forum"), encoder)) is Supervised


@dataclass(frozen=True)
class Blobs:
    """A source of data: a spot whose place is the shift, at any rotation."""

    symmetry = "C1"

    def open(self, image_size: int, pixel_size: float | None, device: torch.device, seed: int) -> TrainingData:
        self_ = self

        class Opened:
            preprocessing = Preprocessing(image_size, pixel_size or 1.0)
            validation, test = (self_.draw(16, image_size, torch.Generator().manual_seed(s)) for s in (1, 2))

            def batch(self, step: int, size: int, part: int = 0, parts: int = 1) -> Batch:
                return self_.draw(size // parts, image_size, None)

        return Opened()

    def draw(self, n: int, size: int, generator: torch.Generator | None) -> Batch:
        shift = 3 * torch.randn(n, 2, generator=generator)
        axis = torch.arange(size) - size // 2
        x, y = axis - shift[:, :1], axis - shift[:, 1:]
        spot = torch.exp(-(x[:, None] ** 2 + y[:, :, None] ** 2) / 18)[:, None]
        return Batch(spot, Pose(random_rotations(n, generator=generator), shift))

    def digest(self) -> None:
        return None

    def to_dict(self) -> dict[str, Any]:
        return {"blobs": True}


class ShiftAlone(Objective):
    """An objective: the shift, times a learnt factor; it has a parameter of its own."""

    criterion = "shift_A"

    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(0.2))

    def forward(self, encoder: PoseEncoder, batch: Batch, progress: float) -> LossOutput:
        return LossOutput({"shift": self._errors(encoder, batch)})

    def measure(self, encoder: PoseEncoder, batch: Batch, *, thorough: bool = False) -> dict[str, Any]:
        with torch.no_grad():
            error = float(self._errors(encoder.eval(), batch).mean())
        return {"shift_A": error, "factor": float(self.factor.detach())}

    def _errors(self, encoder: PoseEncoder, batch: Batch) -> torch.Tensor:
        shift = encoder(batch.images).shift
        assert shift is not None
        assert batch.pose.shift is not None
        return (self.factor * shift - batch.pose.shift).abs().mean(1)


def test_another_source_and_another_objective(tmp_path: Path) -> None:
    """Both are learnt from, the objective's parameter too, and a stopped run goes on to the same end."""
    assert isinstance(Blobs(), DataSource)
    recipe = replace(
        RECIPE,
        encoder="test_cryoai_cnn-sixd_svd",
        data=Blobs(),
        steps=60,
        batch_size=16,
        lr=1e-2,
        validate_every=20,
        pixel_size=1.0,
        ema=0.5,
    )
    whole = train(recipe, tmp_path / "a", objective=lambda *_: ShiftAlone())
    first, last = whole.history[0]["shift_A"], whole.history[-1]["shift_A"]
    assert last < 0.7 * first
    assert whole.metrics["factor"] != pytest.approx(0.2, abs=1e-3)
    again = train(recipe, tmp_path / "a", objective=lambda *_: ShiftAlone())
    assert again.metrics["factor"] == whole.metrics["factor"]
    assert again.history == whole.history
