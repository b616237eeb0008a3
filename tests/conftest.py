"""Tests: they mirror the folders of the package (tests/geometry/test_rotations.py tests geometry/rotations.py).

- ``make test`` runs everything that is quick; ``make slow`` what takes minutes (``@pytest.mark.slow``);
  ``make referee`` what needs another program on PATH, escnn or cesped (``@pytest.mark.referee``).
- Every number is held against something independent: another library, another program's own output, a naive loop, or
  a closed form; never against what this code printed yesterday.
- Warnings are errors. A test that expects one says so with ``pytest.warns``.
- Absolute imports (``from cryozoo.geometry import rotations``), no ``__init__.py`` anywhere below, so two files in
  different folders may share a name. ``_rootdir_plugin.py`` keeps the root, which is the package, from being collected.
- Real structures, maps and particle stacks are not in the repository. The ``data`` fixture finds them through the
  environment variable CRYOZOO_DATA, a list of folders, and skips the test where there are none.
"""

import os
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

pytest_plugins = ["encoder_fixtures", "rotation_fixtures"]

# A machine that decides what lands must answer the same twice; everybody else's runs keep looking for new cases.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")


@pytest.fixture(scope="session")
def data() -> Callable[[str], Path]:
    """``data("maps/5j0n_map.mrc")``: the path of a file or folder below one of the folders in CRYOZOO_DATA.

    Without it the test is skipped. On a machine that runs the tests for everybody (CI is set) data that were promised
    must be there: a misspelt name would otherwise be a test that never runs.
    """
    folders = [Path(folder) for folder in os.environ.get("CRYOZOO_DATA", "").split(os.pathsep) if folder]

    def find(name: str) -> Path:
        if not folders:
            pytest.skip("CRYOZOO_DATA is not set")
        for folder in folders:
            if (folder / name).exists():
                return folder / name
        message = f"no {name} below CRYOZOO_DATA ({os.pathsep.join(map(str, folders))})"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)

    return find
