from typing import Literal

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryozoo.heads.nined_svd import NineDSVD
from cryozoo.heads.qcqp_bingham import QCQPBingham, bingham_matrix


def raw_vectors(n: int = 50) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, 10))


def naive_matrix(vector: np.ndarray) -> np.ndarray:
    lower = np.zeros((4, 4))
    numbers = iter(vector)
    for i in range(4):
        for j in range(i + 1):
            lower[i, j] = next(numbers)
    return lower @ lower.T


def test_agrees_with_numpy_one_by_one() -> None:
    raw = raw_vectors()
    pose, statistics = QCQPBingham()(torch.from_numpy(raw)), QCQPBingham().statistics(torch.from_numpy(raw))
    matrices = bingham_matrix(torch.from_numpy(raw))
    for i, vector in enumerate(raw):
        matrix = naive_matrix(vector)
        np.testing.assert_allclose(matrices[i], matrix, atol=1e-14)
        values, vectors = np.linalg.eigh(matrix)
        w, x, y, z = vectors[:, 0]
        np.testing.assert_allclose(pose.rotation[i], Rotation.from_quat([x, y, z, w]).as_matrix(), atol=1e-9)
        dispersions = [values[0] - value for value in values[1:]]
        assert statistics.trace[i].item() == pytest.approx(sum(dispersions), abs=1e-12)
        assert statistics.maximum[i].item() == pytest.approx(max(dispersions), abs=1e-12)


def test_rotation_is_the_least_of_the_quadratic_form() -> None:
    raw = torch.from_numpy(raw_vectors(5))
    matrices = bingham_matrix(raw)
    xyzw = Rotation.from_matrix(QCQPBingham()(raw).rotation.numpy()).as_quat()
    others = Rotation.random(2000, rng=0).as_quat()
    for matrix, q in zip(matrices.numpy(), np.roll(xyzw, 1, axis=1), strict=True):
        everywhere = np.einsum("ni,ij,nj->n", np.roll(others, 1, axis=1), matrix, np.roll(others, 1, axis=1))
        assert q @ matrix @ q < everywhere.min()


@pytest.mark.parametrize(("confidence", "field"), [("trace", "trace"), ("max", "maximum")])
def test_confidence_is_the_statistic_with_larger_meaning_surer(confidence: Literal["max", "trace"], field: str) -> None:
    raw = torch.from_numpy(raw_vectors())
    head = QCQPBingham(confidence=confidence)
    torch.testing.assert_close(head(raw).confidence, -getattr(head.statistics(raw), field))
    # a sharper density: all eigenvalue gaps grow fourfold
    assert (head(2 * raw).confidence > head(raw).confidence).all()
    torch.testing.assert_close(head(2 * raw).confidence, 4 * head(raw).confidence)


def test_max_is_the_default() -> None:
    raw = torch.from_numpy(raw_vectors())
    assert torch.equal(QCQPBingham()(raw).confidence, QCQPBingham(confidence="max")(raw).confidence)


def test_max_sees_an_undetermined_direction_and_trace_does_not() -> None:
    # L = diag(0, 0, 2, 2): any mixture of w and x is as good
    raw = torch.tensor([[0.0, 0, 0, 0, 0, 2, 0, 0, 0, 2]])
    assert QCQPBingham(confidence="max")(raw).confidence.item() == 0
    assert QCQPBingham(confidence="trace")(raw).confidence.item() == 8


def test_confidence_is_never_nan() -> None:
    for scale in (0.0, 1e-30, 1e19, 1e30):
        confidence = QCQPBingham()(torch.from_numpy(raw_vectors()).float() * scale).confidence
        assert not confidence.isnan().any()
        assert (confidence >= 0).all()
    # a gap of exactly 0 times a squared scale beyond float32
    assert QCQPBingham()(1e20 * torch.tensor([[1.0, 0, 1, 0, 0, 1, 0, 0, 0, 1]])).confidence.item() == 0


def test_numbers_of_all_sizes_in_one_vector() -> None:
    """LAPACK alone gives NaN for a tenth of a percent of them."""
    generator = torch.Generator().manual_seed(0)
    size = 10 ** (32 * torch.rand(20_000, 10, generator=generator) - 16)
    pose = QCQPBingham()(size * torch.randn(20_000, 10, generator=generator))
    eye = torch.eye(3).expand(20_000, 3, 3)
    torch.testing.assert_close(pose.rotation @ pose.rotation.mT, eye, atol=1e-5, rtol=0)
    assert not pose.confidence.isnan().any()


def test_unknown_confidence_is_refused() -> None:
    with pytest.raises(ValueError, match="'gap', expected 'max' or 'trace'"):
        QCQPBingham(confidence="gap")  # type: ignore[arg-type]


def test_matrix_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 12\), expected the 10 numbers"):
        bingham_matrix(torch.zeros(3, 12))


def test_davenports_form_agrees_with_the_nearest_rotation() -> None:
    raw = torch.from_numpy(np.random.default_rng(1).standard_normal((50, 9)))
    head = QCQPBingham(form="davenport")
    # the rotation that maximises tr(M^T R), by another road
    torch.testing.assert_close(head(raw).rotation, NineDSVD()(raw).rotation, rtol=0, atol=1e-12)
    for vector, statistics in zip(raw.numpy(), zip(*head.statistics(raw), strict=True), strict=True):
        # eigenvalues of K are +-s1 +-s2 +-s3 with the sign of the determinant (Horn 1987)
        s = np.linalg.svd(vector.reshape(3, 3).T, compute_uv=False)
        s[2] *= np.sign(np.linalg.det(vector.reshape(3, 3).T))
        gaps = 2 * np.array([s[1] + s[2], s[0] + s[2], s[0] + s[1]])
        np.testing.assert_allclose([x.item() for x in statistics], [-gaps.sum(), -gaps.min()], atol=1e-12)
    torch.testing.assert_close(head(3 * raw).confidence, 3 * head(raw).confidence)


def test_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="form 'lu', expected 'cholesky' or 'davenport'"):
        QCQPBingham(form="lu")  # type: ignore[arg-type]
