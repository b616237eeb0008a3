"""A recipe that nobody wrote is like the images it was made for."""

import math

import numpy as np
import pytest
import torch

from cryozoo.imaging.extent import measure_extent
from cryozoo.imaging.simulate import Imaging, Simulator
from cryozoo.imaging.simulate_files import write_simulated_stack
from cryozoo.imaging.volumes import Volume
from cryozoo.particles.errors import BadInput, BadInputWarning
from cryozoo.particles.mrc_writer import write_volume
from cryozoo.training.data import Simulated
from cryozoo.training.from_map import recipe_from_map
from cryozoo.training.recipe import Recipe

SIZE, PIXEL = 32, 8.0


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    volume = Volume.phantom(size=SIZE, pixel_size=PIXEL)
    write_volume(tmp_path_factory.getbasetemp() / "map.mrc", volume.data.numpy(), PIXEL)
    return volume


@pytest.fixture(scope="module")
def map_name(volume, tmp_path_factory):
    return tmp_path_factory.getbasetemp() / "map.mrc"


def particles(volume, folder, imaging, n=48):
    write_simulated_stack(folder / "particles.mrcs", Simulator(volume, imaging), n)
    return folder / "particles.star"


def test_the_map_alone(volume, map_name):
    recipe = recipe_from_map(map_name)
    box = recipe.image_size * recipe.pixel_size
    shift = recipe.data.imaging.shift_sigma
    # Of a map the diameter is measured: to less than a voxel.
    assert measure_extent(volume).diameter * 1.25 + 4 * shift == pytest.approx(box, rel=0.07)
    assert recipe.data.imaging.defocus is not None
    assert recipe.data.ctf == "phase_flip"
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert recipe_from_map(map_name, symmetry="C2").data.symmetry == "C2"


def test_a_map_off_its_axes_is_told(map_name):
    data = Simulated(str(map_name), Imaging(), symmetry="C3", held_out=16)
    with pytest.warns(BadInputWarning, match="is not C3 in RELION's axes"):
        data.open(SIZE, PIXEL, torch.device("cpu"))


def test_images_say_what_they_are_like(volume, map_name, tmp_path):
    imaging = Imaging(
        snr=1.0, shift_sigma=8.0, defocus=(12_000.0, 21_000.0), astigmatism=400.0, voltage=200.0, noise_slope=0.0
    )
    recipe = recipe_from_map(map_name, particles(volume, tmp_path, imaging))
    made = recipe.data.imaging
    assert (made.voltage, made.spherical_aberration, made.amplitude_contrast) == (200, 2.7, 0.1)
    np.testing.assert_allclose(made.defocus, (12_000, 21_000), rtol=0.1)
    assert made.astigmatism == pytest.approx(400, rel=0.1)
    assert made.shift_sigma == pytest.approx(8, rel=0.2)
    assert made.noise_slope == 0
    # The SNR of the same images in the network's box and pixels: that of a simulator with the noise of these.
    box = recipe.image_size * recipe.pixel_size
    assert box <= SIZE * PIXEL * 1.001
    low, high = made.snr
    of_the_box = 1.0 * (SIZE * PIXEL / box) ** 2 * (recipe.pixel_size / PIXEL) ** 2
    assert low < of_the_box < high < 6 * low
    assert math.sqrt(low * high) == pytest.approx(of_the_box, rel=0.35)


@pytest.mark.filterwarnings("ignore:.*look like no particles")  # each image has noise of its own
def test_noise_that_falls_off_and_no_ctf(volume, map_name, tmp_path):
    recipe = recipe_from_map(map_name, particles(volume, tmp_path, Imaging(snr=2.0, noise_slope=2.0)))
    assert recipe.data.ctf == "none"
    assert recipe.data.imaging.defocus is None
    assert 0.5 < recipe.data.imaging.noise_slope < 1.5  # slopes are uniform from 0 to 2


def test_coarse_images_are_not_made_finer(volume, map_name, tmp_path):
    simulator = Simulator(volume, Imaging(snr=2.0), image_size=20, pixel_size=12.0)
    write_simulated_stack(tmp_path / "particles.mrcs", simulator, 64)
    recipe = recipe_from_map(map_name, tmp_path / "particles.star")
    assert (recipe.image_size, recipe.pixel_size) == (32, 12.0)


def test_a_molecule_that_does_not_fit(volume, map_name, tmp_path):
    small = Volume.phantom(size=16, pixel_size=PIXEL)
    with pytest.raises(BadInput, match="a molecule of"):
        recipe_from_map(map_name, particles(small, tmp_path, Imaging(snr=1.0), 16))
    with pytest.raises(BadInput, match="no such file"):
        recipe_from_map(tmp_path / "nowhere.mrc")


def test_a_phantom_needs_no_file():
    recipe = recipe_from_map("phantom:3")
    assert isinstance(recipe.data, Simulated)
    assert recipe.data.volume == "phantom:3"
    assert recipe.data.simulator(recipe.image_size, recipe.pixel_size).projector.image_size == 64
