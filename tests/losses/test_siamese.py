import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch

from cryozoo.geometry.pairs import all_pairs, pair_distance
from cryozoo.geometry.point_groups import point_group
from cryozoo.geometry.pose import Pose
from cryozoo.heads.embedding import Embedding, Metric
from cryozoo.heads.sixd import SixDSVD
from cryozoo.losses.siamese import SiameseDistance


def every_pair(n: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(n) for j in range(i + 1, n)]


@pytest.mark.parametrize("symmetry", ["C1", "C3", "D2"])
def test_rotations_agree_with_a_loop(symmetry: str, batch: Callable, symmetric_angle: Callable) -> None:
    pose, target = batch()
    group, p, t = point_group(symmetry).numpy(), pose.rotation.numpy(), target.rotation.numpy()
    errors = [abs(symmetric_angle(p[i], p[j], group) - symmetric_angle(t[i], t[j], group)) for i, j in every_pair(7)]
    output = SiameseDistance(symmetry=symmetry)(pose, target)
    assert output.total.item() == pytest.approx(sum(errors) / len(errors), abs=1e-9)
    assert output.parts["distance"].item() == output.total.item()


@pytest.mark.parametrize("symmetry", ["C1", "C3", "D2"])
def test_restricted_rotations_agree_with_a_loop(symmetry: str, batch: Callable, angle: Callable) -> None:
    pose, target = batch()
    group, p, t = point_group(symmetry).numpy(), pose.rotation.numpy(), target.rotation.numpy()
    t = [min((r @ g for g in group), key=lambda mate: angle(mate, np.eye(3))) for r in t]
    errors = [abs(angle(p[i], p[j]) - angle(t[i], t[j])) for i, j in every_pair(7)]
    loss = SiameseDistance(symmetry=symmetry, restricted=True)
    assert loss(pose, target).total.item() == pytest.approx(sum(errors) / len(errors), abs=1e-9)
    mates = Pose(target.rotation @ point_group(symmetry)[torch.arange(7) % len(group)])
    assert loss(pose, mates).total.item() == pytest.approx(sum(errors) / len(errors), abs=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_embeddings_agree_with_a_loop(metric: Metric, batch: Callable, angle: Callable) -> None:
    _, target = batch()
    raw = torch.from_numpy(np.random.default_rng(0).standard_normal((7, 5)) + 0.5)
    embedding, t = raw.numpy(), target.rotation.numpy()
    errors = []
    for i, j in every_pair(7):
        a, b = embedding[i], embedding[j]
        cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        predicted = 2 * math.acos(max(cosine, 0)) if metric == "cosine" else np.linalg.norm(a - b)
        errors.append(abs(predicted - angle(t[i], t[j])))
    output = SiameseDistance(metric=metric)(Embedding(dim=5)(raw), target)
    assert output.total.item() == pytest.approx(sum(errors) / len(errors), abs=1e-9)


def test_gradcheck(batch: Callable) -> None:
    pose, target = batch()
    raw = pose.raw[:, :6].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda raw: SiameseDistance()(SixDSVD()(raw), target).total, raw)
    embedding = pose.raw.clone().requires_grad_()
    loss = SiameseDistance(metric="euclidean")
    assert torch.autograd.gradcheck(lambda raw: loss(Embedding(dim=10)(raw), target).total, embedding)


def test_a_common_rotation_on_either_side_changes_nothing(batch: Callable, rotations: Callable) -> None:
    pose, target = batch()
    left, right = rotations(2, seed=9)
    moved = Pose(rotation=left @ pose.rotation @ right)
    a, b = SiameseDistance()(pose, target).total, SiameseDistance()(moved, target).total
    assert a.item() == pytest.approx(b.item(), abs=1e-12)


@pytest.mark.parametrize("pairs", ["random", "stratified"])
def test_drawn_pairs_are_those_of_the_loss(pairs: Literal["random", "stratified"], batch: Callable) -> None:
    pose, target = batch(40)
    loss = SiameseDistance(pairs=pairs, num_pairs=25)
    torch.manual_seed(5)
    drawn = loss.draw(target.rotation)
    assert drawn.shape == (25, 2)
    torch.manual_seed(5)
    value = loss(pose, target).total
    errors = pair_distance(pose.rotation, drawn) - pair_distance(target.rotation, drawn)
    assert value.item() == pytest.approx(errors.abs().mean().item(), abs=1e-12)


def test_number_of_pairs(batch: Callable) -> None:
    rotation = batch(10)[1].rotation
    assert torch.equal(SiameseDistance().draw(rotation), all_pairs(10))
    assert len(SiameseDistance(pairs="random").draw(rotation)) == 10
    assert len(SiameseDistance(pairs="stratified").draw(rotation)) == 10
    with pytest.raises(ValueError, match="num_pairs 5 with pairs 'all'"):
        SiameseDistance(num_pairs=5)
    with pytest.raises(ValueError, match="num_pairs 0"):
        SiameseDistance(pairs="random", num_pairs=0)
    with pytest.raises(ValueError, match="'near', expected"):
        SiameseDistance(pairs="near")  # type: ignore[arg-type]


def test_one_image_is_refused(batch: Callable) -> None:
    pose, target = batch(1)
    with pytest.raises(ValueError, match="1 image"):
        SiameseDistance()(pose, target)
