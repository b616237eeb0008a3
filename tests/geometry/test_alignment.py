import numpy as np
import pytest
import torch
from scipy.linalg import expm
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryozoo.geometry import (
    align_frames,
    align_o4,
    geodesic_distance,
    matrix_to_quaternion,
    point_group,
    quaternion_distance,
    quaternion_to_matrix,
    random_quaternions,
    random_rotations,
    rotvec_to_matrix,
)

D = torch.float64
MIRROR = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=D))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _noise(n: int, scale: float, seed: int) -> Tensor:
    """Rotations by an angle |N(0, scale^2)| about random axes."""
    axis = torch.randn(n, 3, generator=_generator(seed), dtype=D)
    angle = scale * torch.randn(n, 1, generator=_generator(seed + 1), dtype=D)
    return rotvec_to_matrix(angle * torch.nn.functional.normalize(axis, dim=-1))


def _mirrored(rotations: Tensor) -> Tensor:
    return MIRROR @ rotations @ MIRROR


def test_mirrored_object_gives_the_same_projections() -> None:
    points = torch.randn(40, 3, generator=_generator(0), dtype=D)
    for rotation in random_rotations(20, generator=_generator(1), dtype=D):
        original = points @ rotation.T
        from_mirror = (points @ MIRROR) @ _mirrored(rotation).T
        assert (original[:, :2] - from_mirror[:, :2]).abs().max() < 1e-14  # what an image shows
        assert (original[:, 2] + from_mirror[:, 2]).abs().max() < 1e-14  # what it does not
    assert torch.linalg.det(_mirrored(rotation)).item() == pytest.approx(1)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("n", [1, 3, 500])
def test_frames_are_recovered_exactly(n: int, mirrored: bool) -> None:
    target = random_rotations(n, generator=_generator(2), dtype=D)
    frame = random_rotations(1, generator=_generator(3), dtype=D)[0]
    moved = target @ frame.T
    found = align_frames(_mirrored(moved) if mirrored else moved, target)
    assert found.mse < 1e-28
    assert found.medse < 1e-28
    assert found.angles.max() < 1e-14
    assert (found.aligned - target).abs().max() < 1e-14
    if n > 1:  # one pose fits either hand
        assert found.mirrored is mirrored
        assert (found.frame - frame).abs().max() < 1e-13


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("name", ["C3", "D2", "O", "I"])
def test_frames_of_a_symmetric_object(name: str, mirrored: bool) -> None:
    """Predictions scattered over all mates, in another frame, with errors; against the loop over mates."""
    group = point_group(name)
    target = random_rotations(300, generator=_generator(2), dtype=D)
    frame = random_rotations(1, generator=_generator(3), dtype=D)[0]
    chosen = torch.randint(len(group), (300,), generator=_generator(4))
    moved = _noise(300, 0.05, 7) @ target @ group[chosen] @ frame.T
    found = align_frames(_mirrored(moved) if mirrored else moved, target, group=group)
    assert found.mirrored is mirrored
    assert found.angles.median() < 0.06
    loop = torch.stack([geodesic_distance(found.aligned, target @ g) for g in group]).amin(0)
    torch.testing.assert_close(found.angles, loop, rtol=0, atol=1e-7)
    nearest = torch.stack([(found.aligned - target @ g).square().sum((1, 2)) for g in group]).amin(0)
    assert found.mse == pytest.approx(nearest.mean().item(), rel=1e-9)
    assert align_frames(_mirrored(moved) if mirrored else moved, target).angles.median() > 0.5


