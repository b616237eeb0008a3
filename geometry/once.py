"""For functions whose derivative is written by hand and has no derivative of its own."""

from __future__ import annotations

import torch


def refuse_second_derivatives(name: str, instead: str = "") -> None:
    """Raise RuntimeError in a backward pass of which a graph is made (``create_graph``).

    ``torch.autograd.function.once_differentiable`` does so for ``backward`` only: ``torch.autograd.grad`` passes it by,
    and gives numbers from which this part is missing.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(f"{name} is once differentiable, and create_graph asks for more{instead}")
