"""Losses by name."""

from __future__ import annotations

from typing import Any

from ..losses.base import Loss
from .registry import get_part


def create_loss(name: str, **args: Any) -> Loss:
    """Make a loss, for instance ``create_loss("geodesic", symmetry="D2")``; its docstring lists the arguments.

    Raises:
        UnknownName: no such loss; the message lists the nearest names.
    """
    return get_part("loss", name).load()(**args)
