"""Maps from recovered orientations: the whole way on a small scale, and that the errors are those of the poses."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cryozoo.benchmarks.studies import maps
from cryozoo.benchmarks.studies.maps import agreement, map_from, open_test_set, pixel_distances, predict, write
from cryozoo.geometry import PlaneGroup, point_group
from cryozoo.geometry.pairs import pair_distance
from cryozoo.imaging.fsc import fourier_shell_correlation
from cryozoo.imaging.inplane import transform_d4
from cryozoo.imaging.simulate import Imaging
from cryozoo.particles.files import write_json
from cryozoo.training.data import Simulated
from cryozoo.training.recipe import Recipe
from cryozoo.training.trainer import train
from cryozoo.zoo.encoder import create_encoder

DATA = Simulated("phantom:0", Imaging(shift_sigma=5.0), images=400)
RECIPE = Recipe(
    "test_siamese_cnn-embedding",
    image_size=24,
    data=DATA,
    steps=3,
    pixel_size=8.0,
    loss="siamese_distance",
    shift_weight=1.0,
    shift_scale=10.0,
    batch_size=16,
    validate_every=3,
)


def test_the_test_set_is_that_of_the_training() -> None:
    data = DATA.open(24, 8.0, torch.device("cpu"))
    test = open_test_set(RECIPE)
    torch.testing.assert_close(data.preprocessing(test.images, test.pixel_size), data.test.images)
    assert data.test.pose.rotation is not None
    torch.testing.assert_close(test.rotation.float(), data.test.pose.rotation)


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


@pytest.mark.filterwarnings("ignore:.*is not C2 in RELION")  # of the phantom, which has no symmetry
def test_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "SEEDS", 1)
    monkeypatch.setattr(maps, "MOLECULES", {"5a1a": (DATA, 8.0)})
    monkeypatch.setattr(maps, "CONDITIONS", {"noisy": DATA.imaging})
    recipe = replace(RECIPE, data=replace(DATA, symmetry="C2"), loss_args={"restricted": True})
    train(recipe, tmp_path / "run", progress=False)
    metrics = write(tmp_path / "run", tmp_path / "picture.png")
    assert metrics["images"] == 132
    assert metrics["E_OR"] < metrics["blind"]
    assert metrics["blind"] == pytest.approx(metrics["blind_chance"], abs=0.5)
    assert metrics["resolution_true_A"] < metrics["resolution_random_A"]
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    write_json(tmp_path / "maps-5a1a-noisy-siamese_cnn.json", metrics)
    (tmp_path / "maps").mkdir()
    write_json(tmp_path / "maps" / "5a1a-noisy-siamese_cnn.json", {"recipe": recipe.to_dict()})
    row = [cell.strip() for cell in maps.table(tmp_path).splitlines()[2].split("|")]
    assert row[1:5] == ["5a1a", "clean", "test_siamese_cnn-embedding", "200"]
    assert f"{metrics['blind']:.3f}" in row


@pytest.mark.parametrize("symmetry", ["C1", "C2"])
def test_an_equivariant_encoder_has_no_camera_of_its_own(symmetry: str) -> None:
    """Trained on distances or not: what is left of its errors after aligning frames is not that of a camera."""
    test = open_test_set(replace(RECIPE, data=replace(DATA, symmetry=symmetry)))
    test.images[:, 0] = test.images[:, :, 0] = 0  # without partners on the other side
    encoder = create_encoder("d4_vgg_gem-sixd_svd", image_size=24, pixel_size=8.0, backbone_args={"width": 1 / 16})
    encoder.train()(torch.randn(8, 1, 24, 24))
    found = predict(encoder, test)
    assert ("E_OR" in found.metrics) == (symmetry == "C1")
    torch.testing.assert_close(found.distances, pair_distance(found.rotation, found.pairs, point_group(symmetry)))
    turned = replace(test, images=transform_d4(test.images, 5))
    moved = PlaneGroup("D4").phi[5] @ found.rotation
    torch.testing.assert_close(predict(encoder, turned).rotation, moved, rtol=0, atol=1e-3)
