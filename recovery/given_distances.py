"""Checked distances between particles, dense or sparse, and sums over pairs that hold a block of them at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

FEWEST = 30
"""Particles. Below, the loss has many minima of nearly the same height, and noise decides which is the lowest."""

FEWEST_PAIRS = 4
"""Of each particle: three distances leave a few orientations to choose from, the fourth decides."""

FEWEST_ON_AVERAGE = 30
"""Pairs of a particle, on average over the particles. With fewer, eigenvectors of the distances are mostly noise."""

PLENTY = 300
"""Pairs of a particle with which nothing of that kind need be feared."""

# arccos turns the rounding of float32 at cos 0 = 1 into 0.0007 radians.
_TOLERANCE = 1e-3

# A block of pairs stays in the processor's cache through all that is done to it.
_BLOCK = 128

Sample = tuple[Tensor, Tensor, Tensor]
"""(i, j, d_ij) of some pairs."""

Weigh = Callable[[Tensor | None, Tensor], Sequence[Tensor]]


class Pairs(Protocol):
    """Distances d_ij of P particles.

    Attributes:
        particles: P.
        count: pairs, each counted once.
        degrees: (P,) float64, pairs of each particle.
    """

    particles: int
    count: int
    degrees: Tensor

    def sums(self, weigh: Weigh, q: Tensor | None, values: Sequence[Tensor]) -> list[Tensor]:
        """``sum_j w_ij values_j`` for every i, one (P, k) for each (P, k) of values.

        ``weigh(c, d)`` gives one new tensor of weights for each of the values, from the inner products
        ``c_ij = <q_i, q_j>`` (None without q) and the distances of some pairs. It sees every pair once, and may write
        into c but not into d.
        """
        ...

    def of(self, particle: int) -> tuple[Tensor, Tensor]:
        """The other particles of the pairs of this one, and their distances, float64."""
        ...

    def sample(self, n: int, generator: torch.Generator) -> Sample:
        """n random pairs, or all where these are fewer."""
        ...

    def split(self, generator: torch.Generator) -> tuple[Pairs, Sample | None, Sample | None]:
        """All but a few, and two samples of these, where there are so few pairs that orientations could fit anything.

        Else all, and no samples.
        """
        ...

    def core(self, n: int, generator: torch.Generator) -> tuple[Pairs, Tensor] | None:
        """All pairs among n random particles, and which these are, (n,); None where they are not all there."""
        ...


class DensePairs:
    """All pairs, from a symmetric (P, P) matrix."""

    def __init__(self, distances: Tensor) -> None:
        self._distances = distances
        self.particles = len(distances)
        self.count = self.particles * (self.particles - 1) // 2
        self.degrees = torch.full((self.particles,), self.particles - 1.0, dtype=torch.float64, device=distances.device)

    def sums(self, weigh: Weigh, q: Tensor | None, values: Sequence[Tensor]) -> list[Tensor]:
        """See :class:`Pairs`. Only blocks on and above the diagonal are computed."""
        out = [torch.zeros_like(v) for v in values]
        blocks = [slice(start, start + _BLOCK) for start in range(0, self.particles, _BLOCK)]
        for number, rows in enumerate(blocks):
            for columns in blocks[number:]:
                distances = self._distances[rows, columns].double()
                products = None if q is None else q[rows] @ q[columns].T
                for weights, value, total in zip(weigh(products, distances), values, out, strict=True):
                    if rows is columns:
                        total[rows] += weights.fill_diagonal_(0) @ value[rows]
                    else:
                        total[rows] += weights @ value[columns]
                        total[columns] += weights.T @ value[rows]
        return out

    def of(self, particle: int) -> tuple[Tensor, Tensor]:
        """See :class:`Pairs`."""
        others = torch.arange(self.particles, device=self.degrees.device)
        others = others[others != particle]
        return others, self._distances[particle, others].double()

    def sample(self, n: int, generator: torch.Generator) -> Sample:
        """See :class:`Pairs`."""
        if self.count <= n:
            i, j = torch.triu_indices(self.particles, self.particles, 1).to(self.degrees.device)
        else:
            i = torch.randint(self.particles, (n,), generator=generator)
            j = (i + torch.randint(1, self.particles, (n,), generator=generator)) % self.particles
            i, j = i.to(self.degrees.device), j.to(self.degrees.device)
        return i, j, self._distances[i, j].double()

    def split(self, generator: torch.Generator) -> tuple[Pairs, None, None]:
        """See :class:`Pairs`. All pairs of 30 particles are five for each number sought."""
        return self, None, None

    def core(self, n: int, generator: torch.Generator) -> tuple[Pairs, Tensor] | None:
        """See :class:`Pairs`."""
        if n >= self.particles:
            return None
        some = torch.randperm(self.particles, generator=generator)[:n].to(self.degrees.device)
        return DensePairs(self._distances[some[:, None], some]), some


class SparsePairs:
    """Some pairs: (M,) distances of (M, 2) different particles, no pair twice."""

    def __init__(self, distances: Tensor, pairs: Tensor, particles: int) -> None:
        self.particles, self.count = particles, len(pairs)
        low, high = pairs.min(1).values, pairs.max(1).values
        order = (low * self.particles + high).argsort()  # neighbours in memory: quaternions are fetched faster
        self._i, self._j, self._distances = low[order], high[order], distances[order]
        # Every pair in both directions, sorted by particle, for sums over the pairs of each.
        rows = torch.cat([self._i, self._j])
        order = rows.argsort(stable=True)
        self._neighbours = torch.cat([self._j, self._i])[order]
        self._pair_of = order % self.count
        degrees = torch.bincount(rows, minlength=self.particles)
        self._offsets = degrees.cumsum(0) - degrees
        self.degrees = degrees.double()

    def sums(self, weigh: Weigh, q: Tensor | None, values: Sequence[Tensor]) -> list[Tensor]:
        """See :class:`Pairs`."""
        weights = [torch.empty(self.count, dtype=v.dtype, device=v.device) for v in values]
        for start in range(0, self.count, _BLOCK**2):
            part = slice(start, start + _BLOCK**2)
            products = None
            if q is not None:
                products = (q.index_select(0, self._i[part]) * q.index_select(0, self._j[part])).sum(1)
            for whole, computed in zip(weights, weigh(products, self._distances[part].double()), strict=True):
                whole[part] = computed
        return [
            torch.nn.functional.embedding_bag(  # a product with a sparse matrix
                self._neighbours,
                value,
                self._offsets,
                mode="sum",
                per_sample_weights=weight.index_select(0, self._pair_of),
            )
            for weight, value in zip(weights, values, strict=True)
        ]

    def of(self, particle: int) -> tuple[Tensor, Tensor]:
        """See :class:`Pairs`."""
        first = int(self._offsets[particle])
        row = slice(first, first + int(self.degrees[particle]))
        return self._neighbours[row], self._distances[self._pair_of[row]].double()

    def sample(self, n: int, generator: torch.Generator) -> Sample:
        """See :class:`Pairs`."""
        if self.count <= n:
            return self._i, self._j, self._distances.double()
        chosen = torch.randint(self.count, (n,), generator=generator).to(self._i.device)
        return self._i[chosen], self._j[chosen], self._distances[chosen].double()

    def split(self, generator: torch.Generator) -> tuple[Pairs, Sample | None, Sample | None]:
        """See :class:`Pairs`. One pair in 50 or, where these are few, in 20, of particles that have many others."""
        if float(self.degrees.mean()) >= PLENTY:
            return self, None, None
        many = torch.minimum(self.degrees[self._i], self.degrees[self._j]) > FEWEST_ON_AVERAGE / 2
        share = min(max(0.02, 200 / self.count), 0.05)
        apart = (torch.rand(self.count, generator=generator).to(many.device) < share) & many
        kept = SparsePairs(self._distances[~apart], torch.stack([self._i, self._j], 1)[~apart], self.particles)
        if int(kept.degrees.min()) < FEWEST_PAIRS or int(apart.sum()) < FEWEST_ON_AVERAGE:
            return self, None, None
        i, j, distances = self._i[apart], self._j[apart], self._distances[apart].double()
        return kept, (i[::2], j[::2], distances[::2]), (i[1::2], j[1::2], distances[1::2])

    def core(self, n: int, generator: torch.Generator) -> None:
        """See :class:`Pairs`. A few of the particles have hardly any of their pairs."""
        return None


def checked_pairs(distances: Tensor, pairs: Tensor | None) -> Pairs:
    """Distances that recovery can serve.

    Args:
        distances: (P, P), or (M,) with pairs; radians in [0, pi].
        pairs: (M, 2) integers, the particles that each distance is between.

    Raises:
        ValueError: anything else; see the messages.
    """
    if not distances.is_floating_point():
        raise ValueError(f"distances of type {distances.dtype}, expected floating point numbers, in radians")
    distances = distances.detach()
    checked: Pairs = _checked_dense(distances) if pairs is None else _checked_sparse(distances, pairs)
    some = checked.sample(4096, torch.Generator().manual_seed(0))[2]
    if float(some.max() - some.min()) < _TOLERANCE:
        raise ValueError(
            f"all distances are {float(some[0]):.6g}, expected those between different orientations: to what "
            "estimated them all images look alike"
        )
    return checked


def _refuse(values: Tensor, bad: Tensor, name: Callable[[int], str], expected: str) -> None:
    if bad.any():
        first = int(bad.flatten().int().argmax())
        value = float(values.flatten()[first])
        raise ValueError(f"{name(first)} = {value:.6g} ({int(bad.sum())} such values), expected {expected}")


def _refuse_range(values: Tensor, name: Callable[[int], str]) -> None:
    _refuse(values, ~values.isfinite(), name, "finite numbers")
    _refuse(values, values < -_TOLERANCE, name, "distances from 0 to pi radians, none negative")
    degrees = "; convert degrees with torch.deg2rad" if float(values.max()) > 2 * math.pi else ""
    _refuse(values, values > math.pi + _TOLERANCE, name, f"distances from 0 to pi radians{degrees}")


def _refuse_few(particles: int) -> None:
    if particles < FEWEST:
        raise ValueError(
            f"{particles} particles, expected at least {FEWEST}: the distances of fewer fit several arrangements "
            "almost equally well, and noise decides which fits best"
        )


def _checked_dense(distances: Tensor) -> DensePairs:
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1]:
        raise ValueError(
            f"distances {tuple(distances.shape)}, expected (P, P); a vector of distances needs pairs, (M, 2) integers"
        )
    count = len(distances)
    _refuse_few(count)
    for start in range(0, count, 512):
        rows = distances[start : start + 512]
        first = start * count

        def name(index: int, first: int = first) -> str:
            return f"distances[{(first + index) // count}, {(first + index) % count}]"

        _refuse_range(rows, name)
        mirrored = distances[:, start : start + 512].T
        if bool(((rows - mirrored).abs() > _TOLERANCE).any()):
            index = int((rows - mirrored).abs().argmax())
            i, j = start + index // count, index % count
            raise ValueError(
                f"distances[{i}, {j}] = {float(distances[i, j]):.6g} but distances[{j}, {i}] = "
                f"{float(distances[j, i]):.6g}, expected a symmetric matrix; where these are two estimates of one "
                "distance, pass their mean, (distances + distances.T) / 2"
            )
    diagonal = distances.diagonal()
    _refuse(diagonal, diagonal.abs() > _TOLERANCE, lambda i: f"distances[{i}, {i}]", "0 on the diagonal")
    return DensePairs(distances)


def _checked_sparse(distances: Tensor, pairs: Tensor) -> SparsePairs:
    if pairs.ndim != 2 or pairs.shape[1] != 2 or distances.shape != pairs.shape[:1] or len(pairs) == 0:
        raise ValueError(
            f"distances {tuple(distances.shape)} and pairs {tuple(pairs.shape)}, expected (M,) and (M, 2), M > 0"
        )
    if pairs.is_floating_point() or pairs.is_complex() or pairs.dtype == torch.bool:
        raise ValueError(f"pairs of type {pairs.dtype}, expected integers: the numbers of the particles, from 0")
    pairs = pairs.detach().to(distances.device, torch.int64)
    _refuse_range(distances, lambda m: f"distances[{m}]")
    _refuse(pairs, pairs < 0, lambda index: f"pairs[{index // 2}, {index % 2}]", "numbers of particles, from 0")
    same = pairs[:, 0] == pairs[:, 1]
    _refuse(pairs[:, 0], same, lambda m: f"pairs[{m}]: both particles", "two different particles")
    count = int(pairs.max()) + 1
    _refuse_few(count)
    ordered, order = (pairs.min(1).values * count + pairs.max(1).values).sort(stable=True)
    twice = ordered[1:] == ordered[:-1]
    if twice.any():
        where = int(twice.int().argmax())
        first, second = sorted(order[where : where + 2].tolist())
        raise ValueError(
            f"pairs[{first}] and pairs[{second}] are both {sorted(pairs[first].tolist())} ({int(twice.sum())} such "
            "repetitions), expected every pair once, in either order; pass the mean of repeated estimates"
        )
    _refuse_disconnected(_components(pairs, count))
    degrees = torch.bincount(pairs.flatten(), minlength=count)
    if int(degrees.min()) < FEWEST_PAIRS:
        raise ValueError(
            f"particle {int(degrees.argmin())} has distances to {int(degrees.min())} others "
            f"({int((degrees < FEWEST_PAIRS).sum())} such particles), expected at least {FEWEST_PAIRS}: an orientation "
            "is three numbers, and distances do not see its sign"
        )
    if 2 * len(pairs) < FEWEST_ON_AVERAGE * count:
        raise ValueError(
            f"{len(pairs)} pairs are {2 * len(pairs) / count:.1f} for each of {count} particles, expected at least "
            f"{FEWEST_ON_AVERAGE}, better 100: with fewer the orientations cannot be told from noise"
        )
    return SparsePairs(distances, pairs, count)


def _components(pairs: Tensor, count: int) -> Tensor:
    """The smallest particle that each one is connected to, (P,)."""
    label = torch.arange(count, device=pairs.device)
    i, j = pairs.unbind(1)
    while True:
        smallest = torch.minimum(label[i], label[j])
        hooked = label.scatter_reduce(0, label[i], smallest, "amin").scatter_reduce(0, label[j], smallest, "amin")
        hooked = torch.minimum(hooked, hooked[hooked])
        if torch.equal(hooked, label):
            return label
        label = hooked


def _refuse_disconnected(component: Tensor) -> None:
    members, sizes = component.unique(return_counts=True)
    if len(members) == 1:
        return
    order = sizes.argsort(descending=True)[:5]
    listed = ", ".join(f"{int(sizes[k])} (such as particle {int(members[k])})" for k in order)
    more = f", and {len(members) - len(order)} smaller ones" if len(members) > len(order) else ""
    raise ValueError(
        f"pairs fall into {len(members)} groups of particles without a distance between them: {listed}{more}; expected "
        "one; add pairs between the groups or recover each on its own, in a frame of its own"
    )
