"""Losses by name."""

from __future__ import annotations

from typing import Any

from ..losses.base import Loss
from ..losses.reconstruction import Reconstruction
from .parts import make_part


def create_loss(name: str, **args: Any) -> Loss | Reconstruction:
    """Make a loss, for instance ``create_loss("geodesic", symmetry="D2")``; its docstring lists the arguments.

    Raises:
        UnknownName: no such loss; the message lists the nearest names.
        ValueError: arguments that it does not take.
        PartError: the loss itself fails.
    """
    return make_part("loss", name, **args)
