"""Tensors that are computed once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache, wraps
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T", Tensor, tuple[Tensor, ...])


def constant(make: Callable[..., T]) -> Callable[..., T]:
    """Decorate a function of hashable arguments that returns tensors: they are computed once, on the CPU.

    Every call hands them out on the default device. A plain cache would keep what the surroundings of the first call
    made of them: tensors on the meta device, for instance, or of inference mode, with which nothing can be trained.
    """

    @cache
    def made(*args: Hashable, **kwargs: Hashable) -> T:
        with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
            return make(*args, **kwargs)

    @wraps(make)
    def get(*args: Hashable, **kwargs: Hashable) -> T:
        device, tensors = torch.get_default_device(), made(*args, **kwargs)
        return tensors.to(device) if isinstance(tensors, Tensor) else tuple(tensor.to(device) for tensor in tensors)

    return get
