"""Particles: images, tables and volumes in and out; the CTF, projections and simulated particles."""

from .. import __version__ as __version__  # fails loudly when this folder is imported as a top-level package
