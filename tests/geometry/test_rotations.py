import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryozoo.geometry import (
    davenport_matrix,
    euler_to_matrix,
    geodesic_distance,
    gram_schmidt,
    matrix_to_euler,
    matrix_to_quaternion,
    matrix_to_rotvec,
    matrix_to_sixd,
    quaternion_to_matrix,
    rotvec_to_matrix,
    special_procrustes,
)

PI = torch.pi


def _uniform(n: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(Rotation.random(n, rng=np.random.default_rng(seed)).as_matrix())


def _hard_rotations() -> Tensor:
    """Identity, half turns, gimbal lock and everything at 1e-17 to 1e-3 from them."""
    rng = np.random.default_rng(1)
    axes = rng.standard_normal((50, 3))
    axes = np.concatenate([axes / np.linalg.norm(axes, axis=1, keepdims=True), np.eye(3), -np.eye(3)])
    offsets = np.array([0, 1e-17, 1e-16, 1e-15, 1e-12, 1e-9, 1e-8, 1e-6, 1e-4, 1e-3])
    angles = np.concatenate([offsets, np.pi - offsets])
    turns = Rotation.from_rotvec((axes[:, None] * angles[:, None]).reshape(-1, 3))
    rot, psi = rng.uniform(-np.pi, np.pi, (2, 50))
    tilts = np.concatenate([offsets, np.pi - offsets])
    gimbal = Rotation.from_euler("ZYZ", [(a, t, b) for a, b in zip(rot, psi, strict=True) for t in tilts])
    exact = np.array([np.diag(d) for d in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))], dtype=float)
    return torch.from_numpy(np.concatenate([turns.as_matrix(), gimbal.as_matrix(), exact]))


