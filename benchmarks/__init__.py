"""Benchmarks: suites of training runs and timings, and the tables that their results make.

    python -m cryozoo.benchmarks list
    python -m cryozoo.benchmarks run heads_70s --only '*sixd*'
    python -m cryozoo.benchmarks table heads_70s

A suite is a function in ``suites.py`` that returns named recipes; every run writes one JSON with its recipe,
metrics, seed, commit and hardware under ``results/<suite>/``, and the tables are made from those files alone.
"""

from .. import __version__ as __version__  # fails loudly when this folder is imported as a top-level package
