"""Losses: how far predicted poses are from true ones."""

from .. import __version__ as __version__  # fails loudly when this folder is imported as a top-level package
from .base import Loss, LossOutput

__all__ = ["Loss", "LossOutput"]
