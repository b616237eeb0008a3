"""Fixtures of the tests of prediction, of training and of the command line."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cryozoo.cli.main import main
from cryozoo.imaging.simulate import Imaging, Simulator
from cryozoo.imaging.simulate_files import write_simulated_stack
from cryozoo.imaging.volumes import Volume
from cryozoo.training.data import Simulated
from cryozoo.training.recipe import Recipe
from cryozoo.zoo.encoder import PoseEncoder, create_encoder
from cryozoo.zoo.entry import Entry
from cryozoo.zoo.pretrained import save_pretrained
from cryozoo.zoo.registry import list_combinations, list_parts

SIZE, PIXEL_SIZE, COUNT = 32, 5.0, 23


FAMILIES = [f"timm_test_byobnet-{head}" for head in list_parts("head")]
"""A small member of each family of backbones, which the registry cannot list."""


def make_entry(**fields: Any) -> Entry:
    """What might be known of some encoder."""
    shape: dict[str, Any] = {
        "name": "test_vgg_gem-sixd_svd",
        "image_size": SIZE,
        "in_chans": 1,
        "pixel_size": PIXEL_SIZE,
    }
    rest: dict[str, Any] = {"backbone_args": {}, "head_args": {}, "shift": True, "parameters": 1, "source": "embedded"}
    return Entry(**{**shape, **rest, **fields})


@pytest.fixture(
    params=[
        pytest.param(name, marks=[] if name.startswith("test_") else pytest.mark.slow)
        for name in list_combinations() + FAMILIES
    ]
)
def combination(request) -> tuple[str, dict[str, float]]:
    """Every backbone with every head, none excluded: its name and the backbone's arguments, which make it narrow."""
    name = request.param
    return name, {} if name.startswith(("test_", "timm_")) else {"width": 1 / 16}


@dataclass(frozen=True)
class Finished:
    """What a command left on the screen."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys) -> Callable[..., Finished]:
    """``run("predict", path, ...)`` as the shell would, in this process."""

    def call(*words: object) -> Finished:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        return Finished(int(stop.value.code or 0), out, err)

    return call


@pytest.fixture(scope="session")
def tiny() -> PoseEncoder:
    """An encoder with random weights that has seen images, with a confidence and a shift."""
    torch.manual_seed(0)
    encoder = create_encoder("test_vgg_gem-qcqp_bingham", image_size=SIZE, pixel_size=PIXEL_SIZE, shift=True)
    encoder.train()(torch.randn(16, 1, SIZE, SIZE))
    return encoder.eval()


@pytest.fixture(scope="session")
def tiny_folder(tiny, tmp_path_factory) -> Path:
    """The encoder, saved, as if it had been trained on a phantom."""
    folder = tmp_path_factory.mktemp("encoder")
    data = Simulated("phantom:3", Imaging(snr=0.5, shift_sigma=5.0, defocus=(8000.0, 20000.0)))
    recipe = Recipe("test_vgg_gem-qcqp_bingham", SIZE, data, 1, pixel_size=PIXEL_SIZE)
    save_pretrained(tiny, folder, recipe=recipe, metrics={"n": 10, "median_deg": 12.5, "auroc_5deg": float("nan")})
    return folder


@pytest.fixture
def stack(tmp_path) -> Path:
    """A STAR file of COUNT simulated particles, whose images lie beside it in particles.mrcs."""
    volume = Volume.phantom(size=SIZE, pixel_size=PIXEL_SIZE, seed=3)
    imaging = Imaging(snr=0.5, shift_sigma=5.0, defocus=(8000.0, 20000.0))
    write_simulated_stack(tmp_path / "particles.mrcs", Simulator(volume, imaging), COUNT)
    return tmp_path / "particles.star"


@pytest.fixture
def pixels(stack) -> np.memmap:
    """The images of ``stack``, (COUNT, SIZE, SIZE), to be changed in the file."""
    return np.memmap(stack.with_suffix(".mrcs"), dtype="<f4", mode="r+", offset=1024, shape=(COUNT, SIZE, SIZE))
