"""The first round is left out, ratios are taken round by round, figures are written with the table that is printed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cryozoo.benchmarks.studies import timing


def test_take_turns_and_median_ratio() -> None:
    now = 0.0

    def lasting(*durations: float) -> Callable[[], None]:
        left = iter(durations)

        def side() -> None:
            nonlocal now
            now += next(left)

        return side

    sides = {"a": lasting(100, 1, 2, 30), "b": lasting(100, 1, 4, 10)}
    seconds = timing.take_turns(sides, repeats=3, clock=lambda: now)
    assert seconds == {"a": [1, 2, 30], "b": [1, 4, 10]}
    assert timing.median_ratio(seconds["a"], seconds["b"]) == 1


def test_write_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(timing, "RESULTS", tmp_path / "results")
    timing.write_figures("speed", {"seconds": 0.123456, "images": 7})
    assert json.loads((tmp_path / "results/speed.json").read_text()) == {"seconds": 0.123456, "images": 7}
    table = (tmp_path / "results/speed.md").read_text()
    assert "| seconds | 0.1235 |" in table
    assert "| images | 7 |" in table
    assert capsys.readouterr().out == table + "\n"
