"""The studies of matching run, and their tables say what was measured."""

import shutil

import pytest

from cryozoo.benchmarks.studies import (
    matching,
    matching_junk,
    matching_mismatch,
    matching_noise,
    matching_relion,
    matching_stacks,
)


def test_a_task_comes_near_to_its_bound(data) -> None:
    data("maps/clean70S_ecoli_65.mrc")
    found = matching.run("70S ribosome", 0.5, False, 24, 0)
    assert found["median_deg"] < 2 * found["bound_median_deg"]
    assert found["within_15"] == 1
    row = {
        "map": "70S ribosome",
        "snr": 0.5,
        "ctf": False,
        "seeds": [found, found],
        "commit": "abc",
        "hardware": "a processor",
    }
    text = matching.table({"rows": [row], "images": 24})
    assert f"| 70S ribosome | 0.5 | none | {found['median_deg']:.2f} | {found['bound_median_deg']:.2f} |" in text


@pytest.mark.referee
@pytest.mark.skipif(shutil.which("relion_refine") is None, reason="RELION is not installed (make referee)")
def test_relions_own_projections(data) -> None:
    data("maps/clean70S_ecoli_65.mrc")
    figures = matching_relion.measure(32, 0.5)
    rows = {row["side"]: row for row in figures["rows"]}
    for side in ("cryozoo refine", "cryozoo match"):
        assert rows[side]["median_deg"] < 2 * figures["bound_median_deg"]
        assert rows[side]["median_deg"] < rows["RELION, local, order 5"]["median_deg"] < rows["start"]["median_deg"]
    assert matching_relion.table(figures).count("\n| ") == 7


def test_in_noise_that_falls_off_the_estimate_is_worth_it(data) -> None:
    data("maps/clean70S_ecoli_65.mrc")
    found = matching_noise.run("70S ribosome", "1/k^2", 48, 0)
    assert found["median_deg"] < 1.3 * found["bound_median_deg"]
    assert found["median_deg"] < 0.8 * found["ignoring_median_deg"]
    row = {"map": "70S ribosome", "noise": "1/k^2", "seeds": [found]}
    figures = {"rows": [row], "images": 48, "commit": "abc", "hardware": "a processor"}
    assert f"| 70S ribosome, 1/k^2 | {found['bound_median_deg']:.2f} |" in matching_noise.table(figures)


def test_flipped_phases_that_are_not_said_are_found(data, tmp_path) -> None:
    data("structures/4v89.npz")
    matching_mismatch._images(tmp_path, 24)
    row = matching_mismatch.run("phases flipped, not said", tmp_path)
    assert row["median_deg"] < 3
    assert any("as if their phases were flipped" in said for said in row["said"])
    text = matching_mismatch.table({"rows": [row], "images": 24, "commit": "abc", "hardware": "a processor"})
    assert f"| phases flipped, not said | {row['median_deg']:.2f} |" in text


def test_stacks_are_worked_through_by_whole_commands(monkeypatch) -> None:
    """Of 1,280 particles of the same few images, half."""
    monkeypatch.setattr(matching_stacks, "_STACKS", ((64, 5.0, 1280),))
    monkeypatch.setattr(matching_stacks, "_PARTS", {"predict": (2,)})
    monkeypatch.setattr(matching_stacks, "_IMAGES", 64)
    figures = matching_stacks.measure()
    (row,) = figures["rows"]
    assert row["done"] == 640
    assert 0.1 < row["memory_gb"] < 4
    assert "| predict, 64 pixels | 640 |" in matching_stacks.table(figures)


def test_junk_beside_particles(data) -> None:
    data("maps/clean70S_ecoli_65.mrc")
    data("structures/5a1a.npz")
    figures = {**matching_junk.measure(40, 1), "commit": "abc", "hardware": "a processor"}
    noise, *_ = figures["seeds"][0]["kinds"]
    assert noise["merit"] > 0.95
    assert figures["seeds"][0]["beside"]["within_5"] > 0.9
    assert f"| noise alone | {noise['merit']:.3f} |" in matching_junk.table(figures)
