"""Symmetric maps, turned and shifted at random, come back to RELION's axes; others are said not to be symmetric."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from cryozoo.geometry.point_groups import point_group
from cryozoo.imaging.symmetry_axes import align_symmetry
from cryozoo.imaging.volumes import Volume

SIZE, PIXEL = 48, 4.0
SHIFT = np.array([5.0, -7.0, 3.0])  # Angstrom


def complex_of(symmetry: str, seed: int) -> NDArray[np.float64]:
    """Atoms (N, 3) of a complex of this symmetry, turned at random off RELION's axes, and shifted."""
    rng = np.random.default_rng(seed)
    chain = np.cumsum(rng.normal(size=(60, 3)) * 5.0, axis=0)
    chain += np.array([30.0, 10.0, 20.0]) - chain.mean(axis=0)
    chain *= 60 / np.linalg.norm(chain, axis=1).max()
    atoms = np.concatenate([chain @ mate.T for mate in point_group(symmetry).numpy()])
    turn = Rotation.random(random_state=seed).as_matrix()
    return atoms @ turn.T + SHIFT


@pytest.mark.parametrize(
    ("symmetry", "seed"), [("C2", 0), ("C6", 1), ("D2", 2), ("D7", 3), ("T", 4), ("O", 0), ("I", 5)]
)
def test_axes_are_found(symmetry: str, seed: int) -> None:
    atoms = complex_of(symmetry, seed)
    volume = Volume.from_atoms(atoms, np.ones(len(atoms)), size=SIZE, pixel_size=PIXEL)
    found = align_symmetry(volume, symmetry)
    assert found.correlation > 0.99
    # The atoms, turned as the map was, are where their mates are.
    placed = atoms @ found.rotation.numpy().T + found.shift.numpy()
    for mate in point_group(symmetry).numpy():
        distance, _ = cKDTree(placed).query(placed @ mate.T)
        assert distance.max() < 0.5  # Angstrom, an eighth of a voxel


def test_what_is_not_symmetric_is_told() -> None:
    assert align_symmetry(Volume.phantom(size=32, pixel_size=5.0), "C3").correlation < 0.8
    with pytest.raises(ValueError, match="C1 has no axes"):
        align_symmetry(Volume.phantom(size=32, pixel_size=5.0), "C1")
