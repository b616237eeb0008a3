"""Metrics against scipy and hand-made cases."""

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.spatial.transform import Rotation

from cryozoo.geometry.pose import Pose
from cryozoo.training.data import Batch
from cryozoo.zoo.encoder import create_encoder
from cryozoo.zoo.evaluate import auroc, confidence_metrics, evaluate, pose_metrics


def test_confidence_metrics_agree_with_scipy() -> None:
    rng = np.random.default_rng(0)
    error = rng.exponential(6, 400)
    confidence = np.round(-error + rng.normal(0, 5, 400))  # rounded: ties
    metrics = confidence_metrics(confidence, error)
    assert metrics["spearman"] == pytest.approx(scipy.stats.spearmanr(confidence, error).statistic)
    positive = error <= 5
    u = scipy.stats.mannwhitneyu(confidence[positive], confidence[~positive]).statistic
    assert metrics["auroc_5deg"] == pytest.approx(u / (positive.sum() * (~positive).sum()))
    assert metrics["mean_deg_kept_75"] < error.mean()


def test_a_perfect_and_a_useless_confidence() -> None:
    error = np.arange(1.0, 101.0)
    assert confidence_metrics(-error, error)["spearman"] == pytest.approx(-1)
    assert auroc(-error, error <= 5) == 1
    assert auroc(np.zeros(100), error <= 5) == 0.5
    assert auroc(error, error <= 1000) is None


def test_few_particles_or_one_class_have_no_ranks() -> None:
    """A correlation of few particles is noise; what is not measured is left out."""
    error, kept = np.arange(1.0, 51.0), {"mean_deg_kept_75", "median_deg_kept_75", "median_deg_kept_50"}
    assert confidence_metrics(-error, error).keys() == {"spearman", "auroc_5deg", *kept}
    assert confidence_metrics(-error[1:], error[1:]).keys() == kept
    assert confidence_metrics(-error, error + 5).keys() == {"spearman", *kept}


def test_errors_are_geodesic_and_symmetric() -> None:
    rng = np.random.default_rng(1)
    target = Rotation.random(500, random_state=2)
    axis = rng.normal(size=(500, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    angle = rng.uniform(0, 20, 500)
    predicted = Rotation.from_rotvec(np.radians(angle)[:, None] * axis) * target

    def pose(rotation: Rotation, shift: float) -> Pose:
        return Pose(torch.from_numpy(rotation.as_matrix()), torch.full((500, 2), shift))

    metrics = pose_metrics(pose(predicted, 1.0), pose(target, 4.0))
    assert metrics["median_deg"] == pytest.approx(np.median(angle), abs=1e-6)
    assert metrics["mean_deg"] == pytest.approx(angle.mean(), abs=1e-6)
    assert metrics["acc_10"] == pytest.approx((angle <= 10).mean())
    assert metrics["shift_rmse_A"] == pytest.approx(3)
    assert metrics["shift_rmse_of_zero_A"] == pytest.approx(4)
    assert metrics["chance_mean_deg"] == pytest.approx(np.degrees(np.pi / 2 + 2 / np.pi), abs=0.5)
    # An object-frame two-fold acts on the right: invisible under C2, half a turn under C1.
    mate = predicted * Rotation.from_euler("z", 180, degrees=True)
    assert pose_metrics(pose(mate, 0), pose(target, 0), symmetry="C2")["median_deg"] == pytest.approx(
        np.median(angle), abs=1e-6
    )
    assert pose_metrics(pose(mate, 0), pose(target, 0))["median_deg"] > 150


def test_missing_rotations_are_refused() -> None:
    with pytest.raises(ValueError, match="rotations"):
        pose_metrics(Pose(), Pose(torch.eye(3)[None]))


@pytest.mark.parametrize("head", ["so3_harmonic", "nined_svd"])
def test_densities_are_also_judged_by_calibration(head: str) -> None:
    args = {"lmax": 2, "order": 2} if head == "so3_harmonic" else {}
    encoder = create_encoder(f"test_vgg_gem-{head}", image_size=32, head_args=args)
    truth = torch.from_numpy(Rotation.random(20, random_state=3).as_matrix()).float()
    metrics = evaluate(encoder, Batch(torch.randn(20, 1, 32, 32), Pose(truth)))
    assert metrics["n"] == 20
    assert ({"nll", "ece", "coverage_50"} <= metrics.keys()) == (head == "so3_harmonic")
