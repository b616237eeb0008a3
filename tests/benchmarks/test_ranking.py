"""Ranking: what is better is above, and what images cannot tell apart shares a place."""

import numpy as np
import pytest

from cryozoo.benchmarks.ranking import ranking


def errors(median: float, seed: int, common: np.ndarray | None = None, noise: float = 1.0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    base = np.zeros(1000) if common is None else common
    return median + base + noise * generator.standard_normal(1000)


def test_the_better_is_above_and_equals_share_a_place():
    found = ranking({"bad": [errors(12, 0)], "good": [errors(10, 1)], "as good": [errors(10, 2)]})
    assert {rank.name: rank.place for rank in found} == {"good": 1, "as good": 1, "bad": 3}
    assert found[-1].value == pytest.approx(12, abs=0.2)
    assert all(rank.low <= rank.value <= rank.high for rank in found)


def test_images_are_paired():
    """A difference far below the spread over images is seen, as they are the same images; else it is not."""
    common = 10 * np.random.default_rng(9).standard_normal(1000)
    paired = ranking({"a": [errors(10, 0, common, 0.01)], "b": [errors(10.1, 1, common, 0.01)]})
    assert [rank.place for rank in paired] == [1, 2]
    other = 10 * np.random.default_rng(8).standard_normal(1000)
    alone = ranking({"a": [errors(10, 0, common, 0.01)], "b": [errors(10.1, 1, other, 0.01)]})
    assert [rank.place for rank in alone] == [1, 1]


def test_seeds_count():
    """A lead that seeds do not share is none."""
    runs = {"a": [errors(median, median) for median in (9, 10, 11)], "b": [errors(10.4, k) for k in range(3)]}
    assert [rank.place for rank in ranking(runs)] == [1, 1]


def test_equals_are_told_apart_as_seldom_as_said():
    """Of 60 pairs of equals 2.5 % should be told apart; more than 8 would be an accident of one in 10,000."""
    apart = 0
    for k in range(60):
        found = ranking({"a": [errors(10, 2 * k)], "b": [errors(10, 2 * k + 1)]}, seed=k)
        apart += found[1].place == 2
    assert apart <= 8


def test_other_images_are_refused():
    with pytest.raises(ValueError, match="paired"):
        ranking({"a": [errors(10, 0)], "b": [errors(10, 0)[:-1]]})


def test_nobody():
    assert ranking({}) == []
