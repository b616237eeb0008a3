"""What cannot be matched is refused, what is odd is said, and does not spoil the rest."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryozoo.imaging.noise import RadialNoise, noise_levels
from cryozoo.imaging.pose_posterior import Matches
from cryozoo.imaging.projector import Projector
from cryozoo.imaging.simulate import Imaging, Simulator
from cryozoo.imaging.volumes import Volume, load_volume
from cryozoo.particles.errors import BadInput, BadInputWarning
from cryozoo.particles.mrc_writer import write_volume
from cryozoo.zoo.match import match
from cryozoo.zoo.match_checks import check_arguments, image_doubts, looks_like_no_particle, opened_map, symmetry_doubt

SIZE, PIXEL = 32, 6.0


@pytest.fixture(scope="module")
def volume() -> Volume:
    return Volume.phantom(size=SIZE, pixel_size=PIXEL)


@pytest.fixture
def of_map(volume):
    """The same voxels as those of a map, whose atoms nobody knows."""
    return Volume(volume.data, PIXEL)


def test_a_constant_background_is_taken_off(volume, of_map):
    raised = Volume(volume.data + 0.3 * volume.data.max(), PIXEL)
    torch.testing.assert_close(opened_map(raised, SIZE, PIXEL)[0].data, volume.data, atol=1e-5, rtol=1e-4)
    assert torch.equal(opened_map(of_map, SIZE, PIXEL)[0].data, volume.data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: -d, "darker than what is around it; multiply the map by -1"),
        (lambda d: 1e20 * d, "values up to"),
        (lambda d: 1e-20 * d, "values up to"),
        (lambda d: d[:-1], "31 x 32 x 32 voxels"),
        (lambda d: torch.where(d == d.max(), torch.nan, d), "NaN or infinite"),
        (torch.zeros_like, "a constant map"),
    ],
)
def test_maps_that_are_none(volume, change, message):
    with pytest.raises(BadInput, match=message):
        opened_map(Volume(change(volume.data), PIXEL), SIZE, PIXEL)


@pytest.mark.parametrize(
    ("usual", "odd", "said"),
    [(1.0, 3.0, ["40 of 100 images look like no particles"]), (1.0, 1.2, []), (3.0, 3.5, ["most images differ"])],
)
def test_where_most_images_misfit_it_is_the_map(usual, odd, said):
    misfit = torch.where(torch.arange(100) < 40, odd, usual)
    ones = torch.ones(100)
    found = Matches(
        rotation=torch.eye(3).expand(100, 3, 3),
        shift=torch.zeros(100, 2),
        covariance=1e-4 * torch.eye(5).expand(100, 5, 5),
        probability=ones,
        error=0.02 * ones,
        score=200 * ones,
        amplitude=ones,
        misfit=misfit,
    )
    assert int(looks_like_no_particle(found).sum()) == (40 if odd > 1.5 * usual else 0)
    doubts = list(image_doubts(found, None))
    assert len(doubts) == len(said)
    assert all(part in doubt for part, doubt in zip(said, doubts, strict=True))


def test_a_map_is_a_file_or_a_volume(volume):
    with pytest.raises(TypeError, match="map ndarray, expected a file or a Volume"):
        opened_map(volume.data.numpy(), SIZE, PIXEL)
    with pytest.raises(BadInput, match="voxels of 0 A"):
        opened_map(Volume(volume.data, 0.0), SIZE, PIXEL)


def test_maps_whose_box_is_odd(volume):
    with pytest.warns(BadInputWarning, match="is cut off by the map's box"):
        opened_map(Volume(volume.data[10:22, 10:22, 10:22], PIXEL), SIZE, PIXEL)
    with pytest.warns(BadInputWarning, match="is a voxel 1 A wide"):
        opened_map(Volume(volume.data, 1.0), SIZE, PIXEL)


def test_what_the_maps_of_others_are(data):
    """No doubt about the boxes of maps as they come."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("maps/clean70S_ecoli_65.mrc", "maps/4v7r_5A.mrc", "structures/5a1a.npz"):
            file = data(name)
            opened_map(file, 128, 5.0)


@pytest.mark.parametrize(
    "words", [{"reach": -1.0}, {"reach": float("nan")}, {"reach": 97.0}, {"resolution": 0.0}, {"resolution": 25.0}]
)
def test_arguments_out_of_range(words):
    with pytest.raises(BadInput, match=f"p.star: {next(iter(words))} .*; expected"):
        check_arguments("p.star", **{"reach": None, "resolution": None, **words}, box=SIZE * PIXEL)
    check_arguments("p.star", 96.0, 24.0, SIZE * PIXEL)


def test_false_symmetries(volume, data):
    projector = Projector(volume)
    doubts = list(symmetry_doubt(projector, "m.mrc", "D7"))
    assert "m.mrc is not D7 in RELION's axes" in doubts[0]
    assert not list(symmetry_doubt(projector, "m.mrc", "C1"))
    data("structures/5a1a.npz")
    true = load_volume("structures/5a1a.npz", image_size=48, pixel_size=5.0)
    assert not list(symmetry_doubt(Projector(true), "5a1a", "D2"))


def test_a_map_by_another_name_has_its_own_voxels(volume, tmp_path: Path):
    write_volume(tmp_path / "map.mrc", volume.data.numpy(), PIXEL)
    (tmp_path / "map.mrc").rename(tmp_path / "map.rec")
    assert load_volume(str(tmp_path / "map.rec"), image_size=64, pixel_size=3.0).pixel_size == PIXEL


def test_the_median_of_few_images_is_right():
    """Of noise of known power, for odd and even numbers of images; the mean over many samples is sharp."""
    generator = torch.Generator().manual_seed(0)
    radius = torch.full((40_000,), 0.1)
    for count in (1, 2, 3, 8, 33):
        samples = torch.complex(*torch.randn(2, count, len(radius), generator=generator)) * 3
        assert float(RadialNoise.of_samples(samples, radius, 10.0).shells[1]) == pytest.approx(18, rel=0.03)


def test_levels_of_noise():
    noise = torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    images = noise * torch.tensor([1.0, 5, 0.1])[:, None, None]
    np.testing.assert_allclose(noise_levels(images), [1, 5, 0.1], rtol=0.1)


def test_junk_is_told_and_does_no_harm(volume):
    """Images of other scales, of noise alone, and with bright discs, among particles."""
    generator = torch.Generator().manual_seed(0)
    batch = Simulator(volume, Imaging(snr=0.5, shift_sigma=4.0))(72, generator)
    images, true = batch.images[:, 0].clone(), batch.pose.rotation
    assert true is not None
    sigma = float(images.std())
    axis = torch.arange(SIZE) - 8.0
    disc = ((axis[:, None] ** 2 + axis**2) < 36).float()
    images[48:60] = sigma * torch.randn(12, SIZE, SIZE, generator=generator)
    images[60:] += 8 * sigma * disc
    images[5] *= 300
    images[7] *= 0.01
    with pytest.warns(BadInputWarning, match="of 72 images look like no particles"):
        found = match(images, volume, pixel_size=PIXEL, reach=12.0)
    error = np.rad2deg(Rotation.from_matrix(found.rotation[:48].swapaxes(1, 2) @ true[:48].numpy()).magnitude())
    assert (error < 9).mean() > 0.95
    odd = looks_like_no_particle(found.matches).numpy()
    assert not odd[:48].any()
    assert odd[48:].mean() > 0.9
    merit = found.matches.merit.numpy()
    assert merit[:48].min() > merit[48:60].max()
