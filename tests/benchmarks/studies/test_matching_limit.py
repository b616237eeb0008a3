"""The median of a posterior, beside a search for it by force."""

from __future__ import annotations

import torch

from cryozoo.benchmarks.studies.matching_limit import median_pose
from cryozoo.geometry.distances import geodesic_distance
from cryozoo.geometry.rotations import matrix_to_rotvec, rotvec_to_matrix
from cryozoo.geometry.sampling import random_rotations
from cryozoo.imaging.pose_posterior import Drawn


def test_no_pose_near_the_median_is_less_far_from_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    mode = random_rotations(3, generator=generator)[:, None].double()
    turn = 0.05 * torch.randn(3, 200, 3, generator=generator, dtype=torch.float64) + 0.02
    turn[:, :40] += 0.2  # a long tail, which draws the mean
    weight = torch.rand(3, 200, generator=generator, dtype=torch.float64)
    weight = weight / weight.sum(1, keepdim=True)
    rotation = rotvec_to_matrix(turn) @ mode
    drawn = Drawn(rotation, torch.zeros(3, 200, 2), weight, turn[:, :, None], torch.zeros(3, 200, dtype=torch.long))
    found, expected = median_pose(drawn)

    def distance(centre: torch.Tensor) -> torch.Tensor:
        return (weight * geodesic_distance(centre[:, None], rotation)).sum(1)

    here = distance(found)
    torch.testing.assert_close(here, expected, rtol=0.01, atol=0)
    mean = rotvec_to_matrix((weight[..., None] * turn).sum(1)) @ mode[:, 0]
    assert bool((distance(mean) > here * 1.005).all())  # the control
    for _ in range(100):
        step = 0.02 * torch.randn(3, 3, generator=generator, dtype=torch.float64)
        assert bool((distance(rotvec_to_matrix(step) @ found) > here * 0.999).all())
    assert float(matrix_to_rotvec(found @ mode[:, 0].mT).norm(dim=1).max()) < 0.2
