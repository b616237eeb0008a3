"""Models: backbones, networks from a particle image to a feature vector; and decoders, volumes that are learnt."""

from .. import __version__ as __version__  # fails loudly when this folder is imported as a top-level package
