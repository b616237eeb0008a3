"""The repository root is the package ``cryozoo``; pytest must not import it again as a package named like the checkout.

A plugin and not a hook in conftest.py, because the root is collected before tests/conftest.py is read.
"""

from pathlib import Path

import pytest


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect the root as a plain directory, so that every module exists once (one registry)."""
    if path == parent.config.rootpath:
        return pytest.Dir.from_parent(parent, path=path)
    return None
