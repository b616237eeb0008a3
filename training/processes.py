"""One training in several processes, as ``torchrun`` starts them: each has its part of every batch, all one network.

Gradients are averaged in one piece. torch's DistributedDataParallel would average them while they are made, but knows
one ``forward`` only, and its buckets are larger than the networks here.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def rank() -> int:
    """The number of this process among those of its training; 0 of one alone, whatever else has started it."""
    return int(os.environ["RANK"]) if dist.is_torchelastic_launched() else 0


class Processes:
    """Those that train together; one alone, where ``torchrun`` has not started it.

    Args:
        device: of this process; gradients travel by NCCL between GPUs, else by Gloo.

    Attributes:
        count: of processes.
        rank: number of this one; the first writes files and says what happens.
    """

    def __init__(self, device: torch.device) -> None:
        together = dist.is_torchelastic_launched()
        self.count, self.rank = int(os.environ["WORLD_SIZE"]) if together else 1, rank()
        self._device = device
        if self.count > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
            atexit.register(dist.destroy_process_group)

    @staticmethod
    def device(asked: str | torch.device | None) -> torch.device:
        """That of this process: its own GPU, where several processes of a machine have one each."""
        device = torch.device(asked or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.type == "cuda" and device.index is None and dist.is_torchelastic_launched():
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
            torch.cuda.set_device(device)
        return device

    def share_(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by those of the first process."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over the processes, which have tensors of the same shapes."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.detach().float().flatten() for tensor in tensors])
        dist.all_reduce(flat)
        parts = (flat / self.count).split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.detach().copy_(part.view_as(tensor))

    def total(self, mine: float) -> float:
        """The sum over the processes."""
        if self.count == 1:
            return mine
        total = torch.tensor(mine, dtype=torch.float64, device=self._device)
        dist.all_reduce(total)
        return float(total)

    def of_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, for all."""
        if self.count == 1:
            return make()
        made: list[T | None] = [make() if self.rank == 0 else None]
        dist.broadcast_object_list(made, device=self._device)
        value = made[0]
        assert value is not None
        return value
