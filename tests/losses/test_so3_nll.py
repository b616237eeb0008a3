import copy
import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.stats import spearmanr

from cryozoo.geometry import geodesic_distance, point_group, so3_grid
from cryozoo.geometry.harmonics.sums import so3_sums
from cryozoo.geometry.harmonics.wigner import WignerD, wigner_d
from cryozoo.geometry.pose import Pose
from cryozoo.heads.qcqp_bingham import QCQPBingham
from cryozoo.heads.so3_harmonic import SO3Harmonic, harmonic_dim
from cryozoo.losses.so3_nll import SO3NLL

Form = Literal["exact", "cross_entropy"]
FORMS: list[Form] = ["exact", "cross_entropy"]
forms = pytest.mark.parametrize("form", FORMS)


def raw_vectors(n: int, lmax: int, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.from_numpy(scale * np.random.default_rng(0).standard_normal((n, harmonic_dim(lmax)))).to(dtype)


def naive_series(raw: np.ndarray, rotation: np.ndarray, lmax: int) -> float:
    """Term by term."""
    total, entries = 0.0, iter(raw)
    for degree in range(lmax + 1):
        matrix = wigner_d(degree, torch.from_numpy(rotation)).numpy()
        total += sum(next(entries) * matrix[m, n] for n in range(len(matrix)) for m in range(len(matrix)))
    return total


@pytest.mark.parametrize("symmetry", ["C1", "D2"])
@pytest.mark.parametrize(("lmax", "scale"), [(2, 1.0), (3, 0.5)])
def test_exact_form_agrees_with_a_loop(lmax: int, scale: float, symmetry: str, rotations: Callable) -> None:
    raw, truth = raw_vectors(5, lmax, scale), rotations(5)
    grid = WignerD(lmax)(so3_grid(3)).numpy()
    losses = []
    for f, rotation in zip(raw.numpy(), truth.numpy(), strict=True):
        z = np.exp(grid @ f).mean()
        densities = [math.exp(naive_series(f, rotation @ g, lmax)) / z for g in point_group(symmetry).numpy()]
        losses.append(-math.log(sum(densities) / len(densities)))
    output = SO3NLL(symmetry=symmetry)(Pose(raw=raw), Pose(rotation=truth))
    # by two sums over different grids
    assert output.total.item() == pytest.approx(sum(losses) / len(losses), abs=2e-3)
    assert output.parts["nll"].item() == output.total.item()


@pytest.mark.parametrize("symmetry", ["C1", "C3"])
def test_cross_entropy_agrees_with_a_loop(symmetry: str, rotations: Callable, angle: Callable) -> None:
    raw, truth = raw_vectors(4, 3), rotations(4)
    grid = so3_grid(1).numpy()
    losses = []
    for f, rotation in zip(raw.numpy(), truth.numpy(), strict=True):
        weights = [math.exp(x) for x in WignerD(3)(torch.from_numpy(grid)).numpy() @ f]
        shares = []
        for g in point_group(symmetry).numpy():
            nearest = min(range(len(grid)), key=lambda i: angle(grid[i], rotation @ g))
            shares.append(weights[nearest] / sum(weights) * len(grid))
        losses.append(-math.log(sum(shares) / len(shares)))
    loss = SO3NLL(form="cross_entropy", order=1, symmetry=symmetry)
    assert loss(Pose(raw=raw), Pose(rotation=truth)).total.item() == pytest.approx(sum(losses) / 4, abs=1e-5)


@pytest.mark.parametrize("degrees", [20.0, 5, 2.5, 1, 0.3])
def test_a_narrow_density_is_worth_what_it_is(degrees: float, rotations: Callable) -> None:
    """Against the integral over the angle from its centre. A fixed grid loses a narrow peak between its points."""
    t = np.radians(np.geomspace(1e-3, 180, 200_001))
    character = sum(np.sin((degree + 0.5) * t) / np.sin(t / 2) for degree in range(7)) / 49
    height = 1 / (8 * math.radians(degrees) ** 2)  # the character's curvature is 392 / 49
    log_z = math.log(np.trapezoid((1 - np.cos(t)) / np.pi * np.exp(height * (character - 1)), t)) + height
    truth = rotations(30)
    off = np.random.default_rng(1).normal(size=(30, 3)) * math.radians(degrees)
    raw = height / 49 * WignerD(6)(truth @ torch.from_numpy(Rotation.from_rotvec(off).as_matrix()))
    angle = np.linalg.norm(off, axis=1)
    at_truth = height / 49 * sum(np.sin((degree + 0.5) * angle) / np.sin(angle / 2) for degree in range(7))
    for dtype in (torch.float32, torch.float64):
        loss = SO3NLL()(Pose(raw=raw.to(dtype)), Pose(rotation=truth)).total
        assert loss.item() == pytest.approx(log_z - at_truth.mean(), abs=0.01)


@forms
def test_nothing_known_scores_nothing(form: Form, rotations: Callable) -> None:
    loss = SO3NLL(form=form, symmetry="D3")(Pose(raw=torch.zeros(3, 455)), Pose(rotation=rotations(3)))
    assert loss.total.item() == pytest.approx(0, abs=1e-5)


@forms
@pytest.mark.parametrize("symmetry", ["C1", "C2"])
def test_gradcheck(form: Form, symmetry: str, rotations: Callable) -> None:
    # wide enough for the grid, else lattices move with the raw vector
    raw, target = raw_vectors(3, 2, 0.3).requires_grad_(), Pose(rotation=rotations(3))
    loss = SO3NLL(form=form, order=2, symmetry=symmetry)
    assert torch.autograd.gradcheck(lambda raw: loss(Pose(raw=raw), target).total, raw, fast_mode=True)


@forms
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 1e3, 1e6])
def test_gradients_are_finite_at_any_scale(form: Form, scale: float, rotations: Callable) -> None:
    raw = (raw_vectors(4, 6, dtype=torch.float32) * scale).requires_grad_()
    SO3NLL(form=form)(Pose(raw=raw), Pose(rotation=rotations(4))).total.backward()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()
    assert (raw.grad != 0).any(1).all()


