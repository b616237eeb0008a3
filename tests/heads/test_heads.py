"""What every head promises, each promise checked for every head; the heads' own files check what is theirs alone."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryozoo.heads import Head
from cryozoo.heads.embedding import Embedding
from cryozoo.heads.nined_svd import NineDSVD
from cryozoo.heads.qcqp_bingham import QCQPBingham
from cryozoo.heads.quaternion import Quaternion
from cryozoo.heads.sixd import SixDGramSchmidt, SixDSVD
from cryozoo.heads.so3_harmonic import SO3Harmonic
from cryozoo.testing import check_head
from cryozoo.zoo.registry import get_part, list_parts


def davenport(**args: Any) -> QCQPBingham:
    """The form of QCQPBingham that equivariant backbones use."""
    return QCQPBingham(form="davenport", **args)


def harmonic(**args: Any) -> SO3Harmonic:
    """A small SO3Harmonic."""
    return SO3Harmonic(lmax=2, order=2, **args)


ROTATION_HEADS: list[Callable[..., Head]] = [
    Quaternion, SixDGramSchmidt, SixDSVD, NineDSVD, QCQPBingham, davenport, harmonic,
]  # fmt: skip
ALL_HEADS = [*ROTATION_HEADS, Embedding]
DTYPES = [torch.float32, torch.float64]

rotation_heads = pytest.mark.parametrize(
    "head", [h() for h in ROTATION_HEADS], ids=[h.__name__ for h in ROTATION_HEADS]
)
all_heads = pytest.mark.parametrize("make", ALL_HEADS, ids=lambda h: h.__name__)


@pytest.mark.parametrize("name", list_parts("head"))
def test_what_every_head_promises(name: str) -> None:
    make: Any = get_part("head", name).load()
    check_head(make())
    check_head(make(**make.equivariant_args))


@pytest.mark.parametrize("symmetry", ["C1", "D2"])
@pytest.mark.parametrize("confidence", ["height", "entropy", "probability"])
def test_what_densities_promise(confidence: Any, symmetry: str) -> None:
    check_head(SO3Harmonic(lmax=2, order=1, symmetry=symmetry, confidence=confidence))


def raw_vectors(head: Head, n: int = 64, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, head.raw_dim))).to(dtype)


def degenerate(head: Head) -> dict[str, torch.Tensor]:
    """Raw vectors at which a careless head divides by zero."""
    cases = {
        "one entry": torch.eye(head.raw_dim),
        "denormal": torch.full((1, head.raw_dim), 1e-40),
    }
    if head.raw_dim == 6:
        cases["second column zero"] = torch.tensor([[1.0, 0, 0, 0, 0, 0]])
        cases["columns opposite"] = torch.tensor([[1.0, 2, 3, -1, -2, -3]])
        cases["columns orthonormal"] = torch.tensor([[1.0, 0, 0, 0, 1, 0]])
    if head.raw_dim == 9:
        cases["identity"] = torch.eye(3).reshape(1, 9)  # singular values 1, 1, 1
        cases["mirror"] = -torch.eye(3).reshape(1, 9)  # and a determinant of -1: no nearest rotation
        cases["rank 1"] = torch.tensor([[1.0, 0, 0] + 6 * [0.0]])
    if head.raw_dim == 10:
        cases["eigenvalues 0, 1, 1, 1"] = torch.tensor([[0.0, 0, 1, 0, 0, 1, 0, 0, 0, 1]])
        cases["eigenvalues 1, 1, 1, 1"] = torch.tensor([[1.0, 0, 1, 0, 0, 1, 0, 0, 0, 1]])
        cases["eigenvalues 0, 0, 0, 1"] = torch.tensor([[1.0] + 9 * [0.0]])
    return cases


def assert_in_so3(rotation: torch.Tensor, atol: float = 1e-6) -> None:
    eye = torch.eye(3, dtype=rotation.dtype).expand_as(rotation)
    torch.testing.assert_close(rotation @ rotation.mT, eye, rtol=0, atol=atol)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones_like(rotation[:, 0, 0]), rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", DTYPES)
@rotation_heads
def test_rotation_is_in_so3(head: Head, dtype: torch.dtype) -> None:
    raw = raw_vectors(head, 1000, dtype)
    rotation = head(raw).rotation
    assert rotation.shape == (1000, 3, 3)
    assert rotation.dtype == dtype
    assert_in_so3(rotation)


@pytest.mark.parametrize("scale", [1e-25, 1e-20, 1e-10, 1e10, 1e20, 1e30])
@rotation_heads
def test_scale_of_the_raw_vector_does_not_matter(head: Head, scale: float) -> None:
    raw = (raw_vectors(head) * scale).requires_grad_()
    rotation = head(raw).rotation
    assert_in_so3(rotation)
    torch.testing.assert_close(rotation, head(raw_vectors(head)).rotation, rtol=0, atol=1e-3)
    rotation[:, 0, 1].sum().backward()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@rotation_heads
def test_degenerate_raw_vectors_give_rotations_and_finite_gradients(head: Head, dtype: torch.dtype) -> None:
    for name, raw in degenerate(head).items():
        raw = raw.to(dtype).requires_grad_()
        pose = head(raw)
        assert_in_so3(pose.rotation)
        target = pose.rotation.sum() if pose.confidence is None else pose.rotation.sum() + pose.confidence.sum()
        target.backward()
        assert raw.grad is not None, name
        assert raw.grad.isfinite().all(), name


@rotation_heads
def test_gradcheck(head: Head) -> None:
    raw = raw_vectors(head, 4, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda r: head(r).rotation, raw)
    if head.has_confidence:
        assert torch.autograd.gradcheck(lambda r: head(r).confidence, raw)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (2, 5)])
@all_heads
def test_wrong_shapes_are_refused_by_name(make: Callable[..., Head], shape: tuple[int, ...]) -> None:
    head = make()
    with pytest.raises(ValueError, match=f"{type(head).__name__}.*expected \\(batch, {head.raw_dim}\\)"):
        head(torch.zeros(shape))


def d4() -> list[np.ndarray]:
    """phi of the eight elements of D4: quarter turns about z, alone and after the flip of y."""
    quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    turns = [np.linalg.matrix_power(quarter, k) for k in range(4)]
    return [turn @ flip for turn, flip in itertools.product(turns, [np.eye(3), np.diag([1, -1, -1])])]


def equivariance_error(head: Head, blocks: list[tuple[int, torch.Tensor]], phi: np.ndarray) -> float:
    """Largest entry of rotation(rho(phi) raw) - phi rotation(raw); what the blocks leave over at the front stays."""
    raw = raw_vectors(head, dtype=torch.float64)
    acting = torch.block_diag(*(matrices[0] for copies, matrices in blocks for _ in range(copies)))
    first = head.raw_dim - len(acting)
    moved = torch.cat([raw[:, :first], raw[:, first:] @ acting.T], dim=1)
    return (head(moved).rotation - torch.from_numpy(phi) @ head(raw).rotation).abs().max().item()


@rotation_heads
def test_a_head_with_a_representation_is_equivariant(head: Head) -> None:
    for phi in [*d4()[1:], Rotation.from_euler("z", 0.3).as_matrix()]:
        blocks = head.representation(torch.from_numpy(phi)[None])
        if blocks is not None:
            assert sum(copies * matrices.shape[-1] for copies, matrices in blocks) == head.raw_dim
            assert equivariance_error(head, blocks, phi) < 1e-12


def test_a_head_without_one_is_not_equivariant_to_copies_of_phi() -> None:
    assert [type(head) for head in (h() for h in ALL_HEADS) if not head.equivariant] == [
        Quaternion,
        QCQPBingham,
        Embedding,
    ]
    for phi in d4()[1:]:
        block = torch.from_numpy(phi)[None]
        assert equivariance_error(Quaternion(), [(1, block)], phi) > 0.5
        assert equivariance_error(QCQPBingham(), [(3, block)], phi) > 0.5


@pytest.mark.parametrize("degrees", [17.0, 90.0, -143.0])
@pytest.mark.parametrize(
    "head", [SixDGramSchmidt(), SixDSVD(), NineDSVD(), davenport()], ids=lambda h: type(h).__name__
)
def test_any_in_plane_rotation_acts_on_the_left(head: Head, degrees: float) -> None:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    phi = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)
    raw = raw_vectors(head, dtype=torch.float64)
    moved = (raw.unflatten(1, (-1, 3)) @ phi.T).flatten(1)
    torch.testing.assert_close(head(moved).rotation, phi @ head(raw).rotation, rtol=0, atol=1e-12)
