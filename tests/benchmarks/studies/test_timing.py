"""The first round is left out, ratios are taken round by round."""

import subprocess
import sys
from collections.abc import Callable

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


def test_a_command_is_run_where_it_should_and_its_cost_is_known(tmp_path) -> None:
    seen: list[int] = []
    program = "import time; data = b'x' * (300 * 2**20); time.sleep(0.5); open('here', 'w').close()"
    cost = timing.run_command(f'{sys.executable} -c "{program}"', tmp_path, watch=seen.append)
    assert (tmp_path / "here").exists()
    assert len(set(seen)) == 1
    assert 0.29 < cost.peak_gb < 0.5
    assert cost.wall_s >= 0.5
    assert cost.cpu_s < cost.wall_s
    assert cost.whole
    with pytest.raises(subprocess.CalledProcessError):
        timing.run_command("cryozoo no-such-command", tmp_path)


def test_a_command_that_takes_too_long_is_stopped(tmp_path) -> None:
    cost = timing.run_command(f'{sys.executable} -c "while True: pass"', tmp_path, limit=0.3)
    assert not cost.whole
    assert 0.3 < cost.cpu_s < 5