@forms
def test_total_falls_when_it_is_minimised_and_the_mode_goes_to_the_truth(form: Form, rotations: Callable) -> None:
    head, target = SO3Harmonic(lmax=3, order=2), Pose(rotations(8))
    loss = SO3NLL(form=form, order=2)
    raw = raw_vectors(8, 3).float().requires_grad_()
    optimiser = torch.optim.Adam([raw], lr=0.2)
    for _ in range(25):
        optimiser.zero_grad()
        output = loss(head(raw), target)
        output.total.backward()
        optimiser.step()
    assert output.parts["nll"] < -4
    error = torch.rad2deg(geodesic_distance(head(raw).rotation.double(), rotations(8)))
    assert error.max() < (2 if form == "exact" else 15)


@forms
@pytest.mark.parametrize("symmetry", ["C3", "D2", "O"])
def test_a_mate_of_the_truth_is_as_good_as_the_truth(form: Form, symmetry: str, rotations: Callable) -> None:
    raw, truth, group = raw_vectors(4, 4), rotations(4), point_group(symmetry)
    mates = torch.stack([r @ group[(i + 1) % len(group)] for i, r in enumerate(truth[:3])])
    loss, plain = SO3NLL(form=form, order=2, symmetry=symmetry), SO3NLL(form=form, order=2)
    pose = Pose(raw=raw[:3])
    with_truth, with_mates = (loss(pose, Pose(rotation=r)).total for r in (truth[:3], mates))
    assert with_mates.item() == pytest.approx(with_truth.item(), abs=1e-6)
    assert abs(plain(pose, Pose(rotation=mates)).total - plain(pose, Pose(rotation=truth[:3])).total) > 1e-3
    # of a head that knows the symmetry, every mate has the same density, that without the symmetry
    symmetric = SO3Harmonic(lmax=4, order=2, symmetry=symmetry)(raw)
    known = [one(symmetric, Pose(rotation=truth)).total.item() for one in (loss, plain)]
    assert known[0] == pytest.approx(known[1], abs=0.01 if form == "exact" else 1.0)


