"""The repository root is the package ``cryozoo``; pytest must not collect it as a second package named like the folder."""

from pathlib import Path

import pytest


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect the root as a plain directory, so that every module exists once (one registry)."""
    if path == parent.config.rootpath:
        return pytest.Dir.from_parent(parent, path=path)
    return None
