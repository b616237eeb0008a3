"""Distances between particles as an encoder sees them: what orientations are recovered from."""

from __future__ import annotations

import torch
from torch import Tensor

from ..geometry.distances import quaternion_distance
from ..geometry.pose import Pose
from ..geometry.rotations import matrix_to_quaternion
from ..heads.embedding import Metric, embedding_distance


@torch.no_grad()
def predicted_distances(
    pose: Pose, pairs: Tensor | None = None, *, metric: Metric = "cosine", block: int = 2048
) -> Tensor:
    """Distances between N particles, in radians except for the Euclidean metric.

    Between the predicted rotations; between the embeddings where the head gives no rotation. What ``SiameseDistance``
    compares, unless it takes the least over a point group.

    Args:
        pose: of N particles, from an encoder.
        pairs: (M, 2) indices; default all.
        metric: of embeddings.
        block: rows of the matrix, or 16 times as many pairs, that are computed at a time.

    Returns:
        (N, N), symmetric with zeros on the diagonal, or (M,) of the pairs; float32.

    Raises:
        ValueError: neither rotations nor embeddings.
    """
    if pose.rotation is not None:
        vectors = matrix_to_quaternion(pose.rotation.double())
    elif pose.raw is not None:
        vectors = pose.raw.double()
    else:
        raise ValueError("the pose has neither rotations nor embeddings, between which there would be distances")
    if pairs is not None:

        def between(some: Tensor) -> Tensor:
            first, second = vectors[some[:, 0]], vectors[some[:, 1]]
            if pose.rotation is not None:
                return quaternion_distance(first, second).float()
            return embedding_distance(first, second, metric).float()

        return torch.cat([between(some) for some in pairs.split(16 * block)])
    euclidean = pose.rotation is None and metric == "euclidean"
    if not euclidean:
        vectors = torch.nn.functional.normalize(vectors, dim=1)
    out = vectors.new_empty(len(vectors), len(vectors), dtype=torch.float32)
    for start in range(0, len(vectors), block):
        rows = vectors[start : start + block]
        if euclidean:
            # The differences themselves: expanding their squares would lose the small ones.
            out[start : start + block] = torch.cdist(rows, vectors, compute_mode="donot_use_mm_for_euclid_dist")
        else:
            cosine = rows @ vectors.T
            # q and -q are one rotation; an obtuse angle between embeddings is as far as there is.
            cosine = cosine.abs() if pose.rotation is not None else cosine.clamp_min(0)
            out[start : start + block] = 2 * torch.arccos(cosine.clamp_max(1))
    return out.fill_diagonal_(0)
