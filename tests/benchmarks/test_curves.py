"""Accuracy against cost."""

from pathlib import Path
from typing import Any

from cryozoo.benchmarks import curves
from cryozoo.benchmarks.curves import write


def record(run: str, encoder: str, images: int | None, medians: list[float], cpu: float) -> dict[str, Any]:
    data = {} if images is None else {"images": images, "split": (0.5, 0.25)}
    history = [{"step": 1, "loss": 0.0}, *({"cpu_s": cpu * k, "median_deg": m} for k, m in enumerate(medians, 1))]
    augment = "none" if images is None else "rotate"
    recipe = {"encoder": encoder, "data": data, "augment": augment}
    return {"run": run, "recipe": recipe, "metrics": {"median_deg": medians[-1]}, "history": history}


def test_over_time_seeds_are_pooled_at_each_validation() -> None:
    records = [
        record("d4-sixd_svd-seed0", "d4_vgg_gem-sixd_svd", None, [9.0, 4.0], 10.0),
        record("d4-sixd_svd-seed1", "d4_vgg_gem-sixd_svd", None, [7.0, 5.0], 20.0),
        record("plain_same_flops-sixd_svd-seed0", "vgg_gem-sixd_svd", None, [20.0, 8.0], 10.0),
    ]
    x, found = curves.curves(records)
    assert x == "CPU seconds of training"
    assert found == {
        ("d4", "sixd_svd"): [(15.0, [9.0, 7.0]), (30.0, [4.0, 5.0])],
        ("plain_same_flops", "sixd_svd"): [(10.0, [20.0]), (20.0, [8.0])],
    }


def test_over_images_it_is_the_test_set_that_counts(tmp_path: Path, monkeypatch: Any) -> None:
    records = [
        record(f"{network}-{images}-seed{seed}", "vgg_gem-qcqp_bingham", 2 * images, [50.0, error + seed], 1.0)
        for network, error in (("plain", 20.0), ("d4_rotated", 5.0))
        for images in (1000, 300)
        for seed in (0, 1)
    ]
    x, found = curves.curves(records)
    assert x == "images to train on"
    plain, d4 = ("plain, images turned", "qcqp_bingham"), ("d4, images turned", "qcqp_bingham")
    assert found[plain] == [(300, [20.0, 21.0]), (1000, [20.0, 21.0])]
    assert set(found) == {plain, d4}
    monkeypatch.setattr(curves, "load_results", lambda suite: records)
    write("any", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
