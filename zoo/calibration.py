"""Does a density over rotations hold the truth as often as it says?"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..geometry.harmonics.sums import so3_sums
from ..geometry.point_groups import point_group
from ..heads.so3_harmonic import harmonic_degree

_ROWS = 256  # whose mates are looked at at a time


@torch.no_grad()
def calibration_metrics(
    rotation_raw: Tensor, truth: Tensor, *, order: int = 3, symmetry: str = "C1"
) -> dict[str, float]:
    """Calibration of the densities of an SO3Harmonic head, (N, K) and true rotations (N, 3, 3).

    The credible level of a truth is the probability of all rotations that are likelier than it, that is of the
    smallest credible region whose border it is on. Levels of calibrated densities are uniform in [0, 1]; their ece is
    on average sqrt(2 pi / N) / 8, by chance alone.

    Args:
        rotation_raw: ``Pose.raw`` of the head.
        truth: any mate.
        order: of the grid for sums; they are finer around the highest modes.
        symmetry: point group of the object. A density may favour any mate, as the likelihood that it learnt by is the
            mean over all. The level is that of the likeliest: exact where a density favours one, or all alike, and too
            low in between.

    Returns:
        ``nll``, the mean negative log likelihood relative to the uniform density; ``ece``, the mean over all levels of
        the absolute difference between a level and the share of truths below it, 0 to 0.5; ``coverage_50`` and
        ``coverage_90``, the shares of truths in the regions that should hold 50 and 90 %: more is underconfident.

    Raises:
        ValueError: the raw vectors are not those of an SO3Harmonic head, or there are none.
    """
    lmax = harmonic_degree(rotation_raw.shape[1])
    if lmax is None:
        raise ValueError(f"a raw vector of {rotation_raw.shape[1]} numbers is not that of an SO3Harmonic head")
    if len(rotation_raw) == 0:
        raise ValueError("no raw vectors, expected at least one")
    # Lattices twice as fine as for sums of smooth functions, as that over a region is not smooth.
    sums = so3_sums(lmax, order, rotation_raw.device, spacing=0.75)
    nll, levels = [], []
    group = point_group(symmetry).to(rotation_raw)
    mates = truth.to(rotation_raw)[:, None] @ group
    rows = zip(rotation_raw.split(_ROWS), mates.split(_ROWS), strict=True)
    of_mates = torch.cat([sums.maxima.wigner.series(*some) for some in rows])
    heights, likeliest = of_mates.max(1, keepdim=True)
    truth = mates[torch.arange(len(mates), device=mates.device), likeliest[:, 0]]
    likelihood = torch.logsumexp(of_mates, 1, keepdim=True) - math.log(len(group))
    rounding = 64 * torch.finfo(heights.dtype).eps * rotation_raw.abs().sum(1, keepdim=True)
    columns = (sums.series.parts(column) for column in (heights, likelihood, rounding))
    for samples, height, likely, tolerance in zip(sums.samples(rotation_raw, through=truth), *columns, strict=True):
        nll.append(samples.log_sum - math.log(len(sums.series)) - likely[:, 0])
        # The border of the region goes through a point of a lattice, half of whose cell is inside.
        above = samples.value - height
        inside = (above > tolerance).to(above.dtype) + (above.abs() <= tolerance) / 2
        levels.append((samples.probability * inside).sum(1))
    level = torch.cat(levels).double().sort().values
    expected = (torch.arange(len(level), dtype=torch.float64, device=level.device) + 0.5) / len(level)
    return {
        "nll": float(torch.cat(nll).mean()),
        "ece": float((level - expected).abs().mean()),
        "coverage_50": float((level <= 0.5).double().mean()),
        "coverage_90": float((level <= 0.9).double().mean()),
    }
