"""Orientations from distances as the paper finds them (Banjac et al. 2021, arXiv:2104.06237), to compare with.

Adam at a learning rate of 0.5 on batches of 256 pairs lowers the mean squared difference between estimated distances
and those of quaternions that start at uniform Euler angles. Quaternions are not normalised but for the distance, and
the moments of a particle move only when it is in a batch, as in the authors' program.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...geometry import euler_to_matrix, matrix_to_quaternion, quaternion_distance
from ...recovery import Pairs

_BATCH = 256
_RATE = 0.5
_MOST = 30_000
_SETTLED = 1e-7


def adam(pairs: Pairs, seed: int) -> Tensor:
    """(P, 4) unit quaternions.

    Ends when the mean loss of a thousand batches differs from that of the thousand before by less than 1e-7, or after
    30,000 batches.
    """
    generator = torch.Generator().manual_seed(seed)
    pairs.sample(2**15, generator)  # not used, but drawn first when results/recovery.md was made
    span = torch.tensor([2 * math.pi, math.pi, 2 * math.pi], dtype=torch.float64)
    euler = span * torch.rand(pairs.particles, 3, generator=generator, dtype=torch.float64)
    q = matrix_to_quaternion(euler_to_matrix(euler)).requires_grad_()
    optimizer = torch.optim.SparseAdam([q], lr=_RATE)
    losses: list[float] = []
    for done in range(1, _MOST + 1):
        i, j, estimates = pairs.sample(_BATCH, generator)
        both = torch.nn.functional.embedding(torch.stack([i, j]), q, sparse=True)
        recovered = quaternion_distance(*torch.nn.functional.normalize(both, dim=-1))
        loss = (estimates - recovered).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if done % 1000 == 0 and done > 1000:
            before, last = (sum(part) / 1000 for part in (losses[-2000:-1000], losses[-1000:]))
            if abs(before - last) < _SETTLED:
                break
    return torch.nn.functional.normalize(q.detach(), dim=1)
