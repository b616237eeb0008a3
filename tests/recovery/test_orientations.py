"""Orientations from distances: exact, noisy against what theory allows, refused; and the camera's side from copies."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryozoo.geometry import (
    PlaneGroup,
    align_frames,
    align_o4,
    geodesic_distance,
    matrix_to_quaternion,
    point_group,
    restrict,
    rotvec_to_matrix,
)
from cryozoo.recovery import descent, recover_orientations, resolve_gauge

N = 400


def truth(n: int = N, seed: int = 0) -> Rotation:
    return Rotation.random(n, rng=np.random.default_rng(seed))


def quaternions(rotation: Rotation) -> torch.Tensor:
    return torch.from_numpy(rotation.as_quat(scalar_first=True))


def distances(rotation: Rotation, deviation: float = 0.0) -> torch.Tensor:
    """Angles by scipy, with normal errors, folded back at 0 and pi."""
    q = rotation.as_quat()
    angle = 2 * np.arccos(np.clip(np.abs(q @ q.T), 0, 1))
    error = np.triu(np.random.default_rng(1).normal(0, deviation, angle.shape), 1) if deviation else 0 * angle
    angle = np.abs(angle + error + error.T)
    angle = np.where(angle > np.pi, 2 * np.pi - angle, angle)
    np.fill_diagonal(angle, 0)
    return torch.from_numpy(angle)


def test_exact_distances() -> None:
    found = recover_orientations(distances(truth()))
    assert align_o4(found.quaternions, quaternions(truth())).error < 1e-6
    assert found.explained == pytest.approx(1)
    assert found.loss < 1e-10
    assert found.converged


@pytest.mark.parametrize("dense", [True, False])
def test_noise_costs_what_theory_says(dense: bool) -> None:
    """Mean error s sqrt(3 / N) sqrt(8 / pi), N the pairs of a particle."""
    s, matrix = 0.2, distances(truth(), 0.2)
    if dense:
        found, count = recover_orientations(matrix), N - 1.0
    else:
        i, j = np.triu_indices(N, 1)
        kept = np.random.default_rng(2).random(len(i)) < 0.5
        pairs = torch.from_numpy(np.stack([i[kept], j[kept]], 1))
        found, count = recover_orientations(matrix[pairs[:, 0], pairs[:, 1]], pairs=pairs), 2 * kept.sum() / N
    theory = s * math.sqrt(3 / count) * math.sqrt(8 / math.pi)
    assert align_o4(found.quaternions, quaternions(truth())).error == pytest.approx(theory, rel=0.15)
    assert found.noise == pytest.approx(s, rel=0.1)


def preferred(n: int, seed: int) -> Rotation:
    """Half of the views along the axis, half from one side of it: tilts in radians, all in-plane angles."""
    random, half = np.random.default_rng(seed), n // 2
    rot = np.concatenate([random.uniform(0, 2 * np.pi, half), random.normal(0.5, 0.1, n - half)])
    tilt = np.concatenate([np.abs(random.normal(0, 0.15, half)), random.normal(np.pi / 2, 0.14, n - half)])
    return Rotation.from_euler("ZYZ", np.stack([rot, tilt, random.uniform(0, 2 * np.pi, n)], 1)).inv()


@pytest.mark.parametrize("n", [300, 1000, 1650])
def test_views_need_not_be_even(n: int) -> None:
    """Of such views few starts find the minimum, and the others may find one that explains nearly as much."""
    for seed in range(4):
        views = preferred(n, seed)
        found = recover_orientations(distances(views, 0.2), seed=seed)
        assert align_o4(found.quaternions, quaternions(views)).error < 1 / n**0.5


def test_half_of_few_pairs_may_be_wrong() -> None:
    """With 100 pairs each; at random the error is 2.2."""
    rng, n = np.random.default_rng(0), 1500
    pairs = np.stack(np.triu_indices(n, 1), 1)
    pairs = rng.permutation(pairs)[: 50 * n]
    d = distances(truth(n), 0.2)[pairs[:, 0], pairs[:, 1]].numpy()
    d = np.where(rng.random(len(d)) < 0.5, rng.uniform(0, np.pi, len(d)), d)
    found = recover_orientations(torch.from_numpy(d), pairs=torch.from_numpy(pairs))
    assert align_o4(found.quaternions, quaternions(truth(n))).error < 0.25
    assert found.wrong == pytest.approx(0.5, abs=0.15)


def test_estimates_of_restricted_views_may_saturate() -> None:
    q = matrix_to_quaternion(restrict(torch.from_numpy(truth(800).as_matrix()), point_group("D2")))
    d = 2 * (distances(Rotation.from_quat(q.numpy(), scalar_first=True)) / 2).tanh()
    error = 0.2 * torch.randn(800, 800, generator=torch.Generator().manual_seed(0), dtype=torch.float64).triu(1)
    found = recover_orientations((d + error + error.T).abs())
    assert found.link is not None
    assert align_o4(found.quaternions, q).error < 0.15


def test_estimates_of_views_around_one_direction_may_saturate() -> None:
    """Early, too: the circle of in-plane angles tends to end as a small one, with all that is close in its place."""
    for seed in range(3):
        random = np.random.default_rng(seed)
        turns = random.uniform(0, 2 * np.pi, (2, 500))
        views = Rotation.from_euler("ZYZ", np.stack([turns[0], random.normal(0, 0.5, 500), turns[1]], 1)).inv()
        d = 1.5 * (distances(views) / 1.5).tanh()
        error = 0.2 * torch.randn(500, 500, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).triu(1)
        found = recover_orientations((d + error + error.T).abs())
        assert align_o4(found.quaternions, quaternions(views)).error < 0.1


def test_the_same_orientation_twice() -> None:
    twice = Rotation.concatenate([truth(50), truth(50), truth(100, seed=1)])
    found = recover_orientations(distances(twice))
    assert align_o4(found.quaternions, quaternions(twice)).error < 1e-6
    assert float(found.expected_errors.max()) < 1e-6


def test_loss_against_a_loop() -> None:
    matrix = distances(truth(60), 0.2)
    found = recover_orientations(matrix)
    q = found.quaternions.numpy()
    squares = [
        (matrix[i, j].item() - 2 * math.acos(min(1, abs(float(q[i] @ q[j]))))) ** 2 for i in range(60) for j in range(i)
    ]
    assert found.loss == pytest.approx(np.mean(squares), rel=1e-6)


def test_losses_of_particles_are_about_the_link() -> None:
    """Where distances saturate, and one particle's are wrong, this one fits worst; against a loop."""
    matrix = 2 * (distances(truth(80)) / 2).tanh()
    matrix[3] = matrix[:, 3] = matrix[3][torch.randperm(80, generator=torch.Generator().manual_seed(0))]
    matrix[3, 3] = 0
    matrix = torch.maximum(matrix, matrix.T)
    found = recover_orientations(matrix)
    assert found.link is not None
    assert found.particle_loss.argmax() == 3
    q, link = found.quaternions.numpy(), found.link.numpy()
    for i in (0, 3):
        d = 2 * np.arccos(np.minimum(np.abs(q @ q[i]), 1))
        expected = np.interp(d, np.linspace(0, np.pi, len(link)), link)
        squares = np.delete((matrix[i].numpy() - expected) ** 2, i)
        assert found.particle_loss[i].item() == pytest.approx(squares.mean(), rel=1e-6)


