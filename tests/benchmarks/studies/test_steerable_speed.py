import pytest

from cryozoo.benchmarks.studies.steerable_speed import networks


def test_what_is_compared_costs_the_same() -> None:
    nets, cost = networks()
    assert cost["steerable"] == pytest.approx(cost["plain"], rel=0.005)
    # Convolutions of the steerable network by hand: maps of 65, 33, 17, 9, 5 pixels, 8 channels a field.
    pixels = [n * n for n in (65, 33, 17, 17, 9, 9, 5, 5)]
    weights = [a * b * k * k for a, b, k in (
        (1, 16, 5), (16, 32, 3), (32, 64, 3), (64, 64, 3), (64, 128, 3), (128, 128, 3), (128, 256, 3), (256, 256, 3),
    )]  # fmt: skip
    convolutions = sum(p * w for p, w in zip(pixels, weights, strict=True))
    assert cost["steerable"] == pytest.approx(convolutions / 1e6, rel=1e-4)  # and the last layer
    assert {"plain", "steerable"} <= nets.keys()
