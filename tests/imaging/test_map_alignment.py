"""Alignment of maps: planted rotations, shifts and mirrors are found; what cannot be aligned is refused."""

import numpy as np
import pytest
import scipy.ndimage
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cryozoo.imaging.map_alignment import align_map, mirror_resolution, transform_map
from cryozoo.imaging.projector import Projector
from cryozoo.imaging.volumes import Volume

PIXEL = 3.0
CENTRES = np.random.default_rng(0).normal(size=(25, 3)) * [4.0, 3.0, 2.0]  # voxels
HEIGHTS = np.random.default_rng(1).uniform(0.5, 1.5, size=25)
MIRROR = np.diag([1.0, 1.0, -1.0])


def balls(centres: NDArray[np.float64], size: int, *, noise: float = 0.0, seed: int = 0) -> Volume:
    """Gaussian balls, computed at the voxels, and noise in units of the deviation of their density."""
    axis = np.arange(size) - size // 2
    x, y, z = (np.exp(-((axis - centres[:, i, None]) ** 2) / (2 * 1.4**2)) for i in range(3))
    data = np.einsum("b,bz,by,bx->zyx", HEIGHTS, z, y, x)
    data += noise * data.std() * np.random.default_rng(seed).normal(size=data.shape)
    return Volume(torch.from_numpy(data.astype(np.float32)), PIXEL)


def planted(seed: int, reach: float) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """A random rotation, a shift in voxels, and with odd seeds the mirror."""
    shift = np.random.default_rng(seed).uniform(-reach, reach, size=3)
    return Rotation.random(random_state=seed).as_matrix(), shift, MIRROR if seed % 2 else np.eye(3)


def degrees_between(a: torch.Tensor, b: NDArray[np.float64]) -> float:
    return float(np.degrees(Rotation.from_matrix(a.numpy() @ b.T).magnitude()))


@pytest.mark.parametrize(
    ("size", "seed", "noise", "reach", "degrees", "voxels"),
    [
        (32, 0, 0.0, 3.0, 0.1, 0.02),
        (33, 1, 0.0, 3.0, 0.1, 0.02),
        (32, 2, 1.0, 3.0, 4.0, 0.2),
        (32, 3, 1.0, 3.0, 4.0, 0.2),
        (48, 5, 0.2, 14.0, 0.5, 0.05),  # a shift that leaves the lowest frequencies in the dark
        (72, 7, 0.5, 5.0, 0.5, 0.05),  # coarsened for the search
    ],
)
def test_finds_what_was_planted(
    size: int, seed: int, noise: float, reach: float, degrees: float, voxels: float
) -> None:
    rotation, shift, mirror = planted(seed, reach)
    moving = balls(CENTRES, size, noise=noise, seed=1)
    reference = balls(CENTRES @ (rotation @ mirror).T + shift, size, noise=noise, seed=2)
    found = align_map(moving, reference)
    assert found.mirrored == bool(seed % 2)
    assert degrees_between(found.rotation, rotation) < degrees
    np.testing.assert_allclose(found.shift.numpy() / PIXEL, shift, atol=voxels)
    expected = np.corrcoef(found.aligned.data.flatten(), reference.data.flatten())[0, 1]
    assert found.correlation == pytest.approx(expected, abs=1e-5)
    assert found.correlation > (0.99 if not noise else 0.9 / (1 + noise**2))


def test_without_the_other_hand_a_mirrored_map_does_not_fit() -> None:
    moving, reference = balls(CENTRES, 32), balls(CENTRES @ MIRROR, 32)
    free, bound = align_map(moving, reference), align_map(moving, reference, mirror=False)
    assert free.mirrored
    assert not bound.mirrored
    assert bound.correlation < free.correlation - 0.05


def test_a_ball_fits_in_any_orientation() -> None:
    ball = CENTRES[:1]
    found = align_map(balls(ball, 24), balls(ball + 2.5, 24))
    assert found.correlation > 0.99


def test_maps_that_agree_nowhere_are_laid_somehow() -> None:
    phantom = Volume.phantom(size=24, pixel_size=PIXEL)
    found = align_map(Volume(-phantom.data, PIXEL), phantom)
    assert found.aligned.data.isfinite().all()
    assert found.correlation < 0.3


