"""The diameter of a molecule, and images too small for it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cryozoo.geometry.sampling import random_rotations
from cryozoo.imaging.extent import check_fits, measure_extent
from cryozoo.imaging.masks import mask_from_map
from cryozoo.imaging.projector import Projector
from cryozoo.imaging.simulate import Imaging, Simulator
from cryozoo.imaging.volumes import Volume
from cryozoo.particles.errors import BadInput, BadInputWarning
from cryozoo.training.data import Simulated

PHANTOM = Volume.phantom(size=64, pixel_size=5.0)
MAP = Volume(PHANTOM.data, 5.0)
DIAMETER = 0.6 * 64 * 5.0


def test_of_atoms_it_is_exact() -> None:
    atoms = np.array([[30.0, 40.0, 0.0], [-10.0, 0.0, 5.0]])
    volume = Volume.from_atoms(atoms, np.ones(2), size=32, pixel_size=5.0)
    assert measure_extent(volume).diameter == pytest.approx(100.0)
    assert measure_extent(volume.coarsen(24)).diameter == pytest.approx(100.0)
    assert measure_extent(PHANTOM).diameter == pytest.approx(DIAMETER)


def test_of_a_map_it_is_that_of_the_atoms() -> None:
    assert measure_extent(MAP).diameter == pytest.approx(DIAMETER, rel=0.05)
    assert measure_extent(Volume(1e-4 * MAP.data - 3, 5.0)).diameter == measure_extent(MAP).diameter
    learnt = Volume(MAP.data.double().requires_grad_(), 5.0)
    assert measure_extent(learnt).diameter == measure_extent(MAP).diameter


@pytest.mark.parametrize("name", ["5a1a", "4v89", "1rb8", "6e68"])
def test_of_maps_of_structures(data: Callable[[str], Path], name: str) -> None:
    volume = Volume.load(data(f"structures/{name}.npz"), size=64, pixel_size=7.0)
    diameter = measure_extent(volume).diameter
    assert measure_extent(Volume(volume.data, 7.0)).diameter == pytest.approx(diameter, rel=0.15)


@pytest.mark.parametrize("masked", [False, True])
def test_noise_changes_little(masked: bool) -> None:
    mask = mask_from_map(MAP)
    noise = 1.5 * MAP.data[mask > 0.5].std() * torch.randn(MAP.data.shape, generator=torch.Generator().manual_seed(0))
    noisy = (MAP.data + noise) * (mask if masked else 1)
    assert measure_extent(Volume(noisy, 5.0)).diameter == pytest.approx(measure_extent(MAP).diameter, rel=0.06)


def test_off_centre_it_reaches_farther() -> None:
    moved = measure_extent(Volume(MAP.data.roll((6, 0, 8), (0, 1, 2)), 5.0))
    centred = measure_extent(MAP)
    assert moved.offset == pytest.approx(50.0, abs=centred.offset)
    assert centred.diameter + 20 < moved.diameter < centred.diameter + 101


def test_it_is_measured_from_the_origin_of_an_odd_box() -> None:
    data = torch.zeros(33, 33, 33)
    data[16, 16, 4:29] = 1.0
    found = measure_extent(Volume(data, 5.0))
    assert found.offset < 1e-3
    assert found.diameter == pytest.approx(120.0, abs=10.0)


def test_a_map_without_contrast_fills_its_box() -> None:
    assert measure_extent(Volume(torch.zeros(16, 16, 16), 2.0)).diameter > 32.0


def test_what_fills_the_box_is_warned_of_and_what_does_not_fit_refused() -> None:
    check_fits(PHANTOM, 43, 5.0, name="a.mrc")
    found = r"^a.mrc: a molecule of 192 A in images of 200 A \(40 pixels of 5 A\); that leaves little room for shifts$"
    with pytest.warns(BadInputWarning, match=found):
        check_fits(PHANTOM, 40, 5.0, name="a.mrc")
    found = (
        r"^a.mrc: a molecule of 192 A in images of 160 A \(32 pixels of 5 A\); expected at least 39 pixels, or larger "
    )
    with pytest.raises(BadInput, match=found + "ones than 6 A; .*allow_wrap"):
        check_fits(PHANTOM, 32, 5.0, name="a.mrc")
    off_centre = Volume(MAP.data.roll(10, 0), 5.0)
    with pytest.raises(BadInput, match=r"it is \d\d A off the centre of its map"):
        check_fits(off_centre, 48, 5.0, name="a.mrc")


def test_images_that_hold_the_molecule_are_crops_of_larger_ones(data: Callable[[str], Path]) -> None:
    """At the same pixel size. Smaller ones are not: what is outside has been added on the opposite side."""
    volume = Volume.load(data("maps/4v7r_5A.mrc"))
    rotation = random_rotations(4, generator=torch.Generator().manual_seed(0))
    large = Projector(volume)(rotation)

    def correlation(size: int) -> float:
        small = Projector(volume, image_size=size)(rotation)
        edge = (large.shape[-1] - size) // 2
        crop = large[:, edge : edge + size, edge : edge + size]
        return float(torch.corrcoef(torch.stack([small.flatten(), crop.flatten()]))[0, 1])

    assert correlation(64) > 0.998
    assert correlation(32) < 0.8
    with pytest.raises(BadInput, match="of 315 A in images of 160 A"):
        Simulator(volume, Imaging(), image_size=32)
    assert Simulator(volume, Imaging(allow_wrap=True), image_size=32)(1).images.shape == (1, 1, 32, 32)


def test_training_on_too_small_a_box_is_refused(data: Callable[[str], Path]) -> None:
    name = "maps/5j0n_map.mrc"
    data(name)
    assert Simulated(name).simulator(64, 4.0).projector.pixel_size == 4.0
    with pytest.raises(BadInput, match=rf"^{name}: a molecule of 229 A in images of 117 A .* than 7.17 A"):
        Simulated(name).simulator(32, None)
    assert Simulated(name, Imaging(allow_wrap=True)).simulator(32, None)(1).images.isfinite().all()


def test_atoms_outside_the_box_are_refused_by_file(data: Callable[[str], Path]) -> None:
    with pytest.raises(BadInput, match=r"4v89.npz: the atoms span \d+ A, the box is 128 A: use a larger one"):
        Simulated(str(data("structures/4v89.npz"))).simulator(32, 4.0)
