import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import integrate, special
from scipy.spatial.transform import Rotation

from cryozoo.geometry.grids import so3_grid
from cryozoo.geometry.point_groups import point_group
from cryozoo.geometry.pose import Pose
from cryozoo.heads.embedding import Embedding
from cryozoo.heads.nined_svd import NineDSVD
from cryozoo.heads.qcqp_bingham import QCQPBingham, bingham_matrix
from cryozoo.losses.bingham import BinghamNLL, bingham_log_normaliser

SCALES = [0.0, 1e-6, 1e-2, 0.3, 1, 3, 10, 30, 100, 300, 1000]


def log_normaliser(*dispersions: float) -> float:
    return bingham_log_normaliser(torch.tensor(dispersions, dtype=torch.float64)).item()


@pytest.mark.parametrize("z", [*SCALES, 1e4, 1e6])
def test_normaliser_agrees_with_closed_forms(z: float) -> None:
    tolerance = 1e-10 if z <= 1000 else 2e-6
    # x4^2 of a uniform unit vector is Beta(1/2, 3/2) distributed, x3^2 + x4^2 uniform in [0, 1]
    assert log_normaliser(0, 0, -z) == pytest.approx(math.log(special.hyp1f1(0.5, 2, -z)), abs=tolerance)
    assert log_normaliser(0, -z, -z) == pytest.approx(math.log(-math.expm1(-z) / z) if z else 0, abs=tolerance)
    # x1^2 is Beta(1/2, 3/2) too: exp(-z) 1F1(1/2; 2; z) = 1F1(3/2; 2; -z)
    assert log_normaliser(-z, -z, -z) == pytest.approx(math.log(special.hyp1f1(1.5, 2, -z)), abs=tolerance)


@pytest.mark.parametrize("dispersions", [(-0.5, -1, -2), (-1, -5, -30), (0, -3, -40), (-20, -25, -40), (-12, -12, -40)])
def test_normaliser_agrees_with_a_threefold_integral(dispersions: tuple[float, float, float]) -> None:
    nodes, weights = np.polynomial.legendre.leggauss(120)
    a, wa = np.pi / 4 * (nodes + 1), np.pi / 4 * weights  # [0, pi / 2]: the integrand is even in every coordinate
    t1, t2, t3 = np.meshgrid(a, a, a, indexing="ij")
    measure = np.einsum("i,j,k->ijk", wa * np.sin(a) ** 2, wa * np.sin(a), wa)
    x2, x3, x4 = (np.sin(t1) * f for f in (np.cos(t2), np.sin(t2) * np.cos(t3), np.sin(t2) * np.sin(t3)))
    z2, z3, z4 = dispersions
    mean = (measure * np.exp(z2 * x2**2 + z3 * x3**2 + z4 * x4**2)).sum() / measure.sum()
    assert log_normaliser(*dispersions) == pytest.approx(math.log(mean), abs=1e-9)


def other_pairing(z2: float, z3: float, z4: float) -> float:
    """The circles (x1, x4) and (x2, x3) instead of (x1, x2) and (x3, x4), by adaptive quadrature."""

    def integrand(u: float) -> float:
        return math.exp(u * z2) * special.i0e(-(1 - u) * z4 / 2) * special.i0e(u * (z2 - z3) / 2)

    points = sorted({min(1.0, factor / scale) for scale in (-z2, -z3, -z4) for factor in (0.1, 1, 10)})
    points = [0.0, *(p for x in points for p in sorted((x, 1 - x)) if 0 < p < 1), 1.0]
    pieces = itertools.pairwise(sorted(set(points)))
    return math.log(sum(integrate.quad(integrand, a, b, epsabs=0, epsrel=1e-10)[0] for a, b in pieces))


def test_normaliser_does_not_depend_on_the_pairing() -> None:
    scales = SCALES[3:]
    for i, a in enumerate(scales):
        for j, b in enumerate(scales[i:], i):
            for c in scales[j:]:
                exact = other_pairing(-a, -b, -c)
                assert log_normaliser(-a, -b, -c) == pytest.approx(exact, abs=1e-9)
                single = bingham_log_normaliser(torch.tensor([-a, -b, -c], dtype=torch.float32)).item()
                assert single == pytest.approx(exact, abs=2e-6)


