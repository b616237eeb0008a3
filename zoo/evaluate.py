"""Accuracy of predicted poses, in the field's columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..geometry.alignment import align_frames
from ..geometry.pairs import all_pairs
from ..geometry.point_groups import chance_level, point_group, symmetric_distance
from ..geometry.pose import Pose, join_poses
from ..heads.so3_harmonic import SO3Harmonic
from ..imaging.batch import Batch
from ..losses.siamese import SiameseDistance
from .calibration import calibration_metrics
from .encoder import PoseEncoder

_FEWEST_TO_RANK = 50
"""Particles of which a rank correlation has an error below 0.15."""


@torch.no_grad()
def predict_batches(encoder: PoseEncoder, images: Tensor, batch_size: int = 256) -> Pose:
    """Poses of preprocessed images (N, C, L, L) in evaluation mode; the encoder's mode is restored."""
    training = encoder.training
    encoder.eval()
    poses = [encoder(images[start : start + batch_size]) for start in range(0, len(images), batch_size)]
    encoder.train(training)
    return join_poses(poses)


def evaluate(encoder: PoseEncoder, data: Batch, *, symmetry: str = "C1", batch_size: int = 256) -> dict[str, Any]:
    """Metrics of an encoder on preprocessed images with known poses; see :func:`pose_metrics`.

    For a density over all rotations (head ``so3_harmonic``) also those of :func:`calibration_metrics`.
    """
    predicted = predict_batches(encoder, data.images, batch_size)
    metrics = pose_metrics(predicted, data.pose, symmetry=symmetry)
    raw, truth = predicted.raw, data.pose.rotation
    if isinstance(encoder.head, SO3Harmonic) and raw is not None and truth is not None:
        metrics |= calibration_metrics(raw, truth, order=encoder.head.series.order, symmetry=symmetry)
    return metrics


def pose_metrics(predicted: Pose, target: Pose, *, symmetry: str = "C1") -> dict[str, Any]:
    """Angular and shift errors, and how well the confidence ranks them.

    The error of an image is the smallest angle over the point group, min_g d(R_predicted g, R_target).

    Returns:
        ``n``, ``median_deg``, ``mean_deg``, ``acc_5``, ``acc_10``, ``acc_15``, ``acc_30`` (shares within so many
        degrees), ``chance_median_deg``, ``chance_mean_deg``; with shifts ``shift_rmse_A`` (per axis) and
        ``shift_rmse_of_zero_A`` (predicting none); with a confidence ``spearman`` (of confidence and error; -1 is
        perfect) and ``auroc_5deg`` (of "within 5 degrees"), both left out where they mean nothing, see
        :func:`confidence_metrics`; ``mean_deg_kept_75`` and ``median_deg_kept_75`` (the 25 % least confident left out),
        ``median_deg_kept_50``.
    """
    if predicted.rotation is None or target.rotation is None:
        raise ValueError("pose_metrics needs predicted and true rotations")
    group = point_group(symmetry)
    rotations = predicted.rotation.double().cpu(), target.rotation.double().cpu()
    error = np.degrees(symmetric_distance(*rotations, group).numpy())
    chance = chance_level(group)
    metrics: dict[str, Any] = {
        "n": len(error),
        "median_deg": float(np.median(error)),
        "mean_deg": float(error.mean()),
        **{f"acc_{d}": float((error <= d).mean()) for d in (5, 10, 15, 30)},
        "chance_median_deg": float(np.degrees(chance.median)),
        "chance_mean_deg": float(np.degrees(chance.mean)),
    }
    if predicted.shift is not None and target.shift is not None:
        residual = (predicted.shift - target.shift).double()
        metrics["shift_rmse_A"] = float(residual.square().mean().sqrt())
        metrics["shift_rmse_of_zero_A"] = float(target.shift.double().square().mean().sqrt())
    if predicted.confidence is not None:
        metrics |= confidence_metrics(predicted.confidence.double().cpu().numpy(), error)
    return metrics


def aligned_metrics(predicted: Tensor, target: Tensor, *, symmetry: str = "C1") -> dict[str, Any]:
    """Errors of rotations (N, 3, 3) after an alignment of frame and hand, which are arbitrary where nobody told them.

    Returns:
        as :func:`pose_metrics`, and the ``mse`` and ``medse`` of :class:`.alignment.FrameAlignment`.
    """
    found = align_frames(predicted, target, group=point_group(symmetry))
    metrics = pose_metrics(Pose(found.aligned), Pose(target), symmetry=symmetry)
    return {**metrics, "mse": found.mse, "medse": found.medse}


def distance_metrics(loss: SiameseDistance, predicted: Pose, target: Pose) -> dict[str, Any]:
    """What an encoder that learns distances is judged by: the distances of all pairs of up to 512 images.

    Distances fix poses up to a common frame only, so angles between predicted and true poses mean nothing here.

    Returns:
        ``n``, ``distance_mae_deg``, and ``chance_distance_mae_deg`` of always guessing the median distance.
    """
    if target.rotation is None:
        raise ValueError("distance_metrics needs true rotations")
    n = min(512, len(target.rotation))
    first = Pose(*(None if v is None else v[:n] for v in (predicted.rotation, None, None, predicted.raw)))
    pairs = all_pairs(n, device=target.rotation.device)
    true = loss.true_distance(target.rotation[:n], pairs)
    error = loss.distance_error(first, target.rotation[:n], pairs).mean()
    return {
        "n": n,
        "distance_mae_deg": float(torch.rad2deg(error)),
        "chance_distance_mae_deg": float(torch.rad2deg((true - true.median()).abs().mean())),
    }


def confidence_metrics(confidence: NDArray[np.floating], error_deg: NDArray[np.floating]) -> dict[str, float]:
    """How well a confidence (larger is surer) ranks errors in degrees, both (N,).

    ``spearman`` and ``auroc_5deg`` are left out for fewer than 50 particles, and the latter also where all errors are
    on one side of 5 degrees.
    """
    order = np.argsort(-confidence, kind="stable")
    by_confidence = error_deg[order]
    n = len(error_deg)
    kept_75, kept_50 = by_confidence[: max(1, round(0.75 * n))], by_confidence[: max(1, round(0.5 * n))]
    ranked = {}
    if n >= _FEWEST_TO_RANK:
        ranked["spearman"] = float(np.corrcoef(_ranks(confidence), _ranks(error_deg))[0, 1])
        if (area := auroc(confidence, error_deg <= 5)) is not None:
            ranked["auroc_5deg"] = area
    return {
        **ranked,
        "mean_deg_kept_75": float(kept_75.mean()),
        "median_deg_kept_75": float(np.median(kept_75)),
        "median_deg_kept_50": float(np.median(kept_50)),
    }


def auroc(score: NDArray[np.floating], positive: NDArray[np.bool_]) -> float | None:
    """Probability that a positive has a larger score than a negative (Mann-Whitney), ties counting half.

    None where one of the two is missing.
    """
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not (n_positive and n_negative):
        return None
    rank_sum = _ranks(score)[positive].sum()
    return float((rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def _ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Ranks from 1, ties sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