@forms
def test_dtype_and_autocast(form: Form, rotations: Callable) -> None:
    raw = raw_vectors(5, 2)
    head, target = SO3Harmonic(lmax=2, order=1), Pose(rotations(5))
    loss = SO3NLL(form=form, order=1)
    double = loss(head(raw), target)
    assert double.total.dtype == torch.float64
    single = loss(head(raw.float()), target).total
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(double.total.item(), abs=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(head(raw.float()), target).total, single)
    assert not loss.state_dict()
    assert not list(loss.parameters())


@forms
def test_a_network_can_be_trained_after_it_was_judged(form: Form, rotations: Callable) -> None:
    """What a loss keeps from its first call must not belong to inference mode."""
    so3_sums.cache_clear()
    raw, target = raw_vectors(2, 2), Pose(rotation=rotations(2))
    loss = SO3NLL(form=form, order=1)
    with torch.inference_mode():
        judged = loss(Pose(raw=raw), target).total.item()
    leaf = raw.clone().requires_grad_()
    loss(Pose(raw=leaf), target).total.backward()
    assert leaf.grad is not None
    assert copy.deepcopy(loss)(Pose(raw=raw), target).total.item() == pytest.approx(judged, abs=1e-9)
    assert not list(loss.children())


@forms
def test_other_heads_and_wrong_arguments_are_refused(form: Form, rotations: Callable) -> None:
    target = Pose(rotation=rotations(2))
    with pytest.raises(ValueError, match=r"SO3NLL: needs .* 455.* of the SO3Harmonic head .* raw vector of 10 numbers"):
        SO3NLL(form=form)(QCQPBingham()(torch.randn(2, 10)), target)
    with pytest.raises(ValueError, match="the prediction has no raw vector"):
        SO3NLL(form=form)(Pose(rotation=target.rotation), target)
    with pytest.raises(ValueError, match="order -1"):
        SO3NLL(form=form, order=-1)
    with pytest.raises(ValueError, match="'grid', expected 'exact' or 'cross_entropy'"):
        SO3NLL(form="grid")  # type: ignore[arg-type]


def test_learns_a_noisy_rotation_and_how_noisy_it_is() -> None:
    """Nine noisy entries of a rotation and the noise, known; chance is 126 degrees."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(19, 128), torch.nn.ReLU(), torch.nn.Linear(128, harmonic_dim(2)))
    head, loss = SO3Harmonic(lmax=2, order=2), SO3NLL(order=2)
    rng = np.random.default_rng(0)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)

    def draw(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        truth = Rotation.random(n, rng=rng).as_matrix()
        noise = rng.uniform(0.1, 1.0, (n, 1))
        entries = truth.reshape(n, 9) + noise * rng.normal(size=(n, 9))
        features = np.concatenate([entries, entries / noise, noise], 1)
        return torch.from_numpy(features).float(), torch.from_numpy(truth).float()

    for _ in range(120):
        features, truth = draw(64)
        optimiser.zero_grad()
        total = loss(Pose(raw=net(features)), Pose(rotation=truth)).total
        total.backward()
        optimiser.step()
    with torch.no_grad():
        features, truth = draw(600)
        pose = head(net(features))
        nll = loss(pose, Pose(rotation=truth)).total
    error = torch.rad2deg(geodesic_distance(pose.rotation, truth)).numpy()
    assert np.median(error) < 35
    assert nll < -1.5
    assert spearmanr(pose.confidence, error).statistic < -0.4