def test_gradient_of_the_normaliser_is_the_second_moments() -> None:
    for z in (1e-3, 1.0, 50.0, 1000.0):
        dispersions = torch.full((3,), -z, dtype=torch.float64, requires_grad=True)
        bingham_log_normaliser(dispersions).backward()
        # 1 - E[x1^2], shared by three equal directions; the derivative of 1F1(3/2; 2; -z)
        mean = 0.75 * special.hyp1f1(2.5, 3, -z) / special.hyp1f1(1.5, 2, -z) / 3
        assert dispersions.grad is not None
        np.testing.assert_allclose(dispersions.grad, [mean] * 3, rtol=1e-9)


def test_gradcheck_of_the_normaliser() -> None:
    dispersions = torch.tensor([[-0.1, -1, -3], [-2, -30, -400]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(bingham_log_normaliser, dispersions)


def naive_nll(raw: np.ndarray, rotation: np.ndarray) -> float:
    lower = np.zeros((4, 4))
    lower[np.tril_indices(4)] = raw
    matrix = lower @ lower.T
    x, y, z, w = Rotation.from_matrix(rotation).as_quat()
    q = np.array([w, x, y, z])
    values = np.linalg.eigvalsh(matrix)
    return q @ matrix @ q - values[0] + other_pairing(*(values[0] - values[1:]))


def test_agrees_with_a_loop(batch: Callable) -> None:
    pose, target = batch()
    expected = [naive_nll(r[:10], t) for r, t in zip(pose.raw.numpy(), target.rotation.numpy(), strict=True)]
    output = BinghamNLL()(pose, target)
    assert output.total.item() == pytest.approx(sum(expected) / len(expected), abs=1e-8)
    assert output.parts["nll"].item() == output.total.item()


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0])
def test_density_integrates_to_one(scale: float, batch: Callable, rotations: Callable) -> None:
    raw = batch()[0].raw[:2, :10] * scale
    target = rotations(20_000)
    for one in raw:
        pose = Pose(raw=one.expand(len(target), 10))
        # the loss is the mean energy plus the logarithm of the constant
        matrix = bingham_matrix(one).numpy()
        quaternions = np.roll(Rotation.from_matrix(target.numpy()).as_quat(), 1, axis=1)
        energies = np.einsum("ni,ij,nj->n", quaternions, matrix, quaternions)
        log_constant = BinghamNLL()(pose, Pose(rotation=target)).total.item() - energies.mean()
        densities = np.exp(-energies - log_constant)
        assert densities.mean() == pytest.approx(1, abs=5 * densities.std() / math.sqrt(len(densities)) + 1e-12)


@pytest.mark.parametrize(
    "raw",
    [
        [0.3, -1, 0.8, 0.2, 0.5, -1.1, 0.9, 0.4, -0.3, 1.2],
        [0.0, 0, 1, 0, 0, 1, 0, 0, 0, 1],  # eigenvalues 0, 1, 1, 1
        [1.0, 0, 1, 0, 0, 1, 0, 0, 0, 1],  # 1, 1, 1, 1
        [1.0, 0, 1, 0, 0, 2, 0, 0, 0, 2],  # 1, 1, 4, 4
        [1.0, 0, 2, 0, 0, 2, 0, 0, 0, 3],  # 1, 4, 4, 9
    ],
)
def test_gradcheck(raw: list[float], rotations: Callable) -> None:
    # symmetric in the eigenvalues and smooth, so the derivative exists at repeated ones as well, the lowest included
    leaf = torch.tensor([raw], dtype=torch.float64, requires_grad=True)
    target = Pose(rotation=rotations(1))
    assert torch.autograd.gradcheck(lambda raw: BinghamNLL()(Pose(raw=raw), target).total, leaf)


