"""Harmonics: Wigner-D functions, series of them on SO(3), their sums and maxima."""

from ... import __version__ as __version__  # fails loudly when this folder is imported as a top-level package