def test_what_had_no_time_to_settle_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descent, "_ROUNDING", 0.0)
    found = recover_orientations(distances(truth(60)))
    assert not found.converged
    assert found.sweeps == 100


def test_distances_of_nothing_explain_nothing() -> None:
    random = torch.rand(N, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * math.pi
    assert recover_orientations(random.triu(1) + random.triu(1).T).explained < 0.1


@pytest.mark.parametrize("particles", [40, 120])
def test_what_few_particles_explain_of_random_numbers(particles: int) -> None:
    """The docstring's figure, 10 / P, roughly."""
    random = torch.rand(particles, particles, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * math.pi
    assert 5 < particles * recover_orientations(random.triu(1) + random.triu(1).T).explained < 15


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: d[0, 1].fill_(math.nan), "finite"),
        (lambda d: d[0, 1].fill_(-0.1), "negative"),
        (lambda d: d[0, 1].fill_(4.0), "pi"),
        (lambda d: d[0, 1].add_(0.1), "symmetric"),
        (lambda d: d[3, 3].fill_(0.1), "diagonal"),
    ],
)
def test_bad_distances_are_refused(spoil: Callable[[torch.Tensor], object], message: str) -> None:
    matrix = distances(truth(60)).clamp_max(3.0)
    spoil(matrix)
    with pytest.raises(ValueError, match=message):
        recover_orientations(matrix)


