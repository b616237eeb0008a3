"""The parts of recovery, each against loops, autograd, scipy or what the data were made with."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import isotonic_regression
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.stats import norm, uniform
from torch import Tensor

from cryozoo.geometry import align_o4, quaternion_distance, random_quaternions, rotvec_to_matrix
from cryozoo.geometry.rotations import matrix_to_quaternion
from cryozoo.recovery.descent import _normal_equations, expected_errors
from cryozoo.recovery.errors import CELLS, ErrorModel, _isotonic, explained, fit_errors
from cryozoo.recovery.given_distances import DensePairs, Pairs, SparsePairs, _components
from cryozoo.recovery.moves import mirrored, replaced, unrolled
from cryozoo.recovery.start import Subspace, kernel, within_hemisphere

D = torch.float64
PLAIN = ErrorModel(1.0, 0.0, 0.0, None, None)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _distances(q: Tensor) -> Tensor:
    return quaternion_distance(q[:, None], q)


def _both(particles: int = 150) -> tuple[Tensor, Tensor, list[tuple[Pairs, Tensor]]]:
    """Quaternions, their distances, and a dense and a sparse set of pairs with the 0/1 matrix of what they contain."""
    q = random_quaternions(particles, generator=_generator(), dtype=D)
    d = _distances(q)
    i, j = torch.triu_indices(particles, particles, 1)
    kept = torch.rand(len(i), generator=_generator(1)) < 0.4
    i, j = torch.where(torch.rand(len(i), generator=_generator(2)) < 0.5, torch.stack([i, j]), torch.stack([j, i]))
    i, j = i[kept], j[kept]
    mask = torch.zeros(particles, particles, dtype=D)
    mask[i, j] = mask[j, i] = 1
    sparse = SparsePairs(d[i, j], torch.stack([i, j], 1), particles)
    full = 1 - torch.eye(particles, dtype=D)
    return q, d, [(DensePairs(d), full), (sparse, mask)]


def test_sums_over_pairs_are_products_with_a_matrix() -> None:
    q, d, both = _both()
    before = d.clone()
    values = [torch.randn(len(q), k, generator=_generator(3), dtype=D) for k in (1, 4)]

    def terms(c: Tensor | None, x: Tensor) -> list[Tensor]:
        assert c is not None
        return [c * x, x.cos()]

    for pairs, mask in both:
        found = pairs.sums(terms, q, values)
        for got, weights, value in zip(found, ((q @ q.T) * d, d.cos()), values, strict=True):
            assert (got - (mask * weights) @ value).abs().max() < 1e-12
        assert torch.equal(pairs.degrees, mask.sum(1))
        assert pairs.count == mask.sum() / 2
    assert torch.equal(d, before)


def test_samples_and_pairs_held_back_are_of_the_pairs() -> None:
    _, d, both = _both()
    for pairs, mask in both:
        for n in (100, 10**6):
            i, j, estimates = pairs.sample(n, _generator())
            assert torch.equal(estimates, d[i, j])
            assert bool((mask[i, j] == 1).all())
            assert len(i) == min(n, pairs.count)
    used, choice, test = both[1][0].split(_generator())
    assert choice is not None
    assert test is not None
    assert used.count + len(choice[0]) + len(test[0]) == both[1][0].count
    held = torch.zeros_like(d)
    for part in (choice, test):
        assert 0 < len(part[0]) < 0.04 * both[1][0].count
        assert not held[part[0], part[1]].any()
        held[part[0], part[1]] = 1
    i, j, _ = used.sample(10**6, _generator())
    assert held[i, j].sum() == held[j, i].sum() == 0
    assert both[0][0].split(_generator()) == (both[0][0], None, None)


@pytest.mark.parametrize("edges", [10, 60, 120])
def test_components_are_those_of_scipy(edges: int) -> None:
    pairs = torch.randint(80, (edges, 2), generator=_generator(edges))
    label = _components(pairs, 80)
    graph = coo_matrix((np.ones(edges), pairs.numpy().T), shape=(80, 80))
    count, expected = connected_components(graph, directed=False)
    assert len(label.unique()) == count
    for k in range(count):
        members = np.flatnonzero(expected == k)
        assert set(label[members].tolist()) == {int(members.min())}


def test_a_long_chain_is_one_component() -> None:
    order = torch.randperm(3000, generator=_generator())
    assert _components(torch.stack([order[:-1], order[1:]], 1), 3000).max() == 0


def test_exact_distances_have_ten_dimensions() -> None:
    q, d, both = _both()
    space = Subspace(both[0][0], kernel(d[0]), _generator())
    assert (space.basis.T @ space.basis - torch.eye(10, dtype=D)).abs().max() < 1e-12
    # Cells of the table are pi / 256 wide.
    matrix = 1 + 2 * d.cos()
    off = torch.eye(len(q)).logical_not()
    shifted = (space.weights @ space.basis.T - matrix)[off]
    assert (shifted - shifted.mean()).abs().max() < 0.05


def test_subspace_is_that_of_lapack() -> None:
    q = random_quaternions(300, generator=_generator(), dtype=D)
    noise = torch.randn(300, 300, generator=_generator(1), dtype=D).triu(1)
    d = (_distances(q) + 0.6 * (noise + noise.T)).clamp(0, math.pi)
    table = kernel(d[0])
    space = Subspace(DensePairs(d), table, _generator())
    matrix = table[(d * (256 / math.pi)).int().clamp(max=255).long()]
    matrix.fill_diagonal_(float(table[0]))
    centred = matrix - matrix.mean(0) - matrix.mean(1)[:, None] + matrix.mean()
    leading = torch.linalg.eigh(centred).eigenvectors[:, -9:]
    cosines = torch.linalg.svdvals(space.basis.T @ leading)
    assert cosines.min() > 0.99


def test_within_a_hemisphere_the_start_is_the_solution() -> None:
    axis = torch.nn.functional.normalize(torch.randn(200, 3, generator=_generator(), dtype=D), dim=1)
    for width in (0.1, 0.7):
        q = matrix_to_quaternion(rotvec_to_matrix(width * axis))
        found = within_hemisphere(DensePairs(_distances(q)), _generator())
        assert align_o4(found, q).error < 1e-6


def test_gradient_is_that_of_autograd() -> None:
    q, d, both = _both(40)
    moved = torch.nn.functional.normalize(q + 0.2 * torch.randn(40, 4, generator=_generator(4), dtype=D), dim=1)
    for pairs, mask in both:
        leaf = moved.clone().requires_grad_()
        loss = (mask * (d - _distances(torch.nn.functional.normalize(leaf, dim=1))).square()).sum() / 2
        (expected,) = torch.autograd.grad(loss, leaf)
        _, step = _normal_equations(pairs, moved, PLAIN)
        assert (2 * step + expected).abs().max() < 1e-9  # the loss is a sum of squares, not of halves


def test_curvature_is_that_of_loops() -> None:
    q, d, _ = _both(30)
    link = torch.linspace(0, math.pi, CELLS + 1, dtype=D) * 0.5
    errors = ErrorModel(0.2, 0.3, 0.0, link, None)
    estimates = d * 0.5 + 0.1
    curvature, gradient = _normal_equations(DensePairs(estimates.fill_diagonal_(0)), q, errors)
    for i in range(0, 30, 7):
        expected, slope = torch.zeros(4, 4, dtype=D), torch.zeros(4, dtype=D)
        for j in range(30):
            if j == i:
                continue
            towards = q[j] * torch.sign(q[i] @ q[j])
            tangent = torch.nn.functional.normalize(towards - (towards @ q[i]) * q[i], dim=0)
            residual = float(estimates[i, j] - 0.5 * d[i, j])
            densities = 0.7 * norm.pdf(residual, scale=0.2), 0.3 * uniform.pdf(0.5, scale=math.pi)
            right = densities[0] / sum(densities)
            expected += 4 * right * 0.25 * torch.outer(tangent, tangent)
            slope -= 2 * right * 0.5 * residual * tangent
        assert (curvature[i] - expected).abs().max() < 1e-9
        assert (gradient[i] - slope).abs().max() < 1e-9


def test_the_pairs_of_one_particle() -> None:
    _, d, both = _both(60)
    for pairs, mask in both:
        for particle in (0, 17, 59):
            others, distances = pairs.of(particle)
            assert sorted(others.tolist()) == mask[particle].nonzero()[:, 0].tolist()
            assert torch.equal(distances, d[particle, others])


def test_a_particle_is_placed_where_its_distances_are_likeliest() -> None:
    """One in eight at most, and only those that are elsewhere; of 576 places, one is 14 degrees away on average."""
    q, _, both = _both(160)
    wrong = torch.arange(0, 160, 16)
    moved = q.clone()
    moved[wrong] = random_quaternions(len(wrong), generator=_generator(5), dtype=D)
    errors = ErrorModel(0.3, 0.3, 0.0, None, None)
    for pairs, _ in both:
        found, count = replaced(pairs, moved, errors)
        assert count == len(wrong)
        changed = (found != moved).any(1).nonzero()[:, 0]
        assert torch.equal(changed, wrong)
        assert quaternion_distance(found[wrong], q[wrong]).max() < 0.6
        assert replaced(pairs, q, errors)[1] == 0


def _around_one_direction(particles: int) -> tuple[Tensor, Tensor, Tensor]:
    """In-plane angles, tilts (P, 2) and the quaternions (cos, sin, tilt), of length 1."""
    angle = math.pi * torch.rand(particles, generator=_generator(), dtype=D)
    tilt = torch.tensor([0.1, 0.2]) * torch.randn(particles, 2, generator=_generator(1), dtype=D)
    q = torch.cat([torch.stack([angle.cos(), angle.sin()], 1), tilt], 1)
    return angle, tilt, torch.nn.functional.normalize(q, dim=1)


def test_mirrored_tilts_are_found() -> None:
    """Of stretches of the circle, along either thin axis; and nothing is where nothing was mirrored.

    Not exactly, since the principal axes are not quite those of the mirrors.
    """
    angle, _, q = _around_one_direction(200)
    d = _distances(q).fill_diagonal_(0)
    errors = ErrorModel(0.1, 0.0, 0.0, None, None)
    spoilt = q.clone()
    spoilt[(angle > 1) & (angle < 1.6), 2] *= -1
    spoilt[(angle > 2) & (angle < 2.5), 3] *= -1
    found, moved = mirrored(DensePairs(d), spoilt, errors)
    assert moved > 20
    assert align_o4(found, q).error < 0.25 * align_o4(spoilt, q).error
    assert mirrored(DensePairs(d), q, errors)[1] == 0


def test_a_small_circle_is_unrolled() -> None:
    """Close ones stay as far apart as they are on the small circle, all around it; one of the two is right."""
    angle, tilt, q = _around_one_direction(300)
    half = math.pi / 6  # a circle of this radius is as long as half of a great one, after which q is -q
    turned = torch.view_as_real(torch.view_as_complex(tilt) * torch.polar(torch.ones_like(angle), -angle))
    radius, height = half + turned[:, 0], turned[:, 1]
    around = torch.stack([(2 * angle).cos(), (2 * angle).sin()], 1) * (radius.sin() * height.cos())[:, None]
    small = torch.cat([around, height.sin()[:, None], (radius.cos() * height.cos())[:, None]], 1)
    close = (_distances(q) < 0.6) & torch.eye(300).logical_not()
    assert (_distances(small) - _distances(q))[close].abs().mean() < 0.1
    assert align_o4(small, q).error > 0.8
    errors = [align_o4(unrolled_, q).error for unrolled_ in unrolled(small)]
    assert min(errors) < 0.1


def test_likelihood_is_that_of_scipy() -> None:
    d, normal = _pairs_of(100)
    d = d.clamp(0.5, 2.5)  # whose estimates are within [0, pi]
    link = torch.linspace(0, math.pi, CELLS + 1, dtype=D) * 0.5
    estimates = 0.5 * d + 0.1 * normal
    right = norm.pdf(estimates, loc=0.5 * d, scale=0.2)
    for wrong in (0.0, 0.3):
        density = (1 - wrong) * right + wrong * uniform.pdf(1.0, scale=math.pi)
        found = ErrorModel(0.2, wrong, 0.0, link, None).log_likelihood(d, estimates)
        assert np.abs(found.numpy() - np.log(density)).max() < 1e-9


def test_isotonic_is_that_of_scipy() -> None:
    for seed in range(20):
        y = torch.randn(16, generator=_generator(seed), dtype=D) + torch.linspace(0, 2, 16, dtype=D)
        weights = torch.rand(16, generator=_generator(seed + 100), dtype=D) + 0.1
        expected = isotonic_regression(y.numpy(), weights=weights.numpy()).x
        assert np.abs(_isotonic(y, weights).numpy() - expected).max() < 1e-12


def _pairs_of(count: int = 16_000) -> tuple[Tensor, Tensor]:
    """Distances between uniform orientations, and standard normal numbers."""
    p, q = random_quaternions(2 * count, generator=_generator(), dtype=D).chunk(2)
    return quaternion_distance(p, q), torch.randn(count, generator=_generator(1), dtype=D)


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("deviation", [0.05, 0.8])
def test_normal_errors_ask_for_nothing_more(deviation: float, link: bool) -> None:
    d, normal = _pairs_of()
    errors = fit_errors(d, d + deviation * normal, link=link)
    assert errors.variance is None
    assert errors.wrong == 0
    assert errors.noise == pytest.approx(deviation, rel=0.02)
    if errors.link is not None:
        grid = torch.linspace(0, math.pi, CELLS + 1, dtype=D)
        assert (errors.link - grid)[16:].abs().max() < 0.1 * deviation + 0.01  # small distances are rare


@pytest.mark.parametrize("wrong", [0.1, 0.5])
def test_wrong_pairs_are_counted_and_lose_their_weight(wrong: float) -> None:
    d, normal = _pairs_of()
    spoilt = torch.rand(len(d), generator=_generator(2)) < wrong
    anything = math.pi * torch.rand(len(d), generator=_generator(3), dtype=D)
    estimates = torch.where(spoilt, anything, d + 0.1 * normal)
    errors = fit_errors(d, estimates, link=False)
    assert errors.wrong == pytest.approx(wrong, rel=0.1)
    assert errors.noise == pytest.approx(0.1, rel=0.05)
    residual, _, precision = errors.residual(d, estimates)
    assert precision is not None
    far = residual.abs() > 0.6
    assert precision[far].max() < 0.02
    assert precision[~spoilt].mean() > 0.8


def test_link_is_found_and_straightens_the_estimates() -> None:
    d, normal = _pairs_of()
    estimates = 1.2 * (d / 1.2).tanh() + 0.1 * normal
    errors = fit_errors(d, estimates, link=True)
    assert errors.noise == pytest.approx(0.1, rel=0.05)
    assert errors.link is not None
    grid = torch.linspace(0, math.pi, CELLS + 1, dtype=D)[8:]
    assert (errors.link[8:] - 1.2 * (grid / 1.2).tanh()).abs().max() < 0.05
    assert errors.likelihood > fit_errors(d, estimates, link=False).likelihood + 1
    residual, slope, _ = errors.residual(d, estimates)
    assert slope is not None
    assert residual.mean().abs() < 0.01
    assert explained(d, estimates) == pytest.approx(1 - 0.01 / float(estimates.var()), abs=0.01)
    assert explained(d, normal) < 0.01


def test_expected_errors_are_those_of_theory_and_of_the_fit() -> None:
    particles, deviation = 400, 0.2
    q = random_quaternions(particles, generator=_generator(), dtype=D)
    errors = ErrorModel(deviation, 0.0, 0.0, None, None)
    found = expected_errors(DensePairs(_distances(q)), q, errors)
    theory = deviation * math.sqrt(3 / (particles - 1)) * math.sqrt(8 / math.pi)
    assert found.mean().item() == pytest.approx(theory, rel=0.02)
    # The mean length of a normal vector with that covariance, of one particle with all others known.
    tangents = [torch.nn.functional.normalize(x - (x @ q[0]) * q[0], dim=0) for x in q[1:]]
    information = 4 * sum(torch.outer(t, t) for t in tangents) / deviation**2
    basis = torch.linalg.qr(torch.cat([q[:1].T, torch.eye(4, dtype=D)[:, :3]], 1)).Q[:, 1:]
    covariance = 4 * torch.linalg.inv(basis.T @ information @ basis)
    draws = np.random.default_rng(0).multivariate_normal(np.zeros(3), covariance.numpy(), 200_000)
    assert found[0].item() == pytest.approx(np.linalg.norm(draws, axis=1).mean(), rel=0.01)
