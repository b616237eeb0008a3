"""Which pairs of images to compare: all, random ones, or as many near as far ones.

Pairs are (P, 2) integers, two different images each. Between random rotations small angles are rare (0.3 % are below
22.5 degrees) and most pairs lie around 126 degrees.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .distances import geodesic_distance
from .point_groups import symmetric_distance

_MAX_CANDIDATES = 100_000  # of stratified_pairs: keeps a whole data set's quadratic number of pairs out of memory


def _require_two(n: int) -> None:
    if n < 2:
        raise ValueError(f"{n} image(s) have no pairs, expected at least 2")


def all_pairs(n: int, *, device: torch.device | None = None) -> Tensor:
    """Every pair i < j of n images once, (n (n - 1) / 2, 2)."""
    _require_two(n)
    return torch.triu_indices(n, n, 1, device=device).T


def random_pairs(
    n: int, num_pairs: int, *, generator: torch.Generator | None = None, device: torch.device | None = None
) -> Tensor:
    """Uniform ordered pairs i != j of n images, drawn with replacement, (num_pairs, 2)."""
    _require_two(n)
    first = torch.randint(n, (num_pairs,), generator=generator, device=device)
    step = torch.randint(1, n, (num_pairs,), generator=generator, device=device)
    return torch.stack([first, (first + step) % n], dim=1)


def random_partners(particles: int, each: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Random pairs of which none repeats and every particle is in equally many, (particles * each / 2, 2).

    The particles are put on a circle in random order; each is paired with those at ``each / 2`` random distances on it.

    Args:
        particles: more than ``each``.
        each: partners of a particle, an even number.
        generator: source of randomness.

    Raises:
        ValueError: an odd number of partners, or more than there are.
    """
    if each % 2 or not 0 < each < particles:
        raise ValueError(f"{each} partners each of {particles}, expected an even number below that of the particles")
    order = torch.randperm(particles, generator=generator)
    steps = 1 + torch.randperm((particles - 1) // 2, generator=generator)[: each // 2]
    place = (torch.arange(particles)[:, None] + steps) % particles
    return torch.stack([order[:, None].expand_as(place), order[place]], -1).flatten(0, 1)


def pair_distance(rotations: Tensor, pairs: Tensor, group: Tensor | None = None) -> Tensor:
    """Angle between the rotations of each pair, the least over a point group; (N, 3, 3) and (P, 2) -> (P,) radians."""
    first, second = rotations[pairs[:, 0]], rotations[pairs[:, 1]]
    if group is None or len(group) == 1:
        return geodesic_distance(first, second)
    return symmetric_distance(first, second, group)


def stratified_pairs(
    rotations: Tensor,
    num_pairs: int,
    *,
    bins: int = 8,
    generator: torch.Generator | None = None,
    group: Tensor | None = None,
) -> Tensor:
    """Pairs whose distances fill their range evenly, (num_pairs, 2).

    The range between the smallest and the largest distance is cut into equal bins, and every bin that is not empty
    gives the same number of pairs (Chung 2023, Cryo-forum, uses 8). Rare pairs are drawn repeatedly. Of more than
    100,000 pairs, a random 100,000 are the candidates.

    Args:
        rotations: (N, 3, 3).
        num_pairs: how many to draw, with replacement.
        bins: how many bins.
        generator: source of randomness, on the device of the rotations.
        group: (K, 3, 3) point group, under which the distance is the least over the mates.
    """
    n, device = len(rotations), rotations.device
    few = n * (n - 1) // 2 <= _MAX_CANDIDATES
    candidates = (
        all_pairs(n, device=device) if few else random_pairs(n, _MAX_CANDIDATES, generator=generator, device=device)
    )
    with torch.no_grad():
        distance = pair_distance(rotations, candidates, group)
    low, high = distance.aminmax()
    edges = low + (high - low) * torch.arange(1, bins, device=device) / bins
    bin_of = torch.bucketize(distance, edges)
    by_bin = bin_of.argsort()
    counts = torch.bincount(bin_of, minlength=bins)
    filled = counts.nonzero().squeeze(1)
    random = torch.rand(num_pairs + 1, generator=generator, device=device, dtype=torch.float64)
    slots = filled[((torch.arange(num_pairs, device=device) + random[-1]) / num_pairs * len(filled)).long()]
    within = (random[:-1] * counts[slots]).long()
    return candidates[by_bin[(counts.cumsum(0) - counts)[slots] + within]]