def test_distances_that_are_all_the_same_are_refused() -> None:
    """Those of an encoder that has collapsed: any orientations would explain them, by their mean."""
    for value in (0.0, 2.0):
        with pytest.raises(ValueError, match="all images look alike"):
            recover_orientations(value * (1 - torch.eye(50)))


def test_few_particles_and_separate_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="particles"):
        recover_orientations(distances(truth(10)))
    i, j = np.triu_indices(100, 1)
    together = (i < 50) == (j < 50)
    pairs = torch.from_numpy(np.stack([i[together], j[together]], 1))
    with pytest.raises(ValueError, match=r"2 .*50"):
        recover_orientations(distances(truth(100))[pairs[:, 0], pairs[:, 1]], pairs=pairs)


@pytest.mark.parametrize("transposed", [False, True])
def test_copies_fix_the_side_of_the_camera(transposed: bool) -> None:
    """Poses known up to R -> A R B (or transposed), some of them those of turned and mirrored copies of others."""
    phi = PlaneGroup("D4").phi[torch.tensor([1, 4])].double()
    originals = torch.from_numpy(truth(40).as_matrix())
    copies = torch.stack([g @ originals[:20] for g in phi])
    poses = torch.cat([originals, copies.flatten(0, 1)])
    a, b = (torch.from_numpy(x) for x in truth(2, 5).as_matrix())
    hidden = a @ (poses.mT if transposed else poses) @ b
    rows = torch.arange(20)
    index = torch.cat([torch.stack([rows, 40 + 20 * k + rows], 1) for k in range(2)])
    gauge = resolve_gauge(matrix_to_quaternion(hidden), index, phi.repeat_interleave(20, 0))
    assert gauge.transposed == transposed
    assert gauge.residual < 1e-6 < 0.1 < gauge.other_residual
    assert align_frames(gauge.rotations, poses).angles.max() < 1e-6
    assert align_frames(hidden, poses).angles.median() > 0.5  # without it


@pytest.mark.parametrize("name", ["C2", "C3", "D2", "T"])
def test_copies_of_a_symmetric_object_leave_its_asymmetric_unit(name: str) -> None:
    group = point_group(name)
    phi = PlaneGroup("D4").phi[1:]
    originals = restrict(torch.from_numpy(truth(48).as_matrix()), group)
    moved = restrict(phi @ originals[:, None], group)
    assert (geodesic_distance(moved, phi @ originals[:, None]) < 1e-6).double().mean() < 0.6
    errors = torch.from_numpy(np.random.default_rng(1).normal(0, 0.1, (48 * 8, 3)))
    poses = torch.cat([originals, moved.flatten(0, 1)])
    a, b = (torch.from_numpy(x) for x in truth(2, 5).as_matrix())
    hidden = matrix_to_quaternion(rotvec_to_matrix(errors) @ a @ poses @ b)
    index = torch.stack([torch.arange(48).repeat_interleave(7), torch.arange(48, 48 * 8)], 1)
    gauge = resolve_gauge(hidden, index, phi.repeat(48, 1, 1), group=group)
    assert not gauge.transposed
    assert 1.7 * gauge.residual < gauge.other_residual
    assert align_frames(gauge.rotations, poses).angles.median() < 0.2
    assert resolve_gauge(hidden, index, phi.repeat(48, 1, 1)).residual > 1  # fits nothing without the symmetry
