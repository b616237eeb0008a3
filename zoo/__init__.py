"""Zoo: names and weights of encoders, and what encoders do: predict, recover, be evaluated, leave as a file.

README.md says which file does what, and how to add a part or weights.
"""

from .. import __version__ as __version__  # fails loudly when this folder is imported as a top-level package
