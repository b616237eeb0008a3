import math

import numpy as np
import pytest
import torch

from cryozoo.heads.embedding import Embedding, Metric, embedding_distance


def pairs(n: int = 40, dim: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.standard_normal((n, dim))), torch.from_numpy(rng.standard_normal((n, dim)))


def test_raw_is_the_embedding() -> None:
    raw, _ = pairs()
    pose = Embedding(dim=16)(raw)
    assert pose.rotation is None
    assert torch.equal(pose.raw, raw)
    assert torch.equal(pose.raw, raw)


def test_distances_agree_with_a_loop() -> None:
    a, b = pairs()
    cosine, euclidean = embedding_distance(a, b), embedding_distance(a, b, "euclidean")
    similarities = []
    for i, (x, y) in enumerate(zip(a.numpy(), b.numpy(), strict=True)):
        similarity = x @ y / math.sqrt(x @ x) / math.sqrt(y @ y)
        similarities.append(similarity)
        assert cosine[i].item() == pytest.approx(2 * math.acos(min(max(similarity, 0), 1)), abs=1e-10)
        assert euclidean[i].item() == pytest.approx(math.sqrt(sum((x - y) ** 2)), abs=1e-12)
    assert min(similarities) < 0 < max(similarities)  # some were clipped


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_gradcheck_where_it_is_not_clipped(metric: Metric) -> None:
    a, b = pairs(8)
    b = a + 0.5 * b
    assert (embedding_distance(a, b) < 3).all()
    assert torch.autograd.gradcheck(
        lambda a, b: embedding_distance(a, b, metric), (a.requires_grad_(), b.requires_grad_())
    )


def test_clipped_pairs_still_learn_to_be_close() -> None:
    a = torch.tensor([[1.0, 0]], requires_grad=True)
    b = torch.tensor([[-1.0, 0.5]])
    distance = embedding_distance(a, b)
    assert distance.item() == pytest.approx(math.pi, abs=1e-6)
    (gradient,) = torch.autograd.grad(distance.sum(), a)
    closer = (a - 0.5 * gradient).detach()
    assert torch.cosine_similarity(closer, b) > torch.cosine_similarity(a, b)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([1.0, 2, 3], [1.0, 2, 3]),
        ([1.0, 2, 3], [-1.0, -2, -3]),
        ([1.0, 2, 3], [1.0, 2, 3.0000002]),
        ([1.0, 0, 0], [0, 1.0, 0]),
        ([0.0, 0, 0], [1.0, 2, 3]),
        ([0.0, 0, 0], [0.0, 0, 0]),
        ([1e-15, 0, 0], [1e15, 1e15, 0]),
    ],
)
def test_gradients_are_finite_at_degenerate_pairs(a: list[float], b: list[float], metric: Metric) -> None:
    x, y = torch.tensor([a], requires_grad=True), torch.tensor([b], requires_grad=True)
    distance = embedding_distance(x, y, metric)
    distance.sum().backward()
    assert distance.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert y.grad is not None
    assert y.grad.isfinite().all()


def test_small_angles_keep_their_accuracy_in_float32() -> None:
    a = torch.tensor([[1.0, 0.0]])
    for angle in (1e-2, 1e-4, 1e-6):
        b = torch.tensor([[math.cos(angle), math.sin(angle)]])
        assert embedding_distance(a, b).item() == pytest.approx(2 * angle, rel=1e-4)


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="dim 0"):
        Embedding(dim=0)
    with pytest.raises(ValueError, match="differ in length"):
        embedding_distance(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="'manhattan', expected"):
        embedding_distance(torch.zeros(2, 3), torch.zeros(2, 3), "manhattan")  # type: ignore[arg-type]
