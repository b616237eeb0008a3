"""The comparison of reconstructions runs, with RELION or without, and both make the same map."""

import shutil

import pytest

from cryozoo.benchmarks.studies.reconstruction import measure


def test_costs_without_relion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    figures = measure(24, 300, rounds=1)
    assert figures["cryozoo_lowest_fsc_with_truth_to_0.8_nyquist"] > 0.99
    assert min(figures[f"cryozoo_{name}"] for name in ("cpu_s", "peak_MB", "without_start_cpu_s")) > 0
    assert not any(name.startswith("relion") for name in figures)


@pytest.mark.referee
@pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="RELION is not installed (make referee)")
def test_costs_beside_relion() -> None:
    figures = measure(32, 1000, rounds=1)
    assert figures["lowest_fsc_between_the_maps_to_0.8_nyquist"] > 0.99
    assert figures["relion_cpu_s"] > 0
