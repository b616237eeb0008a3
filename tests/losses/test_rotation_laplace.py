"""Rotation Laplace: its normaliser against integrals over angles and rotations, and that outliers pull less."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate
from scipy.spatial.transform import Rotation

from cryozoo.geometry.pose import Pose
from cryozoo.heads.nined_svd import NineDSVD
from cryozoo.heads.qcqp_bingham import QCQPBingham
from cryozoo.losses.bingham import BinghamNLL
from cryozoo.losses.rotation_laplace import RotationLaplace, laplace_log_normaliser

LEAST = 1e-4


def log_normaliser(*dispersions: float, dtype: torch.dtype = torch.float64) -> float:
    return laplace_log_normaliser(torch.tensor(dispersions, dtype=dtype)).item()


@pytest.mark.parametrize("s", [0.0, 0.01, 1.0, 10.0, 300.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_normaliser_agrees_with_an_integral_over_angles(s, dtype):
    """For M = s I the energy is 2 s (1 - cos a), and a has the density (1 - cos a) / pi."""

    def integrand(angle: float) -> float:
        energy = 2 * s * (1 - math.cos(angle)) + LEAST
        return math.exp(-math.sqrt(energy)) / math.sqrt(energy) * (1 - math.cos(angle)) / math.pi

    points = [1e-4, 1e-3, 1e-2, 0.1, 1.0]
    exact = integrate.quad(integrand, 0, math.pi, points=points, epsabs=0, epsrel=1e-9, limit=400)[0]
    # 1 - cos a = 2 sin^2(a/2), the squared vector part: dispersions are -4 s
    assert log_normaliser(*3 * [-4 * s], dtype=dtype) == pytest.approx(math.log(exact), abs=2e-3)


@pytest.mark.parametrize("singular", [(3.0, 2.0, 1.0), (6.0, 3.0, -1.0), (20.0, 0.5, 0.1)])
def test_normaliser_agrees_with_a_mean_over_rotations(singular):
    """Yin et al.'s own form, tr(S - S R), over a million rotations of scipy."""
    rotations = Rotation.random(1_000_000, random_state=0).as_matrix()
    energy = sum(singular) - np.einsum("nii,i->n", rotations, singular) + LEAST
    density = np.exp(-np.sqrt(energy)) / np.sqrt(energy)
    first, second, third = singular
    dispersions = [-2 * (second + third), -2 * (first + third), -2 * (first + second)]
    error = density.std() / 1000 / density.mean()
    assert log_normaliser(*dispersions) == pytest.approx(math.log(density.mean()), abs=5 * error + 1e-3)


@pytest.mark.parametrize("head", [NineDSVD(), QCQPBingham()])
def test_densities_add_up_to_one(head):
    """Over rotations at random exp(-loss) has the mean 1; a control of another normaliser has not."""
    raw = torch.randn(1, head.raw_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    truth = torch.from_numpy(Rotation.random(200_000, random_state=1).as_matrix())
    pose = head(raw.expand(len(truth), -1))
    density = (-RotationLaplace()(pose, Pose(truth)).terms["nll"]).exp()
    assert float(density.mean()) == pytest.approx(1, abs=5 * float(density.std()) / len(truth) ** 0.5)
    assert abs(float((density * 1.1).mean()) - 1) > 0.05


def test_outliers_pull_less():
    """The gradient at a truth 120 degrees off, against that 10 degrees off: Laplace's grows less than Bingham's."""
    ratios = []
    for loss in (RotationLaplace(), BinghamNLL()):
        norms = []
        for degrees in (10, 120):
            raw = (5 * torch.eye(3, dtype=torch.float64)).flatten()[None].requires_grad_()
            truth = torch.from_numpy(Rotation.from_rotvec([[0, 0, math.radians(degrees)]]).as_matrix())
            loss(NineDSVD()(raw), Pose(truth)).total.backward()
            assert raw.grad is not None
            # Of the turn alone: the antisymmetric part of the gradient.
            gradient = raw.grad.reshape(3, 3)
            norms.append(float((gradient - gradient.T).norm()))
        ratios.append(norms[1] / norms[0])
    assert ratios[0] < 0.5 * ratios[1]


def test_a_likelier_truth_scores_lower():
    raw = (5 * torch.eye(3, dtype=torch.float64)).flatten()[None].expand(4, -1)
    angles = np.radians([[0, 0, 0], [0, 5, 0], [0, 0, 40], [170, 0, 0]])
    truth = torch.from_numpy(Rotation.from_rotvec(angles).as_matrix())
    nll = RotationLaplace()(NineDSVD()(raw), Pose(truth)).terms["nll"]
    assert bool((nll.diff() > 0).all())