ROUND_TRIPS = {
    "euler": lambda m: euler_to_matrix(matrix_to_euler(m)),
    "quaternion": lambda m: quaternion_to_matrix(matrix_to_quaternion(m)),
    "rotvec": lambda m: rotvec_to_matrix(matrix_to_rotvec(m)),
    "sixd": lambda m: gram_schmidt(matrix_to_sixd(m)),
    "procrustes": special_procrustes,
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_round_trip(name: str) -> None:
    rotations = torch.cat([_uniform(1000), _hard_rotations()])
    assert (ROUND_TRIPS[name](rotations) - rotations).abs().max() < 1e-14
    single = rotations.float()
    error = ROUND_TRIPS[name](single) - single
    assert error.dtype == torch.float32
    assert error.abs().max() < 2e-6


@given(st.tuples(*[st.floats(-20, 20)] * 3))
@settings(max_examples=300, deadline=None)
def test_euler_against_scipy(angles: tuple[float, float, float]) -> None:
    ours = euler_to_matrix(torch.tensor(angles, dtype=torch.float64))
    assert np.abs(ours.numpy() - Rotation.from_euler("ZYZ", angles).as_matrix().T).max() < 1e-14
    rot, tilt, psi = matrix_to_euler(ours)
    assert 0 <= tilt <= PI
    assert -PI < rot <= PI
    assert -PI < psi <= PI


@pytest.mark.parametrize("angle", [PI, -PI, 3 * PI, 11.0 - 4 * PI, np.nextafter(PI, 4), np.nextafter(-PI, 0)])
def test_euler_angles_stay_in_range_at_its_ends(angle: float) -> None:
    for euler in ([angle, 1.0, 0.3], [0.3, 1.0, angle], [2.220446049250313e-16, 4.0, 11.0]):
        rot, tilt, psi = matrix_to_euler(euler_to_matrix(torch.tensor(euler, dtype=torch.float64)))
        assert 0 <= tilt <= PI
        assert -PI < rot <= PI
        assert -PI < psi <= PI


def test_davenport_matrix_is_the_quadratic_form_of_the_trace() -> None:
    rng = np.random.default_rng(0)
    matrix = torch.from_numpy(rng.normal(size=(50, 3, 3)))
    rotation = Rotation.random(50, random_state=1)
    x, y, z, w = rotation.as_quat().T
    q = np.stack([w, x, y, z], -1)
    k = davenport_matrix(matrix).numpy()
    expected = np.trace(matrix.numpy().transpose(0, 2, 1) @ rotation.as_matrix(), axis1=1, axis2=2)
    assert np.abs(np.einsum("bi,bij,bj->b", q, k, q) - expected).max() < 1e-13
    assert np.abs(k - k.transpose(0, 2, 1)).max() == 0
    assert np.abs(np.trace(k, axis1=1, axis2=2)).max() < 1e-14
    nearest = torch.from_numpy(np.linalg.eigh(k)[1][..., -1].copy())
    assert (quaternion_to_matrix(nearest) - special_procrustes(matrix)).abs().max() < 1e-9


def test_euler_values_away_from_the_poles() -> None:
    rng = np.random.default_rng(0)
    angles = torch.from_numpy(rng.uniform((-3.14, 0.01, -3.14), (3.14, 3.13, 3.14), (500, 3)))
    assert (matrix_to_euler(euler_to_matrix(angles)) - angles).abs().max() < 1e-13


@pytest.mark.parametrize("tilt", [0.0, PI])
def test_rot_is_zero_in_gimbal_lock(tilt: float) -> None:
    back = matrix_to_euler(euler_to_matrix(torch.tensor([0.3, tilt, 0.4], dtype=torch.float64)))
    assert back[0] == 0
    assert back[1].item() == pytest.approx(tilt, abs=1e-15)
    assert back[2].item() == pytest.approx(0.7 if tilt == 0 else 0.1, abs=1e-15)


def test_quaternion_and_rotvec_against_scipy() -> None:
    rotations = torch.cat([_uniform(1000), _hard_rotations()])
    reference = Rotation.from_matrix(rotations.numpy())
    quaternion = matrix_to_quaternion(rotations)
    assert (quaternion[..., 0] >= 0).all()
    theirs = torch.from_numpy(reference.as_quat(scalar_first=True))
    assert torch.minimum((quaternion - theirs).abs(), (quaternion + theirs).abs()).max() < 1e-15

    rotvec = torch.from_numpy(reference.as_rotvec())
    ours = matrix_to_rotvec(rotations)
    # at angle pi both signs of the axis are right
    flipped = rotvec * (1 - 2 * PI / rotvec.norm(dim=-1, keepdim=True).clamp_min(1e-300))
    error = torch.minimum((ours - rotvec).norm(dim=-1), (ours - flipped).norm(dim=-1))
    assert error.max() < 2e-15 * 2
    assert (ours.norm(dim=-1) <= PI + 1e-15).all()
    assert (rotvec_to_matrix(rotvec) - rotations).abs().max() < 2e-15


@given(st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=4).filter(lambda q: np.linalg.norm(q) > 1e-3))
@settings(deadline=None)
def test_quaternion_length_does_not_matter(q: list[float]) -> None:
    ours = quaternion_to_matrix(torch.tensor(q, dtype=torch.float64))
    assert np.abs(ours.numpy() - Rotation.from_quat(q, scalar_first=True).as_matrix()).max() < 1e-14


def test_quaternion_of_a_half_turn_keeps_its_length() -> None:
    for axis in torch.eye(3, dtype=torch.float64):
        q = matrix_to_quaternion(2 * torch.outer(axis, axis) - torch.eye(3, dtype=torch.float64))
        assert torch.equal(q.abs(), torch.cat([torch.zeros(1, dtype=torch.float64), axis]))


