"""cryozoo.losses."""

from .. import __version__ as __version__  # fails loudly when this folder is imported as a top-level package
