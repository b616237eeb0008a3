import astropy_healpix
import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from cryozoo.geometry import healpix_directions, matrix_to_quaternion, so3_grid


@pytest.mark.parametrize("order", range(7))
def test_directions_are_the_nested_healpix_centres(order: int) -> None:
    n_side = 2**order
    lon, lat = astropy_healpix.healpix_to_lonlat(np.arange(12 * n_side**2), n_side, order="nested")
    expected = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    directions = healpix_directions(order)
    assert directions.dtype == torch.float64
    assert np.abs(directions.numpy() - np.asarray(expected)).max() < 1e-14


@pytest.mark.parametrize("order", range(4))
def test_grid_is_healpix_times_in_plane_angles(order: int) -> None:
    n_psi = 6 * 2**order
    grid = so3_grid(order)
    assert grid.dtype == torch.float64
    assert grid.shape == (72 * 8**order, 3, 3)
    assert (grid.mT @ grid - torch.eye(3, dtype=torch.float64)).abs().max() < 1e-14
    fibres = grid.unflatten(0, (-1, n_psi))
    assert (fibres[:, :, 2] - healpix_directions(order)[:, None]).abs().max() < 1e-14
    step = Rotation.from_euler("z", -2 * np.pi / n_psi).as_matrix()
    assert (fibres[:, 1:] - torch.from_numpy(step) @ fibres[:, :-1]).abs().max() < 1e-14


@pytest.mark.parametrize(("order", "sample"), [(0, 20_000), (1, 50_000), (2, 100_000), (3, 100_000)])
def test_covering_radius_and_mean_distance(order: int, sample: int) -> None:
    quaternions = matrix_to_quaternion(so3_grid(order)).numpy()
    tree = cKDTree(np.concatenate([quaternions, -quaternions]))
    random = Rotation.random(sample, rng=np.random.default_rng(0)).as_quat(scalar_first=True)
    nearest = np.degrees(4 * np.arcsin(tree.query(random)[0] / 2)) * 2**order
    assert nearest.max() < 56
    assert nearest.mean() == pytest.approx(28.1, abs=0.3)
    # no two rotations of the grid are close: half the in-plane step at least
    separation = np.degrees(4 * np.arcsin(tree.query(quaternions, k=2)[0][:, 1] / 2)) * 2**order
    assert separation.min() > 30


@pytest.mark.parametrize("order", range(4))
def test_grid_integrates_like_the_uniform_distribution(order: int) -> None:
    grid = so3_grid(order)
    assert grid.mean(0).abs().max() < 1e-14
    # E[R_ij R_kl] = delta_ik delta_jl / 3
    second = torch.einsum("nij,nkl->ijkl", grid, grid) / len(grid)
    eye = torch.eye(3, dtype=torch.float64)
    assert (second - torch.einsum("ik,jl->ijkl", eye, eye) / 3).abs().max() < 0.04 / 4**order
    # the angle's distribution, seen from anywhere, against that of as many random rotations
    rng = np.random.default_rng(0)
    worst: dict[str, list[float]] = {"grid": [], "random": []}
    for generic in Rotation.random(12, rng=rng).as_matrix():
        for name, rotations in (
            ("grid", grid.numpy() @ generic),
            ("random", Rotation.random(len(grid), rng=rng).as_matrix()),
        ):
            angles = np.sort(Rotation.from_matrix(rotations).magnitude())
            theory = (angles - np.sin(angles)) / np.pi
            worst[name].append(np.abs(theory - (np.arange(len(grid)) + 0.5) / len(grid)).max())
    assert np.mean(worst["grid"]) < 0.65 * np.mean(worst["random"])


@pytest.mark.parametrize("order", range(1, 4))
def test_turned_and_mirrored_cameras_have_the_same_grid(order: int) -> None:
    grid = so3_grid(order)
    tree = cKDTree(grid.flatten(1).numpy())
    for axis, angle, same in (
        ("x", 180, True),
        ("y", 180, True),
        ("z", 90, True),
        ("z", 20 / 2**order, False),
        ("x", 90, False),
    ):
        turn = torch.from_numpy(Rotation.from_euler(axis, angle, degrees=True).as_matrix())
        distance = tree.query((turn @ grid).flatten(1).numpy())[0].max()
        assert distance < 1e-9 if same else distance > 0.1 / 2**order
    assert tree.query((grid.mT).flatten(1).numpy())[0].max() > 0.1 / 2**order


def test_negative_order_is_refused() -> None:
    for function in (healpix_directions, so3_grid):
        with pytest.raises(ValueError, match="order -1"):
            function(-1)