def test_golden_poses_of_other_programs(data: Callable[[str], Path]) -> None:
    cases = json.loads(data("../golden_poses.json").read_text())["cases"]
    assert len(cases) == 14
    for case in cases:
        angles = [case["relion"][f"rlnAngle{name}"] for name in ("Rot", "Tilt", "Psi")]
        matrix = euler_to_matrix(torch.deg2rad(torch.tensor(angles, dtype=torch.float64)))
        relion = torch.tensor(case["relion_matrix_A"], dtype=torch.float64)
        assert (matrix - relion).abs().max() < 1e-14, case["name"]
        assert (euler_to_matrix(matrix_to_euler(relion)) - relion).abs().max() < 1e-14, case["name"]

        x, y, z, w = case["quat_xyzw_of_A"]
        quaternion = torch.tensor([w, x, y, z], dtype=torch.float64)
        ours = matrix_to_quaternion(matrix)
        assert min((ours - quaternion).abs().max(), (ours + quaternion).abs().max()) < 1e-14, case["name"]

        # cryoSPARC stores the rotation vector of the transpose; compared as rotations, since at pi either sign is right
        pose = torch.tensor(case["cryosparc"]["pose_rotvec"], dtype=torch.float64)
        assert (rotvec_to_matrix(pose) - matrix.T).abs().max() < 1e-14, case["name"]
        assert (rotvec_to_matrix(matrix_to_rotvec(matrix.T)) - matrix.T).abs().max() < 1e-14, case["name"]
        assert matrix_to_rotvec(matrix.T).norm().item() == pytest.approx(pose.norm().item(), abs=1e-14)

        assert (matrix[2] - torch.tensor(case["view_direction_xyz"], dtype=torch.float64)).abs().max() < 1e-14


def test_sixd_is_two_columns_one_after_the_other() -> None:
    matrix = _uniform(1)[0]
    assert torch.equal(matrix_to_sixd(matrix), torch.cat([matrix[:, 0], matrix[:, 1]]))


def test_gram_schmidt_against_roma() -> None:
    x = torch.randn(1000, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    theirs = roma.special_gramschmidt(x.unflatten(-1, (2, 3)).mT)
    assert (gram_schmidt(x) - theirs).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gram_schmidt_is_a_rotation_whatever_comes_in(dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    v = torch.tensor([0.3, -0.2, 0.9], dtype=dtype)
    zero, x, noise = torch.zeros(3, dtype=dtype), torch.eye(3, dtype=dtype)[0], torch.tensor([1.0, 2.0, -1.0]).to(dtype)
    pairs = [(zero, zero), (zero, v), (v, zero), (zero, x), (x, x), (v, -v), (x, 1e-3 * v), (1e-15 * v, 1e15 * noise)]
    pairs += [(v, v + scale * eps * noise) for scale in (1, 10, 100, 1e4, 1e6)]
    many = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)
    pairs += list(
        zip(many, many * torch.linspace(-3, 3, 5000, dtype=dtype)[:, None], strict=True)
    )  # parallel but for rounding
    sixd = torch.stack([torch.cat(pair) for pair in pairs]).requires_grad_()
    rotation = gram_schmidt(sixd)
    eye = torch.eye(3, dtype=dtype)
    assert (rotation.mT @ rotation - eye).abs().max() < 8 * eps
    assert (torch.linalg.det(rotation) - 1).abs().max() < 8 * eps
    rotation.square().cos().sum().backward()
    assert sixd.grad is not None
    assert sixd.grad.isfinite().all()


def _svd_reference(matrix: Tensor) -> Tensor:
    u, _, vt = np.linalg.svd(matrix.double().numpy())
    u[..., -1] *= np.sign(np.linalg.det(u @ vt))[..., None]
    return torch.from_numpy(u @ vt)


def _with_singular_values(values: tuple[float, float, float], n: int = 500) -> Tensor:
    return _uniform(n, 3) @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ _uniform(n, 4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 5e-6)])
def test_special_procrustes_against_numpy(dtype: torch.dtype, tolerance: float) -> None:
    matrix = torch.randn(4000, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)
    singular = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    sign = np.sign(np.linalg.det(matrix.double().numpy()))
    gap = torch.from_numpy((singular[:, 1] + sign * singular[:, 2]) / singular[:, 0])
    error = (special_procrustes(matrix).double() - _svd_reference(matrix)).abs().amax((-2, -1))
    assert (error * gap).max() < tolerance  # the problem's own condition number is 1 / gap
    assert ((sign < 0).sum() > 1000) & ((sign > 0).sum() > 1000)


