import doctest
from pathlib import Path

from cryozoo import geometry


def test_the_tour_in_the_readme_runs() -> None:
    readme = Path(geometry.__file__).with_name("README.md")
    outcome = doctest.testfile(str(readme), module_relative=False)
    assert outcome.attempted > 15
    assert outcome.failed == 0
