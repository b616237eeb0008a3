"""Wigner-D regression against a loop, and what the head makes of what it asks for."""

import numpy as np
import pytest
import torch

from cryozoo.geometry import geodesic_distance, point_group
from cryozoo.geometry.harmonics.wigner import WignerD, wigner_d
from cryozoo.geometry.pose import Pose
from cryozoo.geometry.sampling import random_rotations
from cryozoo.heads.so3_harmonic import SO3Harmonic, harmonic_dim
from cryozoo.losses.so3_nll import SO3NLL
from cryozoo.losses.wigner_mse import WignerMSE
from cryozoo.testing import check_loss


def truths(n: int) -> torch.Tensor:
    return random_rotations(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("symmetry", ["C1", "C3", "D2"])
def test_it_agrees_with_a_loop(symmetry: str) -> None:
    lmax, truth, group = 3, truths(5), point_group(symmetry)
    raw = torch.from_numpy(np.random.default_rng(0).standard_normal((5, harmonic_dim(lmax))))
    losses = []
    for f, rotation in zip(raw.numpy(), truth, strict=True):
        squares, numbers = 0.0, iter(f)
        for degree in range(lmax + 1):
            mean = np.mean([wigner_d(degree, rotation @ g).numpy() for g in group], axis=0)
            squares += sum((next(numbers) - mean[m, n]) ** 2 for n in range(len(mean)) for m in range(len(mean)))
        losses.append(squares / 16)
    found = WignerMSE(symmetry=symmetry)(Pose(raw=raw), Pose(truth)).terms["mse"]
    np.testing.assert_allclose(found, losses, rtol=1e-6)


def test_what_it_asks_for_is_what_the_head_reads() -> None:
    """Of the least possible loss the mode is the truth; knowing nothing scores 1 without symmetry, knowing all 0."""
    head, truth = SO3Harmonic(lmax=4, order=1), truths(6)
    asked = WignerD(4)(truth)
    assert float(WignerMSE()(Pose(raw=asked), Pose(truth)).total) < 1e-9
    assert float(WignerMSE()(Pose(raw=0 * asked), Pose(truth)).total) == pytest.approx(1)
    assert float(geodesic_distance(head(asked.float()).rotation, truth.float()).max()) < 1e-3


def test_of_two_minds_both_are_modes() -> None:
    """The mean of the Wigner-D matrices of two rotations has the least loss of all, and two equal modes."""
    head, truth = SO3Harmonic(lmax=6, order=2), truths(2)
    asked = WignerD(6)(truth).mean(0, keepdim=True).float()
    modes = head.modes(asked, 2).rotation[0].double()
    distance = geodesic_distance(modes[:, None], truth[None])
    assert float(distance.amin(0).max()) < 0.05
    twice = asked.double().expand(2, -1).clone().requires_grad_()
    WignerMSE()(Pose(raw=twice), Pose(truth)).total.backward()
    assert twice.grad is not None
    assert float(twice.grad.sum(0).abs().max()) < 1e-6


def test_joint_form_adds_the_likelihood() -> None:
    raw, truth = 0.3 * torch.randn(4, harmonic_dim(2)), Pose(truths(4))
    joint = WignerMSE(nll_weight=0.2, symmetry="D2")(Pose(raw=raw), truth)
    alone = WignerMSE(symmetry="D2")(Pose(raw=raw), truth), SO3NLL(order=2, symmetry="D2")(Pose(raw=raw), truth)
    assert float(joint.total) == pytest.approx(float(alone[0].total + 0.2 * alone[1].total), rel=1e-5)
    check_loss(WignerMSE(nll_weight=0.2), head=SO3Harmonic(lmax=2, order=1))
    with pytest.raises(ValueError, match="nll_weight -1"):
        WignerMSE(nll_weight=-1)
