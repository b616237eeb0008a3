"""How well orientations come back from distances: the paper's Figure 7 beside its own figures, and what it has not.

    python -m cryozoo.benchmarks.studies.recovery [LARGEST [SEEDS]]

Banjac et al. (2021, arXiv:2104.06237) add normal errors to exact distances between 1,650 orientations. That and more is
done here: estimates clipped to [0, pi], pairs that are plainly wrong, estimators that saturate, few pairs. Columns:

- deviation: of the errors, radians. The paper calls its axis the variance, but its loss there is the axis squared.
- L_OR, E_OR: mean squared difference of distances, and mean angle to the truth after the best orthogonal map.
- bound: the least E_OR that the information in the distances of one particle allows, were all others known.
- seconds: of CPU time, on one thread.

Prints four tables and writes them to ``results/recovery.json`` and ``.md``. LARGEST bounds the particles (100,000 by
default); a figure is the mean over SEEDS (3 by default) sets of orientations, one for Adam and the largest.
"""

from __future__ import annotations

import math
import resource
import statistics
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...zoo.provenance import provenance
from ..runs import markdown_table
from .figures import write_figures

if TYPE_CHECKING:
    from torch import Generator, Tensor

# Deviation -> (L_OR, E_OR) of 5j0n and of 5a1a, from the coordinates of the curves in the paper's Figure 7.
PAPER = {
    0.0: ((0.000, 0.0015), (0.000, 0.0033)),
    0.2: ((0.047, 0.099), (0.052, 0.101)),
    0.4: ((0.169, 0.128), (0.195, 0.137)),
    0.6: ((0.366, 0.162), (0.368, 0.172)),
    0.8: ((0.639, 0.194), (0.639, 0.194)),
}


VIEWS: dict[str, str | tuple[tuple[float, float, float], ...]] = {
    "even": "C1",
    "in the asymmetric unit of D2": "D2",
    "in the asymmetric unit of D7": "D7",
    "around one direction": ((0.0, 0.5, math.pi),),
    "around two directions": ((0.0, 0.15, math.pi), (math.pi / 2, 0.15, 0.15)),
    "across one direction": ((math.pi / 2, 0.03, math.pi),),
}
"""Equal groups of views: mean and deviation of their normal tilts, deviation of rot (pi: any); radians. Or a point
group, to whose asymmetric unit even views are restricted."""


