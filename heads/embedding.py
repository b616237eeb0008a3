"""Embedding: no rotation at all, a feature vector whose distances stand for those between the rotations."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..geometry.scale import unit_scale
from .base import Head

Metric = Literal["cosine", "euclidean"]


class Embedding(Head):
    """The raw vector is the embedding; ``Pose.rotation`` is None (Banjac et al. 2021, arXiv:2104.06237).

    Orientations come from the distances between many images (:func:`embedding_distance`), up to a rotation of the
    object's frame.

    Args:
        dim: length of the embedding.
    """

    has_rotation = False

    def __init__(self, *, dim: int = 512) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim {dim}, expected at least 1")
        self.raw_dim = dim

    def rotation(self, raw: Tensor) -> tuple[None, None]:
        """(B, dim) -> nothing: an embedding has no rotation."""
        return None, None


def embedding_distance(a: Tensor, b: Tensor, metric: Metric = "cosine") -> Tensor:
    """Distance between embeddings, (..., dim) x 2 -> (...).

    "cosine" is 2 arccos of the cosine similarity, which is clipped at 0 (Banjac et al. 2021), so in [0, pi] as the
    distance of rotations is. Where it is clipped, the gradient is that of the unclipped angle: a pair at an obtuse
    angle could otherwise never learn that it is close. "euclidean" is the length of the difference. Gradients are
    finite everywhere, and 0 at a = b.

    Raises:
        ValueError: the lengths differ, or the metric is unknown.
    """
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(f"embeddings {tuple(a.shape)} and {tuple(b.shape)} differ in length")
    if metric == "euclidean":
        return torch.linalg.vector_norm(a - b, dim=-1)
    if metric != "cosine":
        raise ValueError(f"metric {metric!r}, expected 'cosine' or 'euclidean'")
    a, b = (torch.nn.functional.normalize(unit_scale(x)[0], dim=-1) for x in (a, b))
    # arccos has an infinite slope at 1; the angle between a and b is twice this arctangent
    distance = 4 * torch.atan2(torch.linalg.vector_norm(a - b, dim=-1), torch.linalg.vector_norm(a + b, dim=-1))
    return distance - (distance - torch.pi).clamp_min(0).detach()
