import math
from collections.abc import Callable

import pytest
import torch

from cryozoo.geometry.pairs import all_pairs, pair_distance, random_pairs, random_partners, stratified_pairs
from cryozoo.geometry.point_groups import point_group


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_all_pairs_agree_with_a_loop() -> None:
    for n in (2, 3, 10):
        assert all_pairs(n).tolist() == [[i, j] for i in range(n) for j in range(i + 1, n)]


def test_random_pairs_are_uniform_over_pairs_of_different_images() -> None:
    pairs = random_pairs(5, 200_000, generator=generator())
    counts = torch.zeros(5, 5)
    counts.index_put_((pairs[:, 0], pairs[:, 1]), torch.ones(len(pairs)), accumulate=True)
    assert (counts.diagonal() == 0).all()
    off = counts[~torch.eye(5, dtype=torch.bool)]
    assert off.max() < 10_000 + 5 * 100
    assert off.min() > 10_000 - 5 * 100


@pytest.mark.parametrize(("particles", "each"), [(3, 2), (8, 6), (101, 100), (500, 40)])
def test_random_partners_are_equally_many_and_never_the_same(particles: int, each: int) -> None:
    draws = torch.stack([random_partners(particles, each, generator=generator(seed)) for seed in range(20)])
    for pairs in draws:
        assert (pairs[:, 0] != pairs[:, 1]).all()
        assert len(pairs.sort(1).values.unique(dim=0)) == len(pairs) == particles * each // 2
        assert (pairs.flatten().bincount(minlength=particles) == each).all()
    # every pair has its turn
    expected = 20 * each / (particles - 1)
    assert (draws.flatten(0, 1) == 0).any(1).sum() == 20 * each
    partners = draws.flatten(0, 1)[(draws.flatten(0, 1) == 0).any(1)].sum(1).bincount(minlength=particles)[1:]
    assert partners.max() < expected + 6 * expected**0.5


@pytest.mark.parametrize(("particles", "each"), [(10, 3), (10, 10), (10, 0), (1, 2)])
def test_impossible_numbers_of_partners(particles: int, each: int) -> None:
    with pytest.raises(ValueError, match=f"{each} partners each of {particles}, expected an even number"):
        random_partners(particles, each)


def test_draws_are_reproducible(rotations: Callable) -> None:
    r = rotations(50)
    assert torch.equal(random_pairs(50, 20, generator=generator(1)), random_pairs(50, 20, generator=generator(1)))
    draws = [stratified_pairs(r, 20, generator=generator(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("symmetry", ["C1", "D3"])
def test_pair_distance_agrees_with_a_loop(symmetry: str, rotations: Callable, symmetric_angle: Callable) -> None:
    r, group = rotations(6), point_group(symmetry)
    pairs = all_pairs(6)
    expected = [symmetric_angle(r[i].numpy(), r[j].numpy(), group.numpy()) for i, j in pairs.tolist()]
    assert pair_distance(r, pairs, group).tolist() == pytest.approx(expected, abs=1e-9)


def histogram(distance: torch.Tensor, low: float, high: float, bins: int = 8) -> torch.Tensor:
    return torch.histc(distance.float(), bins, low, high) / len(distance)


def naive_angles(
    rotations: torch.Tensor, pairs: torch.Tensor, symmetric_angle: Callable, group: torch.Tensor
) -> torch.Tensor:
    r = rotations.numpy()
    return torch.tensor([symmetric_angle(r[i], r[j], group.numpy()) for i, j in pairs.tolist()])


@pytest.mark.parametrize(("symmetry", "n"), [("C1", 100), ("C1", 1000), ("D2", 60)])
def test_stratified_pairs_fill_the_range_evenly_and_random_ones_do_not(
    symmetry: str, n: int, rotations: Callable, symmetric_angle: Callable
) -> None:
    r, group = rotations(n), point_group(symmetry)
    everything = pair_distance(r, all_pairs(n), group)
    low, high = everything.min().item(), everything.max().item()
    stratified = stratified_pairs(r, 800, generator=generator(), group=group)
    assert (stratified[:, 0] != stratified[:, 1]).all()
    flat = histogram(naive_angles(r, stratified, symmetric_angle, group), low, high)
    piled = histogram(naive_angles(r, random_pairs(n, 800, generator=generator()), symmetric_angle, group), low, high)
    # with 1,000 images the candidates are a sample of the pairs, whose range is a little smaller
    assert (flat - 1 / 8).abs().max() < (0.002 if n < 1000 else 0.05)
    assert (piled - 1 / 8).abs().max() > 0.08
    assert piled[0] < 0.04


def test_small_angles_are_rare_among_random_pairs(rotations: Callable) -> None:
    # (t - sin t) / pi of the pairs are nearer than t: the reason for stratified_pairs
    angles = pair_distance(rotations(2000), random_pairs(2000, 200_000, generator=generator()))
    fraction = (angles < math.pi / 8).float().mean().item()
    assert fraction == pytest.approx((math.pi / 8 - math.sin(math.pi / 8)) / math.pi, rel=0.15)


def test_stratified_pairs_of_clustered_rotations_skip_empty_bins(rotations: Callable) -> None:
    near = rotations(1).expand(5, 3, 3)
    far = near @ torch.diag(torch.tensor([1.0, -1, -1], dtype=torch.float64))
    pairs = stratified_pairs(torch.cat([near, far]), 400, generator=generator())
    across = ((pairs[:, 0] < 5) != (pairs[:, 1] < 5)).float().mean().item()
    assert across == pytest.approx(0.5, abs=0.01)
    assert len(pairs.unique(dim=0)) > 40  # of 45: every pair of a bin has its turn


def test_few_stratified_pairs_are_spread_over_the_bins(rotations: Callable) -> None:
    r = rotations(200)
    everything = pair_distance(r, all_pairs(200))
    draws = torch.cat([pair_distance(r, stratified_pairs(r, 3, generator=generator(seed))) for seed in range(200)])
    flat = histogram(draws, everything.min().item(), everything.max().item())
    assert (flat - 1 / 8).abs().max() < 5 * math.sqrt(1 / 8 * 7 / 8 / 600)


def test_one_image_has_no_pairs(rotations: Callable) -> None:
    for draw in (all_pairs, lambda n: random_pairs(n, 3), lambda n: stratified_pairs(rotations(n), 3)):
        with pytest.raises(ValueError, match="1 image"):
            draw(1)
