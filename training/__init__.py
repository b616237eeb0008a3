"""Training: a recipe says what to train on what and how; data, objective and trainer carry it out.

The same recipe gives the same weights, bit for bit on a CPU, however often it was stopped. A new source of data and a
new objective are classes of their own; the trainer knows neither by name.
"""

from .. import __version__ as __version__  # fails loudly when this folder is imported as a top-level package
