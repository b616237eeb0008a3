"""Maps from recovered orientations: the whole way on a small scale, and that the errors are those of the poses."""

from pathlib import Path

import pytest
import torch

from cryozoo.benchmarks import maps
from cryozoo.benchmarks.maps import agreement, map_from, open_test_set, pixel_distances, write
from cryozoo.particles.fsc import fourier_shell_correlation
from cryozoo.zoo.data import FixedSet, open_data
from cryozoo.zoo.recipe import Recipe
from cryozoo.zoo.train import train

RECIPE = Recipe(
    "test_siamese_cnn-embedding",
    image_size=24,
    data={"volume": "phantom:0", "images": 400, "split": (0.5, 0.17), "shift_sigma": 5.0},
    steps=3,
    pixel_size=8.0,
    loss="siamese_distance",
    loss_args={"shift_weight": 1.0, "shift_scale": 10.0},
    batch_size=16,
    validate_every=3,
)


def test_the_test_set_is_that_of_the_training() -> None:
    data, preprocessing = open_data(
        RECIPE.data, image_size=24, pixel_size=8.0, augment="none", device=torch.device("cpu")
    )
    assert isinstance(data, FixedSet)
    test = open_test_set(RECIPE)
    torch.testing.assert_close(preprocessing(test.images, test.pixel_size), data.test.images)
    assert data.test.target.rotation is not None
    torch.testing.assert_close(test.rotation.float(), data.test.target.rotation)


def test_true_orientations_give_the_map_and_others_do_not() -> None:
    test = open_test_set(RECIPE)
    aligned, fsc = agreement(map_from(test, test.rotation, test.shift), test.truth)
    assert fsc[1:9].min() > 0.95
    torch.testing.assert_close(fsc, fourier_shell_correlation(aligned.data, test.truth.data))
    shuffled = test.rotation[torch.randperm(len(test.rotation), generator=torch.Generator().manual_seed(0))]
    assert agreement(map_from(test, shuffled, test.shift), test.truth)[1][4:9].max() < 0.6


def test_distances_of_pixels_against_a_loop() -> None:
    images = torch.randn(5, 8, 8, generator=torch.Generator().manual_seed(0))
    found = pixel_distances(images)
    loop = torch.stack([torch.stack([(a - b).norm() for b in images]) for a in images])
    torch.testing.assert_close(found, loop * (torch.pi / loop.max()))


def test_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "SEEDS", 2)
    train(RECIPE, tmp_path / "run", progress=False)
    metrics = write(tmp_path / "run", tmp_path / "picture.png")
    assert metrics["images"] == 132
    assert metrics["E_OR"] < metrics["blind"]
    assert metrics["resolution_true_A"] < metrics["resolution_random_A"]
    assert 0 <= metrics["gauge_found"] <= 1
    assert metrics["L_DE_chance"] == pytest.approx(0.47, abs=0.1)
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
