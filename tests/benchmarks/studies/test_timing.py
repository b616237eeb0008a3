"""The first round is left out, ratios are taken round by round."""

from collections.abc import Callable

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
