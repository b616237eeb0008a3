"""Volumes from maps, atoms and the phantom."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from cryozoo.imaging.volumes import Volume, read_atoms
from cryozoo.particles.errors import BadInput

PDB = """\
ATOM      1  N   ALA A   1      11.104   6.134  -6.504  1.00 20.00           N
ATOM      2  CA  ALA A   1      11.639   6.071  -5.147  1.00 20.00           C
ATOM      3  HA  ALA A   1      12.639   6.071  -5.147  1.00 20.00           H
HETATM    4  O   HOH A   2      30.000  30.000  30.000  1.00 20.00           O
END
"""


def test_atoms_become_gaussians_of_the_stated_width() -> None:
    resolution, pixel = 20.0, 2.0
    positions = np.array([[6.3, -3.1, 0.7], [-10.0, 4.0, 12.0]])
    volume = Volume.from_atoms(positions, np.array([6.0, 8.0]), size=48, pixel_size=pixel, resolution=resolution)
    axis = (np.arange(48) - 24) * pixel
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    sigma = resolution / (np.pi * np.sqrt(2))
    expected = np.zeros((48,) * 3)
    for (px, py, pz), weight in zip(positions, (6.0, 8.0), strict=True):
        r2 = (x - px) ** 2 + (y - py) ** 2 + (z - pz) ** 2
        expected += weight * np.exp(-r2 / (2 * sigma**2)) * (pixel / (sigma * np.sqrt(2 * np.pi))) ** 3
    assert np.abs(volume.data.numpy() - expected).max() < 2e-3 * expected.max()


def test_atoms_outside_the_box_are_refused() -> None:
    with pytest.raises(ValueError, match="larger"):
        Volume.from_atoms(np.array([[100.0, 0, 0]]), np.ones(1), size=32, pixel_size=2.0)


def test_pdb_is_read_without_hydrogens_and_water(tmp_path: Path) -> None:
    path = tmp_path / "model.pdb"
    path.write_text(PDB)
    coordinates, numbers = read_atoms(path)
    assert numbers.tolist() == [7.0, 6.0]
    np.testing.assert_allclose(coordinates[1] - coordinates[0], [0.535, -0.063, 1.357], atol=1e-6)
    np.testing.assert_allclose(np.average(coordinates, axis=0, weights=numbers), 0, atol=1e-9)


def test_npz_of_the_shared_structures(data: Callable[[str], Path]) -> None:
    volume = Volume.load(data("structures/5a1a.npz"), size=64, pixel_size=4.0)
    assert volume.data.shape == (64, 64, 64)
    assert volume.data.max() > 5 * volume.data.std()


@pytest.mark.parametrize(
    ("name", "content"), [("x.pdb", b"no atoms here"), ("x.npz", b"garbage"), ("x.cif", b"\x00\x01")]
)
def test_broken_models_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadInput, match=name):
        Volume.load(path, size=32, pixel_size=4.0)


def test_phantom_is_reproducible_and_differs_between_seeds() -> None:
    a, again, b = Volume.phantom(size=32), Volume.phantom(size=32), Volume.phantom(size=32, seed=1)
    assert torch.equal(a.data, again.data)
    assert torch.corrcoef(torch.stack([a.data.flatten(), b.data.flatten()]))[0, 1] < 0.8
    assert a.data[0].abs().max() < 1e-3 * a.data.max(), "the phantom touches the border of its box"


def test_phantom_has_no_symmetry() -> None:
    """No half turn, mirror or third of a turn about any axis of its inertia tensor maps it onto itself."""
    data = Volume.phantom(size=32).data.numpy()
    axis = np.arange(32) - 16
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    weight = np.clip(data.ravel(), 0, None)
    _, axes = np.linalg.eigh((grid * weight[:, None]).T @ grid)
    for direction in axes.T:
        for operation in (
            Rotation.from_rotvec(np.pi * direction).as_matrix(),
            Rotation.from_rotvec(2 * np.pi / 3 * direction).as_matrix(),
            np.eye(3) - 2 * np.outer(direction, direction),
        ):
            turned = map_coordinates(data, (grid @ operation).T + 16, order=1).ravel()
            assert np.corrcoef(turned, data.ravel())[0, 1] < 0.9


@pytest.mark.parametrize(("size", "smaller"), [(48, 32), (48, 31), (45, 32), (45, 27), (32, 32)])
def test_coarser_voxels_of_the_same_box_sample_the_same_density(size: int, smaller: int) -> None:
    def blob(size: int, pixel_size: float) -> torch.Tensor:
        axis = (torch.arange(size) - size // 2) * pixel_size
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        return torch.exp(-((x - 7) ** 2 + (y + 4) ** 2 + (z - 11) ** 2) / (2 * 12.0**2))

    found = Volume(blob(size, 4.0), 4.0).coarsen(smaller)
    assert (found.size, found.pixel_size) == (smaller, pytest.approx(4.0 * size / smaller))
    torch.testing.assert_close(found.data, blob(smaller, found.pixel_size), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match=f"1 to the {smaller} voxels"):
        found.coarsen(smaller + 1)
