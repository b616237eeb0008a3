"""The comparison of the separable with the dense evaluation compares the same thing."""

from cryozoo.benchmarks.studies.so3_harmonic import measure


def test_both_sides_give_the_same_density() -> None:
    figures = measure(2, 1, images=8)
    assert figures["largest_error_relative"] < 1e-5
    assert figures["tables_MB"] < 0.2
    assert all(value > 0 for name, value in figures.items() if name.endswith("_ms"))