@pytest.mark.parametrize("size", [32, 33])
def test_a_map_with_a_mirror_plane_is_its_own_mirror_image(size: int) -> None:
    chiral = Volume.phantom(size=size, pixel_size=PIXEL)
    mirrored = align_map(Volume(chiral.data.flip(1), PIXEL), chiral).aligned  # as it lies, the plane is nowhere special
    planar = Volume(mirrored.data + mirrored.data.flip(0), PIXEL)
    assert mirror_resolution(planar) == pytest.approx(2 * PIXEL, rel=0.1)
    assert mirror_resolution(chiral) > 3 * PIXEL


def test_the_same_maps_give_the_same_bits() -> None:
    moving, reference = balls(CENTRES, 24, noise=0.5, seed=1), balls(CENTRES[:, ::-1], 24, noise=0.5, seed=2)
    first, again = align_map(moving, reference), align_map(moving, reference)
    assert torch.equal(first.rotation, again.rotation)
    assert torch.equal(first.aligned.data, again.aligned.data)


@pytest.mark.parametrize("size", [32, 33])
@pytest.mark.parametrize("mirrored", [False, True])
def test_transform_agrees_with_splines(size: int, mirrored: bool) -> None:
    """The value at x is the value of the map at M R^T (x - t)."""
    volume = Volume.phantom(size=size, pixel_size=PIXEL)
    rotation, shift, _ = planted(4, 2.0)
    axis = np.arange(size) - size // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    points = (np.stack([x, y, z], -1).reshape(-1, 3) - shift) @ rotation @ (MIRROR if mirrored else np.eye(3))
    expected = scipy.ndimage.map_coordinates(volume.data.numpy(), points.T[::-1] + size // 2, order=5)
    ours = transform_map(
        volume, torch.from_numpy(rotation), torch.from_numpy(shift * PIXEL), mirrored=mirrored
    ).data.numpy()
    assert np.linalg.norm(ours.ravel() - expected) < 0.015 * np.linalg.norm(expected)


@pytest.mark.parametrize("mirrored", [False, True])
def test_poses_follow_the_map(mirrored: bool) -> None:
    """The images are the same from P of the map and from Q of the transformed one, as MapAlignment says."""
    volume = Volume.phantom(size=32, pixel_size=PIXEL)
    rotation, t = torch.from_numpy(planted(6, 0.0)[0]).float(), torch.tensor([4.0, -3.0, 5.0])
    moved = transform_map(volume, rotation, t, mirrored=mirrored)
    p = torch.from_numpy(Rotation.random(5, random_state=1).as_matrix()).float()
    s = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 2))).float() * 4
    m = torch.from_numpy(MIRROR).float() if mirrored else torch.eye(3)
    q = m @ p @ m @ rotation.T
    expected = Projector(volume)(p, s)
    seen = Projector(moved)(q, s - (q @ t)[:, :2])
    assert float((seen - expected).norm() / expected.norm()) < 0.03
    wrong = Projector(moved)(p @ rotation, s - (q @ t)[:, :2])
    assert float((wrong - expected).norm() / expected.norm()) > 0.3


@pytest.mark.parametrize(
    ("moving", "reference", "message"),
    [
        (Volume(torch.randn(8, 8, 8), 2.0), Volume(torch.randn(10, 10, 10), 2.0), "8 voxels of 2 A; expected 10"),
        (Volume(torch.randn(8, 8, 8), 2.0), Volume(torch.randn(8, 8, 8), 2.1), "8 voxels of 2 A; expected 8 .* 2.1"),
        (Volume(torch.randn(8, 8, 6), 2.0), Volume(torch.randn(8, 8, 8), 2.0), "moving: 8 x 8 x 6 voxels"),
        (Volume(torch.randn(8, 8, 8), 2.0), Volume(torch.full((8, 8, 8), torch.nan), 2.0), "reference: .* NaN"),
        (Volume(torch.ones(8, 8, 8), 2.0), Volume(torch.randn(8, 8, 8), 2.0), "moving: a constant map"),
    ],
)
def test_maps_that_cannot_be_aligned_are_refused(moving: Volume, reference: Volume, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        align_map(moving, reference)
