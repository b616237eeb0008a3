"""Heads: parameter-free maps from a network's last vector to a pose."""

from .. import __version__ as __version__  # fails loudly when this folder is imported as a top-level package
from .base import Head

__all__ = ["Head"]