SINGULAR_VALUES = {
    "equal": (1, 1, 1),
    "smaller two equal": (1, 0.5, 0.5),
    "larger two equal": (1, 1, 0.3),
    "nearly equal": (1, 1 - 1e-6, 1 - 2e-6),
    "reflected": (1, 0.7, -0.5),
    "reflected and ambiguous": (1, 0.5, -0.5),
    "minus identity": (-1, -1, -1),
    "rank 2": (1, 0.5, 0),
    "rank 1": (1, 0, 0),
    "zero": (0, 0, 0),
    "graded": (1, 1e-5, 1e-10),
    "huge": (1e30, 1e29, -1e28),
    "small": (1e-30, 1e-31, 1e-32),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SINGULAR_VALUES)
def test_special_procrustes_is_optimal_and_finite_at_degenerate_matrices(name: str, dtype: torch.dtype) -> None:
    values = SINGULAR_VALUES[name]
    eps = torch.finfo(dtype).eps
    matrix = _with_singular_values(values).to(dtype).requires_grad_()
    rotation = special_procrustes(matrix)
    eye = torch.eye(3, dtype=dtype)
    assert (rotation.mT @ rotation - eye).abs().max() < 12 * eps
    assert (torch.linalg.det(rotation) - 1).abs().max() < 12 * eps
    best = np.abs(values).sum() - 2 * np.abs(values).min() * (np.prod(values) < 0)
    overlap = (rotation.double() * matrix.double()).sum((-2, -1))
    assert (overlap - best).abs().max() <= 12 * eps * np.abs(values).max()
    (rotation * torch.arange(9.0).reshape(3, 3).to(dtype)).sum().backward()
    assert matrix.grad is not None
    assert matrix.grad.isfinite().all()


