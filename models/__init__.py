"""Models: backbones, networks from a particle image to a feature vector, with their poolings and filter stems."""

from .. import __version__ as __version__  # fails loudly when this folder is imported as a top-level package