@dataclass(frozen=True)
class Case:
    """How distances between random orientations are spoilt.

    Attributes:
        particles: P.
        deviation: of normal errors, radians.
        each: distances of each particle; all where None.
        wrong: share of the distances replaced by uniform ones.
        saturates: the estimator reports ``a tanh(d / a)``; d where None.
        clipped: estimates are clipped to [0, pi], as an estimator's are.
        views: how orientations are distributed, a name of ``VIEWS``.
    """

    particles: int
    deviation: float
    each: int | None = None
    wrong: float = 0.0
    saturates: float | None = None
    clipped: bool = True
    views: str = "even"

    def orientations(self, generator: Generator) -> Tensor:
        """Quaternions (P, 4)."""
        import torch

        from ...geometry.point_groups import point_group, restrict
        from ...geometry.rotations import euler_to_matrix, matrix_to_quaternion
        from ...geometry.sampling import random_rotations

        groups = VIEWS[self.views]
        if isinstance(groups, str):
            even = random_rotations(self.particles, generator=generator, dtype=torch.float64)
            return matrix_to_quaternion(restrict(even, point_group(groups)))
        which = torch.arange(self.particles) % len(groups)
        mean, deviation, rot = torch.tensor(groups, dtype=torch.float64)[which].T
        normal = torch.randn(2, self.particles, generator=generator, dtype=torch.float64)
        turns = 2 * math.pi * torch.rand(2, self.particles, generator=generator, dtype=torch.float64)
        euler = [torch.where(rot < math.pi, rot * normal[0], turns[0]), mean + deviation * normal[1], turns[1]]
        return matrix_to_quaternion(euler_to_matrix(torch.stack(euler, 1)))

    def estimate(self, distances: Tensor, generator: Generator) -> Tensor:
        """Spoil distances, (M,) -> (M,)."""
        import torch

        def uniform() -> Tensor:
            return torch.rand(len(distances), generator=generator, dtype=torch.float64)

        errors = torch.randn(len(distances), generator=generator, dtype=torch.float64)
        estimates = self.expected(distances) + self.deviation * errors
        estimates = torch.where(uniform() < self.wrong, math.pi * uniform(), estimates)
        return estimates.clamp(0, math.pi) if self.clipped else estimates

    def expected(self, distances: Tensor) -> Tensor:
        """What the estimator reports without errors."""
        a = self.saturates
        return distances if a is None else a * (distances / a).tanh()

    def bound(self) -> float:
        """Mean angular error of an efficient estimator that knows all other orientations and how it is misled."""
        import torch

        if self.deviation == 0:
            return 0.0
        d = torch.linspace(0, math.pi, 202, dtype=torch.float64)[1:-1]
        reach = 6 * self.deviation
        ends = (0.0, math.pi) if self.clipped else (-reach, math.pi + reach)
        edges = torch.linspace(*ends, 1001, dtype=torch.float64)

        def probabilities(d: Tensor) -> Tensor:
            """Of the estimate in each cell, and at or beyond each end, (D, 1002)."""
            below = torch.special.ndtr((edges - self.expected(d)[:, None]) / self.deviation)
            right = torch.diff(torch.nn.functional.pad(below, (1, 1)), dim=1)
            right[:, -1] += 1
            inside = (edges.clamp(0, math.pi) / math.pi)[None]
            wrong = torch.diff(torch.nn.functional.pad(inside, (1, 1)), dim=1)
            wrong[:, -1] += 1
            return (1 - self.wrong) * right + self.wrong * wrong

        step = 1e-4
        slope = (probabilities(d + step) - probabilities(d - step)) / (2 * step)
        information = (slope.square() / probabilities(d).clamp_min(1e-12)).sum(1)
        density = 1 - d.cos()  # of the distance between uniform orientations
        mean = float((information * density).sum() / density.sum())
        return math.sqrt(3 / (mean * (self.each or self.particles - 1))) * math.sqrt(8 / math.pi)


def run(case: Case, seed: int, method: str = "spectral") -> dict[str, float]:
    """Spoil the distances of random orientations, recover, and compare; method "spectral" (ours) or "adam"."""
    import torch

    from ...geometry.alignment import align_o4
    from ...geometry.distances import quaternion_distance
    from ...geometry.pairs import random_partners
    from ...recovery import DensePairs, Pairs, SparsePairs, recover
    from .recovery_adam import adam

    generator = torch.Generator().manual_seed(seed)
    truth = case.orientations(generator)
    if case.each is None:
        i, j = torch.triu_indices(case.particles, case.particles, 1)
    else:
        i, j = random_partners(case.particles, case.each, generator=generator).unbind(1)
    estimates = case.estimate(quaternion_distance(truth[i], truth[j]), generator)
    pairs: Pairs
    if case.each is None:
        matrix = torch.zeros(case.particles, case.particles, dtype=torch.float64)
        matrix[i, j] = matrix[j, i] = estimates
        pairs = DensePairs(matrix)
    else:
        pairs = SparsePairs(estimates, torch.stack([i, j], 1), case.particles)
    began = time.process_time()
    if method == "adam":
        q, learnt = adam(pairs, seed), {}
    else:
        found = recover(pairs, seed)
        q, learnt = found.quaternions, {"wrong_found": found.wrong}
    seconds = time.process_time() - began
    loss = float((estimates - quaternion_distance(q[i], q[j])).square().mean())
    return {"L_OR": loss, "E_OR": align_o4(q, truth).error, "seconds": seconds, **learnt}


