"""Every metric that is made has its column, and the column says truly which of two numbers is better."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryozoo.cli.common import metrics_table
from cryozoo.geometry.pose import Pose
from cryozoo.losses.siamese import SiameseDistance
from cryozoo.zoo.calibration import calibration_metrics
from cryozoo.zoo.columns import COLUMNS, columns
from cryozoo.zoo.evaluate import distance_metrics, pose_metrics
from cryozoo.zoo.provenance import provenance


def metrics_of(sigma_deg):
    """Of poses that are off by some angles, with a confidence that is the worse the more they are off."""
    rng = np.random.default_rng(0)
    n = 400
    truth = Rotation.random(n, rng=rng)
    angles = sigma_deg * rng.chisquare(3, n) / 3
    axes = rng.normal(size=(n, 3))
    off = Rotation.from_rotvec(np.radians(angles)[:, None] * axes / np.linalg.norm(axes, axis=1)[:, None])
    confidence = -angles + rng.normal(size=n) * sigma_deg**2 / 10
    rotation, target = (torch.from_numpy(r.as_matrix()) for r in (off * truth, truth))
    found = Pose(rotation, torch.from_numpy(rng.normal(size=(n, 2)) * sigma_deg), torch.from_numpy(confidence))
    target = Pose(target, torch.zeros(n, 2, dtype=torch.float64))
    return pose_metrics(found, target) | distance_metrics(SiameseDistance(), found, target)


def test_better_is_better():
    good, bad = metrics_of(5.0), metrics_of(60.0)
    directed = {column for column in columns("accuracy") if column.better and column.key in good}
    assert len(directed) > 10
    for column in directed:
        a, b = good[column.key], bad[column.key]
        assert (a < b) if column.better == "lower" else (a > b), column


def test_every_metric_has_a_column():
    """A metric that evaluation learns to make must get its line."""
    raw = torch.randn(3, 35, generator=torch.Generator().manual_seed(0))
    truth = torch.from_numpy(Rotation.random(3, rng=np.random.default_rng(1)).as_matrix())
    made = metrics_of(5.0) | calibration_metrics(raw, truth, order=1) | provenance()
    assert made.keys() <= COLUMNS.keys()
    lines = metrics_table(made).splitlines()
    assert len(lines) == sum(COLUMNS[key].kind != "provenance" for key in made)


@pytest.mark.parametrize("text", ["key", "label", "line", "heading"])
def test_no_two_columns_look_alike(text):
    names = [getattr(column, text) for column in COLUMNS.values()]
    assert len(set(names)) == len(names)
