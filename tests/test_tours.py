"""The tours in the folders' READMEs run."""

import doctest
from pathlib import Path

import pytest

import cryozoo


@pytest.mark.parametrize(("folder", "steps"), [("geometry", 15), ("recovery", 4), ("training", 9)])
def test_tour(folder, steps):
    readme = Path(cryozoo.__file__).parent / folder / "README.md"
    outcome = doctest.testfile(str(readme), module_relative=False)
    assert outcome.attempted >= steps
    assert outcome.failed == 0