def uneven(case: Case, seeds: int = 10) -> dict[str, Any]:
    """Errors over seeds of the same case."""
    runs = [run(case, seed) for seed in range(seeds)]
    errors = [figures["E_OR"] for figures in runs]
    return {
        **vars(case),
        "E_OR_median": statistics.median(errors),
        "E_OR_largest": max(errors),
        "seconds": statistics.mean(figures["seconds"] for figures in runs),
    }


def alignment(particles: int = 1650, problems: int = 30) -> list[list[str]]:
    """How often :func:`align_o4` finds the smallest error that 64 random starts find, and how long it takes."""
    import torch

    from ...geometry.alignment import align_o4
    from ...geometry.rotations import matrix_to_quaternion, quaternion_to_matrix, rotvec_to_matrix
    from ...geometry.sampling import random_quaternions

    rows = []
    for noise in (0.0, 0.1, 0.3, 0.6, 1.0):
        found, times = 0, []
        for seed in range(problems):
            generator = torch.Generator().manual_seed(seed)
            truth = random_quaternions(particles, generator=generator, dtype=torch.float64)
            turns = noise * torch.randn(particles, 3, generator=generator, dtype=torch.float64)
            noisy = matrix_to_quaternion(rotvec_to_matrix(turns) @ quaternion_to_matrix(truth))
            frame = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64)).Q
            frame[:, 0] *= 1 - 2 * (seed % 2)
            began = time.process_time()
            error = align_o4(noisy @ frame, truth).error
            times.append(time.process_time() - began)
            found += error < _many_starts(noisy @ frame, truth, generator) + 1e-6
        rows.append([f"{noise:.1f}", f"{found} of {problems}", f"{1e3 * statistics.median(times):.1f}"])
    return rows


def _many_starts(q: Tensor, target: Tensor, generator: Generator, starts: int = 64) -> float:
    """The smallest mean distance of reweighted Procrustes steps from random orthogonal matrices."""
    import torch

    transforms = torch.linalg.qr(torch.randn(starts, 4, 4, generator=generator, dtype=torch.float64)).Q
    transforms[::2, :, 0] *= -1

    def cosines() -> Tensor:
        return torch.einsum("pi,sij,pj->sp", target, transforms, q)

    for _ in range(40):
        c = cosines()
        weights = c.sign() / (1 - c.square()).clamp_min(1e-12).sqrt()
        u, _, vh = torch.linalg.svd(torch.einsum("sp,pi,pj->sij", weights, target, q))
        transforms = u @ vh
    return float(2 * cosines().abs().clamp(max=1).acos().mean(1).min())


# Deviation, share of wrong pairs, where the estimator saturates.
_ALL_PAIRS: list[tuple[float, float, float | None]] = [
    *((deviation, 0.0, None) for deviation in (0.2, 0.4, 0.8)),
    *((0.2, wrong, None) for wrong in (0.1, 0.3, 0.5)),
    *((0.2, 0.0, saturates) for saturates in (2.0, 1.2)),
    (0.2, 0.3, 2.0),
]
_UNEVEN: list[tuple[float, float | None]] = [(0.2, None), (0.6, None), (0.2, 2.0), (0.2, 1.5)]
_FEW_PAIRS: list[tuple[float, float, float | None]] = [
    *((deviation, 0.0, None) for deviation in (0.0, 0.2, 0.4, 0.8)),
    *((0.2, wrong, None) for wrong in (0.1, 0.3, 0.5)),
    (0.2, 0.0, 2.0),
    (0.2, 0.3, 2.0),
]


