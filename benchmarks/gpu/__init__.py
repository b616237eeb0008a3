"""Jobs for a machine with an accelerator; README.md lists them. One file per job, run as a module."""

from ... import __version__ as __version__  # fails loudly when this folder is imported as a top-level package
