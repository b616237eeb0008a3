"""One backbone trained on several molecules: one of them is drawn for every step, and each has a last layer."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...imaging.batch import Batch
from ...imaging.preprocessing import Preprocessing
from ...losses.base import LossOutput
from ...training.batches import TrainingData
from ...training.make_objective import make_objective
from ...training.objective import Objective
from ...training.recipe import Recipe
from ...training.trainer import TrainingResult, train
from ...zoo.encoder import PoseEncoder


def train_on_molecules(recipes: Sequence[Recipe], folder: Path, *, steps: int) -> TrainingResult:
    """Train the backbone of several recipes together; all but their data is that of the first.

    The encoder is left in ``folder/model``: its last layer is that of no molecule. A run that was stopped goes on.
    """
    data = _Molecules(recipes)
    recipe = replace(recipes[0], data=data, pixel_size=1.0, steps=steps, validate_every=max(1, steps // 6))

    def objective(recipe: Recipe, encoder: PoseEncoder) -> Objective:
        return _EachItsOwn(data, make_objective(recipe, encoder), encoder)

    return train(recipe, folder, objective=objective, device="cpu", report=print)


class _Molecules:
    """Data of several recipes; shifts are in pixels, which mean the same for all.

    Attributes:
        sources: the opened data of each.
        current: of which molecule the last batch was.
    """

    symmetry = "C1"
    sources: list[TrainingData]
    validation: Batch
    test: Batch

    def __init__(self, recipes: Sequence[Recipe]) -> None:
        self.recipes = recipes
        self.preprocessing = Preprocessing(recipes[0].image_size, 1.0, "phase_flip")
        self.current = 0

    def open(self, image_size: int, pixel_size: float | None, device: torch.device, seed: int) -> _Molecules:
        """Make the simulators of all."""
        self.sources = [recipe.data.open(image_size, recipe.pixel_size, device, seed) for recipe in self.recipes]
        self.validation = self.test = self.sources[0].validation  # the objective looks at those of all
        return self

    def of(self, molecule: int, batch: Batch) -> Batch:
        """A batch of one of them."""
        shift, pixel_size = batch.pose.shift, self.recipes[molecule].pixel_size
        assert shift is not None
        assert pixel_size is not None
        return replace(batch, pose=batch.pose._replace(shift=shift / pixel_size))

    def batch(self, step: int, size: int, part: int = 0, parts: int = 1) -> Batch:
        """Of a molecule that torch's global generator draws."""
        self.current = int(torch.randint(len(self.sources), ()))
        return self.of(self.current, self.sources[self.current].batch(step, size, part, parts))

    def digest(self) -> None:
        """None: no table is read."""

    def to_dict(self) -> dict[str, Any]:
        """What each is."""
        return {"molecules": [recipe.data.to_dict() for recipe in self.recipes]}


class _EachItsOwn(Objective):
    """A last layer for every molecule; judged by the mean over molecules of the median error."""

    criterion = "median_deg"

    def __init__(self, data: _Molecules, supervised: Objective, encoder: PoseEncoder) -> None:
        super().__init__()
        self.data = data
        self.supervised = supervised
        self.last = nn.ModuleList(copy.deepcopy(encoder.projection) for _ in data.recipes)

    def forward(self, encoder: PoseEncoder, batch: Batch, progress: float) -> LossOutput:
        """The loss with the last layer of the batch's molecule."""
        shared = self._put(encoder, self.last[self.data.current])
        try:
            output: LossOutput = self.supervised(encoder, batch, progress)
        finally:
            self._put(encoder, shared)
        return output

    def measure(self, encoder: PoseEncoder, batch: Batch, *, thorough: bool = False) -> dict[str, Any]:
        """Of all molecules, each with its layer."""
        shared, found = encoder.projection, []
        try:
            for molecule, source in enumerate(self.data.sources):
                self._put(encoder, self.last[molecule])
                found.append(self.supervised.measure(encoder, self.data.of(molecule, source.validation)))
        finally:
            self._put(encoder, shared)
        return {"median_deg": statistics.fmean(metrics["median_deg"] for metrics in found)}

    @staticmethod
    def _put(encoder: PoseEncoder, layer: nn.Module) -> nn.Module:
        before, encoder.projection = encoder.projection, layer  # type: ignore[assignment]
        return before
