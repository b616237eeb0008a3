"""Tensors that are computed once, and tensors of modules that never change."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from functools import cache, wraps
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

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


class Constants(nn.Module):
    """A module with tensors that follow its device but are no state.

    Buffers would be, even those that are not saved: averages of weights round integers among them, ``bfloat16()``
    rounds the others for good, and distributed training sends all of them around at every step.
    """

    def __init__(self) -> None:
        super().__init__()
        self._constants: list[str] = []

    def set_constants(self, **tensors: Tensor) -> None:
        """Attributes of these names, which keep their type whatever the module's precision."""
        for name, tensor in tensors.items():
            setattr(self, name, tensor)
            self._constants.append(name)

    def constants(self) -> Iterator[Tensor]:
        """Those of this module, not of modules in it."""
        return (getattr(self, name) for name in self._constants)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As of all modules: ``to``, ``cuda``, ``float`` and so on call it with what they do to a tensor."""
        super()._apply(fn, recurse)
        for name in self._constants:
            tensor: Any = getattr(self, name)
            setattr(self, name, tensor.to(fn(tensor.new_empty(0)).device))
        return self
