"""Zoo: the registry, encoders put together from parts, training, prediction, pretrained weights, the command line."""

from .. import __version__ as __version__  # fails loudly when this folder is imported as a top-level package