def test_alignment_is_on_the_object_side() -> None:
    target = random_rotations(200, generator=_generator(4), dtype=D)
    turn = rotvec_to_matrix(torch.tensor([0.4, 0.2, 1.0], dtype=D))
    assert align_frames(target @ turn, target).mse < 1e-28
    assert align_frames(turn @ target, target).mse > 0.1


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_noise_comes_back_as_noise(noise: float, mirrored: bool) -> None:
    n = 2000
    target = random_rotations(n, generator=_generator(5), dtype=D)
    frame = random_rotations(1, generator=_generator(6), dtype=D)[0]
    noisy = _noise(n, noise, 7) @ target @ frame.T
    found = align_frames(_mirrored(noisy) if mirrored else noisy, target)
    assert found.mirrored is mirrored
    # n poses know the frame sqrt(n) times better than one
    assert geodesic_distance(found.frame, frame).item() < 4 * noise / n**0.5
    true = geodesic_distance(_noise(n, noise, 7), torch.eye(3, dtype=D))
    assert found.angles.mean().item() == pytest.approx(true.mean().item(), rel=0.01)
    squared = 8 * (found.angles / 2).sin().square()
    assert found.mse == pytest.approx(squared.mean().item(), rel=1e-12)
    assert found.medse == pytest.approx(np.median(squared.numpy()), rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_no_frame_does_better_than_the_closed_form(seed: int) -> None:
    predicted = random_rotations(6, generator=_generator(seed), dtype=D)
    target = random_rotations(6, generator=_generator(seed + 100), dtype=D)

    def mse(rotvec: np.ndarray, hand: Tensor) -> float:
        frame = Rotation.from_rotvec(rotvec).as_matrix()
        return float(np.square(hand.numpy() @ frame - target.numpy()).sum((1, 2)).mean())

    starts = Rotation.random(8, rng=np.random.default_rng(seed)).as_rotvec()
    best = [
        min(minimize(mse, start, args=(hand,), method="BFGS").fun for start in starts)
        for hand in (predicted, _mirrored(predicted))
    ]
    found = align_frames(predicted, target)
    assert found.mse == pytest.approx(min(best), abs=1e-9)
    assert found.mirrored is bool(best[1] < best[0])


@pytest.mark.parametrize(("degrees", "mse"), [(12.8, 0.1), (0.9, 0.0005)])
def test_published_orders_of_magnitude(degrees: float, mse: float) -> None:
    target = random_rotations(2000, generator=_generator(8), dtype=D)
    axis = torch.nn.functional.normalize(torch.randn(2000, 3, generator=_generator(9), dtype=D), dim=-1)
    found = align_frames(rotvec_to_matrix(axis * np.radians(degrees)) @ target, target)
    assert found.mse == pytest.approx(mse, rel=0.02)


def test_frames_keep_the_dtype_and_carry_no_gradient() -> None:
    target = random_rotations(50, generator=_generator(10))
    found = align_frames(target.clone().requires_grad_(), target)
    assert found.aligned.dtype == found.angles.dtype == torch.float32
    assert found.frame.dtype == D
    assert not found.aligned.requires_grad
    assert found.angles.max() < 1e-6


def _conjugate(q: Tensor) -> Tensor:
    return q * torch.tensor([1, -1, -1, -1], dtype=q.dtype)


def _orthogonal(seed: int) -> Tensor:
    q, r = torch.linalg.qr(torch.randn(4, 4, generator=_generator(seed), dtype=D))
    return q * r.diagonal().sign()


def _o4_problem(n: int, noise: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Predicted quaternions, true ones, and the T that takes one to the other; every sign is random."""
    transform = _orthogonal(seed)
    target = random_quaternions(n, generator=_generator(seed + 1), dtype=D)
    noisy = matrix_to_quaternion(_noise(n, noise, seed + 2) @ quaternion_to_matrix(target))
    signs = torch.randn(n, 1, generator=_generator(seed + 4), dtype=D).sign()
    return signs * noisy @ transform, target, transform


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3, 0.5])
def test_o4_is_recovered_thirty_times_out_of_thirty(noise: float) -> None:
    determinants = []
    for seed in range(0, 300, 10):
        predicted, target, transform = _o4_problem(500, noise, seed)
        found = align_o4(predicted, target)
        true = quaternion_distance(predicted @ transform.T, target).mean().item()
        assert found.error <= true + 1e-9
        assert found.error > 0.95 * true - 1e-9
        off = min((found.transform - transform).norm(), (found.transform + transform).norm())
        assert off < 1e-7 + 0.06 * noise
        determinants.append(torch.linalg.det(transform).item())
    assert 5 < sum(d > 0 for d in determinants) < 25  # both kinds were tried


def test_o4_result_is_consistent() -> None:
    predicted, target, _ = _o4_problem(100, 0.2, 3)
    found = align_o4(predicted.float(), target.float())
    assert found.transform.dtype == D
    assert found.aligned.dtype == found.distances.dtype == torch.float32
    assert (found.transform @ found.transform.T - torch.eye(4, dtype=D)).abs().max() < 1e-14
    assert (found.aligned - predicted.float() @ found.transform.T.float()).abs().max() < 1e-6
    assert (found.distances - quaternion_distance(found.aligned, target.float())).abs().max() < 2e-6
    assert found.error == pytest.approx(found.distances.mean().item(), abs=1e-6)
    again = align_o4(predicted.float(), target.float())
    assert torch.equal(again.transform, found.transform)


def test_o4_covers_both_frames_and_transposition() -> None:
    rotations = random_rotations(60, generator=_generator(20), dtype=D)
    a, b = random_rotations(2, generator=_generator(21), dtype=D)
    target = matrix_to_quaternion(rotations)
    for moved, determinant in ((a @ rotations @ b, 1), ((a @ rotations @ b).mT, -1)):
        found = align_o4(matrix_to_quaternion(moved), target)
        assert found.error < 1e-7
        assert torch.linalg.det(found.transform).item() == pytest.approx(determinant)
    assert align_o4(_conjugate(target), target).error < 1e-7


def _smallest_error(predicted: Tensor, target: Tensor, seed: int) -> float:
    """The best of 60 random starts, each taken to its local minimum by 60 reweighted Procrustes steps."""
    q, t = predicted.numpy(), target.numpy()
    transforms = np.linalg.qr(np.random.default_rng(seed).standard_normal((60, 4, 4)))[0]
    transforms[::2, :, 0] *= -1
    for _ in range(60):
        c = np.einsum("pi,sij,pj->sp", t, transforms, q)
        weights = np.sign(c) / np.sqrt(np.maximum(1 - c**2, 1e-14))
        u, _, vh = np.linalg.svd(np.einsum("sp,pi,pj->sij", weights, t, q))
        transforms = u @ vh
    c = np.abs(np.einsum("pi,sij,pj->sp", t, transforms, q))
    return float(2 * np.arccos(np.minimum(c, 1)).mean(1).min())


@pytest.mark.parametrize(
    ("n", "outliers", "tolerance"),
    [(6, 0, 1e-5), (10, 3, 1e-5), (40, 20, 1e-3)],  # where half are random a neighbouring minimum may be found
)
def test_o4_finds_the_smallest_of_many_local_minima(n: int, outliers: int, tolerance: float) -> None:
    for seed in range(0, 250, 10):
        predicted, target, _ = _o4_problem(n, 0.3, seed)
        predicted[:outliers] = random_quaternions(outliers, generator=_generator(seed + 1000), dtype=D)
        assert align_o4(predicted, target).error < _smallest_error(predicted, target, seed) + tolerance


def test_o4_minimum_is_one_for_an_independent_optimiser() -> None:
    predicted, target, _ = _o4_problem(30, 0.3, 70)
    found = align_o4(predicted, target)
    upper = np.triu_indices(4, 1)

    def error(x: np.ndarray) -> float:
        skew = np.zeros((4, 4))
        skew[upper] = x
        moved = predicted.numpy() @ (found.transform.numpy() @ expm(skew - skew.T)).T
        return float(2 * np.arccos(np.minimum(np.abs((moved * target.numpy()).sum(1)), 1)).mean())

    assert error(np.zeros(6)) == pytest.approx(found.error, abs=1e-12)
    options = {"initial_simplex": np.vstack([np.zeros(6), 0.02 * np.eye(6)]), "maxiter": 600}
    better = minimize(error, np.zeros(6), method="Nelder-Mead", options=options).fun
    assert found.error < better + 1e-8


def test_o4_survives_outliers_and_preferred_views() -> None:
    predicted, target, transform = _o4_problem(500, 0.2, 30)
    predicted[:350] = random_quaternions(350, generator=_generator(99), dtype=D)
    found = align_o4(predicted, target).transform
    assert min((found - transform).norm(), (found + transform).norm()) < 0.1

    rotations = _noise(500, 0.3, 40)  # all views within a cone
    noisy = matrix_to_quaternion(_noise(500, 0.05, 50) @ rotations) @ transform
    assert align_o4(noisy, matrix_to_quaternion(rotations)).error < 0.05


def test_o4_of_random_quaternions_is_near_chance() -> None:
    first, second = random_quaternions(3000, generator=_generator(60), dtype=D).chunk(2)
    # alignment gains a little on the mean of pi / 2 + 2 / pi
    assert 2.05 < align_o4(first, second).error < 2.2


@pytest.mark.parametrize("function", [align_frames, align_o4])
def test_what_cannot_be_aligned_is_refused(function) -> None:
    shape = (3, 3) if function is align_frames else (4,)
    good = torch.ones(5, *shape)
    for bad in (torch.ones(4, *shape), torch.ones(5, 5), good[None], good[:0]):
        with pytest.raises(ValueError, match="expected"):
            function(bad, good)
    with pytest.raises(ValueError, match="expected"):
        function(good[:0], good[:0])
    with pytest.raises(ValueError, match="target: not all numbers are finite"):
        function(good, good * torch.nan)
