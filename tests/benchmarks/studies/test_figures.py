"""Tables are made from the figures that lie beside them, and from nothing else."""

import json
from pathlib import Path

import pytest

from cryozoo.benchmarks.runs import RESULTS
from cryozoo.benchmarks.studies import figures
from cryozoo.benchmarks.studies.maps import table as maps_table


def test_write_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(figures, "RESULTS", tmp_path / "results")
    figures.write_figures("overhead", {"seconds": 0.123456, "images": 7})
    assert json.loads((tmp_path / "results/overhead.json").read_text()) == {"seconds": 0.123456, "images": 7}
    table = (tmp_path / "results/overhead.md").read_text()
    assert "| seconds | 0.1235 |" in table
    assert "| images | 7 |" in table
    assert capsys.readouterr().out == table + "\n"


@pytest.mark.parametrize("name", figures.STUDIES)
def test_committed_tables_are_those_of_the_committed_figures(name: str) -> None:
    assert figures.study_table(name) == (RESULTS / f"{name}.md").read_text()


def test_the_committed_table_of_maps_is_that_of_its_figures() -> None:
    assert maps_table(RESULTS) == (RESULTS / "maps.md").read_text()
