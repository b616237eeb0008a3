"""The eigenvector layer against numpy, finite differences and closed forms."""

import numpy as np
import pytest
import torch

from cryozoo.heads.eigenvector import lowest_eigenpair


def random_frame(rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((4, 4)))[0]


def from_spectrum(values: list[float], seed: int = 0) -> torch.Tensor:
    frame = random_frame(np.random.default_rng(seed))
    return torch.from_numpy(frame @ np.diag(values) @ frame.T)


def random_symmetric(n: int, seed: int = 0) -> torch.Tensor:
    a = torch.from_numpy(np.random.default_rng(seed).standard_normal((n, 4, 4)))
    return a + a.mT


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_agrees_with_numpy_one_by_one(dtype: torch.dtype, atol: float) -> None:
    matrices = random_symmetric(50)
    values, vectors = lowest_eigenpair(matrices.to(dtype))
    assert values.dtype == vectors.dtype == dtype
    for matrix, value, vector in zip(matrices.numpy(), values.numpy(), vectors.numpy(), strict=True):
        expected_values, expected_vectors = np.linalg.eigh(matrix)
        expected = expected_vectors[:, 0] * np.sign(expected_vectors[0, 0])
        np.testing.assert_allclose(value, expected_values, atol=atol)
        np.testing.assert_allclose(vector, expected, atol=atol)
        assert vector[0] >= 0


def test_batch_shapes() -> None:
    values, vectors = lowest_eigenpair(random_symmetric(6).reshape(2, 3, 4, 4))
    assert values.shape == vectors.shape == (2, 3, 4)


def symmetric_part(a: torch.Tensor) -> torch.Tensor:
    return (a + a.mT) / 2


def test_gradcheck_of_generic_matrices() -> None:
    a = random_symmetric(4).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: lowest_eigenpair(symmetric_part(a)), a)


def central_difference(f, a: torch.Tensor, step: float = 1e-6) -> torch.Tensor:
    """Derivative along the ten symmetric perturbations, as a symmetric gradient."""
    gradient = torch.zeros(4, 4, dtype=a.dtype)
    for i in range(4):
        for j in range(4):
            change = torch.zeros(4, 4, dtype=a.dtype)
            change[i, j] += step / 2
            change[j, i] += step / 2
            gradient[i, j] = (f(a + change) - f(a - change)) / (2 * step)
    return gradient


@pytest.mark.parametrize("values", [[0, 1, 1, 1], [0, 1, 1, 2], [-3, -1, 5, 5], [0, 1, 2, 3]])
def test_vector_gradient_is_the_true_one_where_the_others_repeat(values: list[float]) -> None:
    weight = torch.tensor([0.3, -1.2, 0.7, 2.0], dtype=torch.float64)

    def f(a: torch.Tensor) -> torch.Tensor:
        return lowest_eigenpair(a)[1] @ weight

    a = from_spectrum(values)
    a.requires_grad_()
    (gradient,) = torch.autograd.grad(f(a), a)
    torch.testing.assert_close(gradient, central_difference(f, a.detach()), rtol=1e-7, atol=1e-8)


def test_autograd_of_eigh_would_be_nan_there() -> None:
    a = torch.diag(torch.tensor([0.0, 1, 1, 1])).requires_grad_()
    vectors = torch.linalg.eigh(a)[1]
    (gradient,) = torch.autograd.grad(vectors[1, 0] ** 2, a)
    assert not gradient.isfinite().all()


@pytest.mark.parametrize("values", [[0, 1, 1, 1], [0, 0, 1, 2], [1, 1, 1, 1]])
def test_symmetric_functions_of_repeated_eigenvalues_have_the_true_gradient(values: list[float]) -> None:
    def f(a: torch.Tensor) -> torch.Tensor:
        return (lowest_eigenpair(a)[0] ** 3).sum()

    a = from_spectrum(values).requires_grad_()
    (gradient,) = torch.autograd.grad(f(a), a)
    torch.testing.assert_close(gradient, 3 * (a @ a).detach(), rtol=1e-10, atol=1e-10)  # f is tr A^3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "values",
    [
        [0, 0, 0, 0],
        [1, 1, 1, 1],
        [0, 0, 1, 1],
        [1, 1 + 1e-9, 2, 3],
        [0, 1e-30, 2e-30, 1],
        [0, 1e30, 1e30, 1e30],
        [0, 0, 0, 1e-38],
    ],
)
def test_gradient_is_finite_at_repeated_lowest_eigenvalues(values: list[float], dtype: torch.dtype) -> None:
    for matrix in (torch.diag(torch.tensor(values, dtype=dtype)), from_spectrum(values).to(dtype)):
        matrix.requires_grad_()
        eigenvalues, vector = lowest_eigenpair(symmetric_part(matrix))
        (vector.sum() + eigenvalues.sum()).backward()
        assert matrix.grad is not None
        assert matrix.grad.isfinite().all()
        torch.testing.assert_close(vector.norm(), torch.ones((), dtype=dtype))


def test_gap_below_the_floor_caps_the_gradient() -> None:
    gradients = []
    for gap in (1e-7, 1e-12):
        a = torch.diag(torch.tensor([0, gap, 1, 1], dtype=torch.float64)).requires_grad_()
        gradients.append(torch.autograd.grad(lowest_eigenpair(a)[1][1], a)[0][0, 1].abs().item())
    assert gradients[0] == pytest.approx(0.5e7, rel=1e-5)
    assert gradients[1] == pytest.approx(0.5 * 2.0**26, rel=1e-5)  # 1 / sqrt(eps) instead of 1e12


def test_zero_matrix_gives_the_vector_no_gradient() -> None:
    a = torch.zeros(3, 4, 4, requires_grad=True)
    lowest_eigenpair(a)[1].sum().backward()
    assert a.grad is not None
    assert (a.grad == 0).all()


def test_backward_under_autocast_is_float32() -> None:
    def gradient(autocast: bool) -> torch.Tensor:
        a = random_symmetric(20).float().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            values, vector = lowest_eigenpair(a)
            (vector.sum() + values[:, 1].sum()).backward()
        assert a.grad is not None
        return a.grad

    torch.testing.assert_close(gradient(True), gradient(False), rtol=0, atol=0)


def test_matrices_that_are_not_finite_give_nan_and_leave_the_others_alone() -> None:
    matrices = random_symmetric(4)
    expected = lowest_eigenpair(matrices[[0, 2]])
    matrices[1, 2, 3], matrices[3, 0, 0] = torch.nan, torch.inf
    for result, value in zip(lowest_eigenpair(matrices), expected, strict=True):
        assert result[[1, 3]].isnan().all()
        assert torch.equal(result[[0, 2]], value)
