"""One training in several processes, as ``torchrun`` starts them: each has its part of every batch, all one network.

Gradients are averaged in one piece. torch's DistributedDataParallel would average them while they are made, but knows
one ``forward`` only, and its buckets are larger than the networks here.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def rank() -> int:
    """The number of this process among those of its training."""
    return int(os.environ.get("RANK", "0"))


class Processes:
    """Those that train together; one alone, where nothing else was started.

    Args:
        device: of this process; gradients travel by NCCL between GPUs, else by Gloo.

    Attributes:
        count: of processes.
        rank: number of this one; the first writes files and says what happens.
    """

    def __init__(self, device: torch.device) -> None:
        self.count, self.rank, self._device = int(os.environ.get("WORLD_SIZE", "1")), rank(), device
        if self.count > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
            atexit.register(dist.destroy_process_group)

    @staticmethod
    def device(asked: str | torch.device | None) -> torch.device:
        """That of this process: its own GPU, where several processes of a machine have one each."""
        device = torch.device(asked or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        return device

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over the processes, which have tensors of the same shapes."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.detach().float().flatten() for tensor in tensors])
        dist.all_reduce(flat)
        parts = (flat / self.count).split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.detach().copy_(part.view_as(tensor))

    def any(self, mine: bool) -> bool:
        """Whether one of the processes says so."""
        if self.count == 1:
            return mine
        said = torch.tensor(float(mine), device=self._device)
        dist.all_reduce(said)
        return bool(said > 0)

    def of_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, for all."""
        if self.count == 1:
            return make()
        made: list[T | None] = [make() if self.rank == 0 else None]
        dist.broadcast_object_list(made)
        value = made[0]
        assert value is not None
        return value
