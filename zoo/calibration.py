"""Does a density over rotations hold the truth as often as it says?"""

from __future__ import annotations

import torch
from torch import Tensor

from ..heads._centred_grid import CentredGrid
from ..heads._so3_series import SO3Series
from ..heads.so3_harmonic import harmonic_degree


@torch.no_grad()
def calibration_metrics(rotation_raw: Tensor, truth: Tensor, *, order: int = 3) -> dict[str, float]:
    """Calibration of the densities of an SO3Harmonic head, (N, K) and true rotations (N, 3, 3).

    The credible level of a truth is the probability of all rotations that are likelier than it, that is of the
    smallest credible region whose border it is on. Levels of calibrated densities are uniform in [0, 1]. At order 3 the
    sums alone make an ece of 0.003 for densities 8 degrees wide, 0.015 for 1.2 degrees; of N truths 0.3 / sqrt(N) more
    is chance.

    Args:
        rotation_raw: ``Pose.rotation_raw`` of the head.
        truth: any mate, for a head with a symmetry.
        order: of the grid; it is finer around the truth.

    Returns:
        ``nll``, the mean negative log likelihood relative to the uniform density; ``ece``, the mean over all levels of
        the absolute difference between a level and the share of truths below it, 0 to 0.5; ``coverage_50`` and
        ``coverage_90``, the shares of truths in the regions that should hold 50 and 90 %: more is underconfident.

    Raises:
        ValueError: the raw vectors are not those of an SO3Harmonic head.
    """
    lmax = harmonic_degree(rotation_raw.shape[1])
    if lmax is None:
        raise ValueError(f"a raw vector of {rotation_raw.shape[1]} numbers is not that of an SO3Harmonic head")
    grid = CentredGrid(SO3Series(lmax, order)).to(rotation_raw.device)
    truth = truth.to(rotation_raw)
    nll, levels = [], []
    for raw, rotation in zip(rotation_raw.split(64), truth.split(64), strict=True):
        nll.append(grid.log_z(raw, rotation) - grid.series.at(raw, rotation))
        levels.append(grid.share_above(raw, rotation))
    level = torch.cat(levels).double().sort().values
    expected = (torch.arange(len(level), dtype=torch.float64, device=level.device) + 0.5) / len(level)
    return {
        "nll": float(torch.cat(nll).mean()),
        "ece": float((level - expected).abs().mean()),
        "coverage_50": float((level <= 0.5).double().mean()),
        "coverage_90": float((level <= 0.9).double().mean()),
    }
