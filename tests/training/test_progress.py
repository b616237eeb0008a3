"""What a training says while it runs."""

import pytest

from cryozoo.training import progress
from cryozoo.training.progress import Progress, duration


def test_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes 2 seconds, but the first one a hundred."""
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    lines: list[str] = []
    told = Progress("x", 1000, 100, "median_deg", bar=False, report=lines.append)
    for step in range(30):
        clock[0] += 2 if step else 100
        told.stepped()
    assert lines == ["the 884 steps to come take about 29 min, without validations"]
    row, best = {"step": 130, "loss": 0.5, "median_deg": 12.0}, {"step": 50, "loss": 0.6, "median_deg": 11.0}
    told.validated(row, best)
    assert lines[1:] == [
        "step 130 of 1,000: median error 12.00 deg, the best so far 11.00 deg at step 50; loss 0.500; 29 min left"
    ]
    other = Progress("x", 10, 9, "unheard_of", bar=False, report=lines.append)
    other.stepped()
    other.validated({"step": 10, "loss": 0.5, "unheard_of": 0.25}, {"step": 10, "loss": 0.5, "unheard_of": 0.25})
    assert lines[2:] == ["step 10 of 10: unheard_of 0.25, the best so far 0.25 at step 10; loss 0.500"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3.4, "3 s"), (89, "89 s"), (91, "2 min"), (5_000, "83 min"), (7_500, "2 h 5 min"), (200_000, "2 d 8 h")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
