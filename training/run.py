"""A folder in which a training has ended: its recipe, encoder and data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from ..imaging.simulate import Simulator
from ..particles.errors import BadInput
from ..zoo.encoder import PoseEncoder
from ..zoo.pretrained import load_pretrained
from .batches import TrainingData
from .data import Simulated
from .recipe import Recipe


@dataclass(frozen=True)
class FinishedRun:
    """What :func:`train` left in a folder.

    Attributes:
        folder: with ``recipe.json`` and ``model/``.
        recipe: what was trained.
    """

    folder: Path
    recipe: Recipe

    @classmethod
    def open(cls, folder: str | Path) -> FinishedRun:
        """Read the recipe; the rest is read when it is asked for."""
        return cls(Path(folder), Recipe.load(Path(folder) / "recipe.json"))

    @cached_property
    def encoder(self) -> PoseEncoder:
        """The trained encoder; BadInput where the training has not ended."""
        encoder = load_pretrained(f"local-dir:{self.folder / 'model'}")
        if encoder.entry is not None and (unfinished := encoder.entry.metrics.get("unfinished")):
            raise BadInput(self.folder, unfinished, expected="a training that has ended", hint="let it go on")
        return encoder

    @property
    def simulated(self) -> Simulated:
        """Its data; BadInput where these were no simulated particles."""
        return simulated(self.recipe)

    def simulator(self) -> Simulator:
        """The simulator of its particles."""
        return self.simulated.simulator(self.recipe.image_size, self.recipe.pixel_size)

    def data(self) -> TrainingData:
        """Its particles, those of validation and test among them."""
        recipe = self.recipe
        return recipe.data.open(recipe.image_size, recipe.pixel_size, torch.device("cpu"), recipe.seed)


def simulated(recipe: Recipe) -> Simulated:
    """The data of a recipe whose particles are simulated; BadInput for others."""
    if not isinstance(recipe.data, Simulated):
        raise BadInput(recipe.source, "particles on disk", where="field data", expected="a volume to simulate")
    return recipe.data