def test_special_procrustes_gradient() -> None:
    matrix = torch.randn(20, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    repeated = torch.cat(
        [_with_singular_values(v, 2) for v in ((1, 1, 1), (2, 2, 2), (1, 0.5, 0.5), (1, 1, 0.3), (1, 1, -0.3))]
    )
    hard = torch.cat([matrix, torch.eye(3, dtype=torch.float64)[None], repeated]).requires_grad_()
    assert torch.autograd.gradcheck(special_procrustes, hard, eps=1e-6, atol=1e-6)


def test_special_procrustes_gradient_is_capped_below_the_floor() -> None:
    def norm(gap: float) -> float:
        matrix = torch.diag(torch.tensor([1.0, 0.5, gap - 0.5], dtype=torch.float64)).requires_grad_()
        (special_procrustes(matrix) * torch.arange(9.0, dtype=torch.float64).reshape(3, 3)).sum().backward()
        assert matrix.grad is not None
        return matrix.grad.norm().item()

    # only the entries (1, 2) and (2, 1) matter: (7 - 5) / gap each
    assert norm(1e-6) == pytest.approx(8**0.5 / 1e-6, rel=1e-6)
    assert norm(1e-9) == pytest.approx(8**0.5 / 2**-26, rel=1e-6)


def test_special_procrustes_gradient_against_roma() -> None:
    matrix = torch.randn(500, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    weight = torch.randn(500, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    grads = []
    for function in (special_procrustes, roma.special_procrustes):
        leaf = matrix.clone().requires_grad_()
        grads.append(torch.autograd.grad((function(leaf) * weight).sum(), leaf)[0])
    well = grads[1].flatten(1).norm(dim=1) < 1e3
    assert well.sum() > 490
    assert (grads[0] - grads[1])[well].abs().max() < 1e-4


def test_special_procrustes_refuses_a_second_derivative() -> None:
    matrix = torch.eye(3, dtype=torch.float64).requires_grad_()
    with pytest.raises(RuntimeError, match="once differentiable"):
        torch.autograd.grad(special_procrustes(matrix).exp().sum(), matrix, create_graph=True)


GENERIC = torch.tensor([[0.3, -0.7, 1.1], [1e-9, 2e-9, -1e-9], [0.0, 0.0, 0.0], [2.0, 1.5, -1.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    "function",
    [
        euler_to_matrix,
        rotvec_to_matrix,
        lambda v: matrix_to_rotvec(rotvec_to_matrix(v)),
        lambda v: matrix_to_quaternion(rotvec_to_matrix(v)),
        lambda v: quaternion_to_matrix(torch.cat([v, v[..., :1] + 1], dim=-1)),
        lambda v: gram_schmidt(torch.cat([v + 1, v.roll(1, -1) * torch.tensor([1.0, -2.0, 0.5]) + GENERIC[0]], dim=-1)),
    ],
)
def test_gradients_of_conversions(function) -> None:
    assert torch.autograd.gradcheck(function, GENERIC.clone().requires_grad_(), eps=1e-6, atol=1e-7)


def test_gradient_of_euler_angles_away_from_the_poles() -> None:
    angles = torch.tensor([[0.3, 1.2, -2.0], [-3.0, 0.01, 3.0]], dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda e: matrix_to_euler(euler_to_matrix(e)), angles, eps=1e-6, atol=1e-6)


def test_zero_quaternion_is_the_identity_without_gradient() -> None:
    quaternion = torch.zeros(4, requires_grad=True)
    matrix = quaternion_to_matrix(quaternion)
    assert torch.equal(matrix, torch.eye(3))
    matrix.sum().backward()
    assert quaternion.grad is not None
    assert torch.equal(quaternion.grad, torch.zeros(4))


@pytest.mark.parametrize("batch", [(), (0,), (1,), (2, 3), (2, 1, 0)])
def test_any_batch_shape(batch: tuple[int, ...]) -> None:
    assert euler_to_matrix(torch.ones(*batch, 3)).shape == (*batch, 3, 3)
    matrix = rotvec_to_matrix(torch.ones(*batch, 3))
    assert matrix.shape == (*batch, 3, 3)
    assert matrix_to_euler(matrix).shape == matrix_to_rotvec(matrix).shape == (*batch, 3)
    assert matrix_to_quaternion(matrix).shape == (*batch, 4)
    assert quaternion_to_matrix(matrix_to_quaternion(matrix)).shape == (*batch, 3, 3)
    assert gram_schmidt(matrix_to_sixd(matrix)).shape == (*batch, 3, 3)
    assert special_procrustes(matrix).shape == (*batch, 3, 3)
    assert geodesic_distance(matrix, matrix).shape == batch


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (euler_to_matrix, (2,)),
        (matrix_to_euler, (3,)),
        (quaternion_to_matrix, (3,)),
        (matrix_to_quaternion, (4, 4)),
        (rotvec_to_matrix, (4,)),
        (matrix_to_sixd, (9,)),
        (gram_schmidt, (3, 2)),
        (special_procrustes, (9,)),
    ],
)
def test_wrong_shapes_are_refused(function, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        function(torch.ones(5, *shape))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_does_not_become_a_rotation(bad: float) -> None:
    for place in range(9):
        matrix = torch.randn(9, generator=torch.Generator().manual_seed(0))
        matrix[place] = bad
        assert special_procrustes(matrix.reshape(3, 3)).isnan().any()
        if place < 6:
            assert gram_schmidt(matrix[:6]).isnan().any()
        if place < 4:
            assert quaternion_to_matrix(matrix[:4]).isnan().any()


class _Module(torch.nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (gram_schmidt, (6,)),
        (quaternion_to_matrix, (4,)),
        (matrix_to_quaternion, (3, 3)),
        pytest.param(special_procrustes, (3, 3), marks=pytest.mark.slow),  # tracing its sweeps takes seconds
    ],
)
def test_maps_export_with_any_batch_size(function: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> None:
    sizes = {"x": {0: torch.export.Dim("batch", min=1)}}
    program = torch.export.export(_Module(function), (torch.randn(5, *shape),), dynamic_shapes=sizes).module()
    x = torch.randn(17, *shape, generator=torch.Generator().manual_seed(0))
    assert (program(x) - function(x)).abs().max() < 1e-6