def test_minimum_has_the_moments_of_the_data() -> None:
    # what calibrates the confidence: at the best A the density's covariance is that of the errors
    rotvecs = np.random.default_rng(0).normal(scale=[0.05, 0.1, 0.2], size=(200, 3))
    raw = torch.tensor([[0.1, 0, 1, 0, 0, 1, 0, 0, 0, 1.0]], dtype=torch.float64).requires_grad_()
    target = Pose(rotation=torch.from_numpy(Rotation.from_rotvec(rotvecs).as_matrix()))
    optimiser = torch.optim.LBFGS([raw], max_iter=40, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = BinghamNLL()(Pose(raw=raw.expand(200, 10)), target).total
        loss.backward()
        return loss

    optimiser.step(closure)
    values = np.linalg.eigvalsh(bingham_matrix(raw.detach())[0])
    # near the mode the quaternion's vector part is half the rotation vector, with variance 1 / (2 (l_i - l_1))
    np.testing.assert_allclose(np.sqrt(2 / (values[1:] - values[0])), rotvecs.std(0)[::-1], rtol=0.03)


def test_sharp_and_wrong_costs_more_than_blunt_and_wrong_and_sharp_and_right_least() -> None:
    lower = torch.tensor([[0.0, 0, 1, 0, 0, 1, 0, 0, 0, 1]])  # mode: the identity
    right, wrong = torch.eye(3)[None], torch.diag(torch.tensor([1.0, -1, -1]))[None]

    def nll(scale: float, truth: torch.Tensor) -> float:
        return BinghamNLL()(Pose(raw=scale * lower), Pose(rotation=truth)).total.item()

    assert nll(10, right) < nll(1, right) < nll(0, right) == pytest.approx(0, abs=1e-6)
    assert nll(10, wrong) > nll(1, wrong) > 0


def test_symmetry_takes_the_mate_nearest_to_the_mode(batch: Callable, angle: Callable) -> None:
    pose, target = batch()
    pose = QCQPBingham()(pose.raw[:, :10])
    expected = []
    for raw, mode, truth in zip(pose.raw.numpy(), pose.rotation.numpy(), target.rotation.numpy(), strict=True):
        mate = min((truth @ g for g in point_group("D3").numpy()), key=lambda mate: angle(mode, mate))
        expected.append(naive_nll(raw, mate))
    output = BinghamNLL(symmetry="D3")(pose, target)
    assert output.total.item() == pytest.approx(sum(expected) / len(expected), abs=1e-8)


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 30.0, 1e3, 1e6])
def test_gradients_are_finite_at_any_scale(scale: float, batch: Callable) -> None:
    pose, target = batch(dtype=torch.float32)
    raw = (pose.raw[:, :10] * scale).requires_grad_()
    BinghamNLL()(Pose(raw=raw), target).total.backward()
    assert raw.grad.isfinite().all()


def test_matrix_fisher_of_the_9d_head_against_a_grid() -> None:
    """exp(tr(M^T R)) over its mean on a fine SO(3) grid, at the true rotation."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    target = torch.from_numpy(Rotation.random(4, random_state=3).as_matrix())
    pose = NineDSVD()(raw)
    nll = BinghamNLL()(pose, Pose(rotation=target)).total
    grid = so3_grid(3).double().flatten(1)
    columns = raw.unflatten(-1, (3, 3)).mT
    log_mean = torch.logsumexp(grid @ columns.flatten(1).T, 0) - math.log(len(grid))
    expected = (log_mean - (columns * target).sum((1, 2))).mean()
    assert nll.item() == pytest.approx(expected.item(), abs=2e-3)


def test_other_heads_are_refused(batch: Callable) -> None:
    _, target = batch()
    with pytest.raises(ValueError, match="or the 9 of NineDSVD, the prediction has a raw vector of 8"):
        BinghamNLL()(Embedding(dim=8)(torch.zeros(7, 8)), target)
    with pytest.raises(ValueError, match="has no raw vector"):
        BinghamNLL()(Pose(rotation=target.rotation), target)