def measure(largest: int = 100_000, seeds: int = 3) -> dict[str, Any]:
    """All figures, with at most so many particles."""
    import torch

    torch.set_num_threads(1)

    def averaged(case: Case, method: str = "spectral", repeats: int = seeds) -> dict[str, Any]:
        runs = [run(case, seed, method) for seed in range(repeats)]
        means = {key: statistics.mean(r[key] for r in runs) for key in runs[0]}
        return {"method": method, **vars(case), "bound": case.bound(), **means}

    small, middle = (min(size, largest) for size in (1650, 5000))
    sizes = sorted({small, middle})
    figure_7 = [averaged(Case(size, deviation, clipped=False)) for size in sizes for deviation in PAPER]
    adam = [averaged(Case(small, deviation, clipped=False), "adam", 1) for deviation in PAPER]
    spoilt = [averaged(Case(small, s, wrong=wrong, saturates=a)) for s, wrong, a in _ALL_PAIRS]
    spoilt += [averaged(Case(middle, 0.2, wrong=0.3, saturates=2.0))]
    spoilt += [averaged(Case(middle, s, each=100, wrong=wrong, saturates=a)) for s, wrong, a in _FEW_PAIRS]
    spoilt += [averaged(Case(100_000, 0.2, each=100), repeats=1)] if largest >= 100_000 else []
    return {
        "figure_7": figure_7 + adam,
        "spoilt": spoilt,
        "uneven": [uneven(Case(small, s, saturates=a, views=views)) for views in VIEWS for s, a in _UNEVEN],
        "peak_GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "alignment": alignment(small),
        **provenance(),
    }


def table(figures: dict[str, Any]) -> str:
    """Markdown."""
    ours = ["L_OR", "E_OR", "bound", "seconds"]

    def numbers(row: dict[str, Any]) -> list[str]:
        return [*(f"{row[key]:.4f}" for key in ours[:3]), f"{row['seconds']:.2f}"]

    paper = {s: [f"{l_or:.3f} / {e_or:.3f}" for l_or, e_or in both] for s, both in PAPER.items()}
    figure_7 = markdown_table(
        ["method", "P", "deviation", *ours, "paper, 5j0n: L_OR / E_OR", "paper, 5a1a"],
        [
            [row["method"], str(row["particles"]), f"{row['deviation']:.1f}", *numbers(row), *paper[row["deviation"]]]
            for row in figures["figure_7"]
        ],
    )
    spoilt = markdown_table(
        ["P", "distances of each", "deviation", "wrong", "found wrong", "saturates at", *ours],
        [
            [
                str(row["particles"]),
                str(row["each"] or "all"),
                f"{row['deviation']:.1f}",
                f"{row['wrong']:.0%}",
                f"{row['wrong_found']:.0%}",
                str(row["saturates"] or "-"),
                *numbers(row),
            ]
            for row in figures["spoilt"]
        ],
    )
    views = markdown_table(
        ["views", "deviation", "saturates at", "E_OR, median of 10", "largest of 10", "seconds"],
        [
            [
                row["views"],
                f"{row['deviation']:.1f}",
                str(row["saturates"] or "-"),
                *(f"{row[key]:.3f}" for key in ("E_OR_median", "E_OR_largest")),
                f"{row['seconds']:.2f}",
            ]
            for row in figures["uneven"]
        ],
    )
    aligned = markdown_table(["noise, radians", "found", "CPU ms, median"], figures["alignment"])
    return (
        f"Normal errors, as in the paper's Figure 7 (which has P = 1,650):\n\n{figure_7}\n"
        f"Estimates clipped to [0, pi]; peak memory of all runs {figures['peak_GB']:.1f} GB:\n\n{spoilt}\n"
        f"Views that are not even, {figures['uneven'][0]['particles']} of them, 10 sets of each:\n\n{views}\n"
        f"Alignment over O(4) against 64 random starts:\n\n{aligned}"
    )


def main() -> None:
    """Measure, print, write."""
    write_figures("recovery", measure(*map(int, sys.argv[1:])))


if __name__ == "__main__":
    main()
