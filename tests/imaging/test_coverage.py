"""How evenly views cover Fourier space, against integrals and loops."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryozoo.geometry.grids import healpix_directions, so3_grid
from cryozoo.geometry.point_groups import point_group
from cryozoo.geometry.sampling import random_rotations
from cryozoo.imaging.coverage import Views

BESIDE = np.sin(np.deg2rad(5))


def from_side(n: int) -> torch.Tensor:
    """Views along the equator: RELION's tilt is 90 degrees."""
    euler = np.stack([np.linspace(0, 360, n, endpoint=False), np.full(n, 90.0), np.linspace(0, 7000, n)], -1)
    return torch.from_numpy(Rotation.from_euler("ZYZ", euler, degrees=True).as_matrix().swapaxes(1, 2).copy())


def test_even_views_cover_all_directions_alike() -> None:
    factor, least = Views(so3_grid(3), point_group("C1")).compensation()
    assert factor == pytest.approx(1, abs=0.005)
    assert least > 0.8


def test_one_view_covers_a_plane_and_leaves_the_rest() -> None:
    rotation = random_rotations(1, generator=torch.Generator().manual_seed(0), dtype=torch.float64).expand(20, 3, 3)
    views = Views(rotation, point_group("C1"))
    assert views.compensation() == (0, 0)
    beside, seen = rotation[0, :2], rotation[0, 2:]
    np.testing.assert_allclose(views.coverage(beside), 1 / BESIDE)
    assert views.coverage(seen).tolist() == [0]
    # The kernel is as wide as for few views; at its centre it is far above even views, and far off nothing.
    assert views.density(seen) > 2 > 0.5 > views.density(-seen)


def test_views_from_the_side() -> None:
    """A direction at angle t from the axis is near the planes of a share of the equator that integrates as below."""
    t = (np.arange(20_000) + 0.5) * np.pi / 20_000
    share = 2 / np.pi * np.arcsin(np.minimum(1, BESIDE / np.sin(t)))
    expected = 1 / np.average(BESIDE / share, weights=np.sin(t))
    factor, least = Views(from_side(5000), point_group("C1")).compensation()
    assert factor == pytest.approx(expected, abs=0.01)
    assert factor == pytest.approx(8 / np.pi**2, abs=0.01)  # with views that cover nothing but their plane
    assert least == pytest.approx(2 / np.pi, abs=0.05)


def test_mates_count() -> None:
    """Few views of an octahedron cover all directions; the sums are those of a loop over the group."""
    rotation = random_rotations(30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    group = point_group("O")
    directions = healpix_directions(2)
    count = torch.zeros(len(directions))
    for view in rotation[:, 2]:
        for mate in group:
            count += (directions @ (mate.T @ view)).abs() < BESIDE
    found = Views(rotation, group).coverage(directions)
    expected = count / (30 * 24 * BESIDE)
    assert (found - expected).abs().mean() < 0.02
    assert Views(rotation, group).compensation()[0] > 0.9 > Views(rotation, point_group("C1")).compensation()[0]


def test_density_is_relative_to_even_views() -> None:
    """The mean over the sphere is 1, whatever the views; and twice as much where all are on one half."""
    rotation = random_rotations(20_000, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    directions = healpix_directions(3)
    upper = Views(rotation[rotation[:, 2, 2] > 0], point_group("C1")).density(directions)
    assert upper.mean() == pytest.approx(1, abs=0.01)
    assert upper[directions[:, 2] > 0.4].mean() == pytest.approx(2, abs=0.05)
    assert upper[directions[:, 2] < -0.4].max() < 0.01


def test_views_at_random_are_as_even_as_is_said() -> None:
    for n, tolerance in ((10, 0), (200, 0.03), (1000, 0.005)):
        rotation = random_rotations(n, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        views = Views(rotation, point_group("C1"))
        assert views.compensation()[0] == pytest.approx(views.compensation_at_random(), abs=tolerance)
