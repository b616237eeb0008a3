"""Does the confidence mean something? python -m cryozoo.benchmarks uncertainty RUN, on the held-out particles of a run.

Three panels: error against the rank of the confidence; the mean error of the most confident share, between dropping at
random and dropping the truly worst; and, for a Bingham head, the error that its density predicts against the one found.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...geometry.point_groups import point_group, symmetric_distance
from ...heads.qcqp_bingham import bingham_matrix
from ...training.run import FinishedRun
from ...zoo.evaluate import confidence_metrics, predict_batches
from ...zoo.figures import BLUE, INK, MUTED, draw_against_confidence, pyplot, save_figure, tidy


def expected_error_deg(rotation_raw: torch.Tensor) -> NDArray[np.float64]:
    """Root mean square angle in degrees under the Bingham density of a QCQP head's raw vectors (N, 10 or 9).

    A turn by a small angle t about axis i moves the quaternion by t / 2 along eigenvector i, so the density
    exp(-q^T A q) gives t the variance 2 / (l_i - l_1), and the three add up.
    """
    values = torch.linalg.eigvalsh(bingham_matrix(rotation_raw.double()))
    variance = (2 / (values[:, 1:] - values[:, :1]).clamp_min(1e-9)).sum(-1)
    return np.degrees(variance.sqrt().clamp_max(np.pi).numpy())


def uncertainty(run: Path) -> tuple[dict[str, float], Any]:
    """Metrics and the figure of a finished run (a folder with ``recipe.json`` and ``model/``)."""
    finished = FinishedRun.open(run)
    encoder, data = finished.encoder, finished.data()
    pose = predict_batches(encoder, data.test.images)
    if pose.rotation is None or pose.confidence is None or data.test.pose.rotation is None:
        raise ValueError(f"{encoder.name} has no confidence")
    group = point_group(finished.recipe.data.symmetry)
    radians = symmetric_distance(pose.rotation.double(), data.test.pose.rotation.double(), group)
    error, confidence = np.degrees(radians.numpy()), pose.confidence.double().numpy()
    metrics = {"mean_deg": float(error.mean()), **confidence_metrics(confidence, error)}
    expected = None
    if pose.raw is not None and pose.raw.shape[1] in (9, 10):
        expected = expected_error_deg(pose.raw)
        metrics["predicted_rms_deg"] = float(np.sqrt(np.mean(expected**2)))
        metrics["observed_rms_deg"] = float(np.sqrt(np.mean(error**2)))
    return metrics, _figure(error, confidence, expected, f"{encoder.name}, {len(error):,} held-out particles")


def _figure(
    error: NDArray[np.float64], confidence: NDArray[np.float64], expected: NDArray[np.float64] | None, title: str
) -> Any:
    figure, axes = pyplot().subplots(
        1, 3 if expected is not None else 2, figsize=(13 if expected is not None else 9, 4)
    )
    figure.suptitle(title, x=0.02, ha="left", color=INK, fontweight="bold")
    draw_against_confidence(axes[0], error, confidence)
    share = np.arange(1, len(error) + 1) / len(error)
    for order, colour, label in (
        (np.argsort(-confidence, kind="stable"), BLUE, "by confidence"),
        (np.argsort(error), MUTED, "best possible"),
    ):
        axes[1].plot(share, np.cumsum(error[order]) / np.arange(1, len(error) + 1), color=colour, label=label, lw=2.2)
    axes[1].axhline(error.mean(), color=MUTED, ls=":", label="dropped at random")
    axes[1].set(xlim=(0, 1), ylim=(0, None), xlabel="share kept", xticks=(0, 0.25, 0.5, 0.75, 1))
    axes[1].set_title("mean error of the kept, degrees", loc="left", fontsize=11, color=INK)
    axes[1].legend(frameon=False)
    tidy(axes[1])
    if expected is not None:
        _draw_calibration(axes[2], error, expected)
    figure.tight_layout()
    return figure


def _draw_calibration(axes: Any, error: NDArray[np.float64], expected: NDArray[np.float64]) -> None:
    bins = np.array_split(np.argsort(expected), 10)
    predicted = [np.sqrt(np.mean(expected[b] ** 2)) for b in bins]
    observed = [np.sqrt(np.mean(error[b] ** 2)) for b in bins]
    limit = 1.1 * max(*predicted, *observed)
    axes.plot([0, limit], [0, limit], color=MUTED, ls=":")
    axes.plot(predicted, observed, color=BLUE, marker="o", lw=2.2)
    axes.set(xlim=(0, limit), ylim=(0, limit), xlabel="predicted RMS error (degrees)", aspect="equal")
    axes.set_title("observed RMS error, by tenths", loc="left", fontsize=11, color=INK)
    tidy(axes)


def write(run: Path, picture: Path) -> dict[str, float]:
    """Draw the figure of a run to ``picture`` (PNG) and return its metrics."""
    metrics, figure = uncertainty(run)
    picture.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, picture)
    return metrics
