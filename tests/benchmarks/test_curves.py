"""Accuracy against cost."""

from pathlib import Path
from typing import Any, Literal

from cryozoo.benchmarks import curves
from cryozoo.benchmarks.curves import write
from cryozoo.benchmarks.runs import Result
from cryozoo.training.data import Simulated
from cryozoo.training.recipe import Recipe


def record(backbone: str, head: str, images: int | None, medians: list[float], cpu: float) -> Result:
    augment: Literal["none", "rotate"] = "none" if images is None else "rotate"
    data = Simulated("phantom:0", images=images, augment=augment)
    recipe = Recipe(f"{backbone}-{head}", 32, data, 1)
    history = [{"step": 1.0}, *({"cpu_s": cpu * k, "median_deg": m} for k, m in enumerate(medians, 1))]
    return Result("a label", recipe, {"median_deg": medians[-1]}, history)


def test_over_time_seeds_are_pooled_at_each_validation() -> None:
    records = [
        record("d4_vgg_gem_s", "sixd_svd", None, [9.0, 4.0], 10.0),
        record("d4_vgg_gem_s", "sixd_svd", None, [7.0, 5.0], 20.0),
        record("vgg_gem_m", "sixd_svd", None, [20.0, 8.0], 10.0),
    ]
    x, found = curves.curves(records)
    assert x == "CPU seconds of training"
    assert found == {
        ("d4_vgg_gem_s", "sixd_svd"): [(15.0, [9.0, 7.0]), (30.0, [4.0, 5.0])],
        ("vgg_gem_m", "sixd_svd"): [(10.0, [20.0]), (20.0, [8.0])],
    }


def test_over_images_it_is_the_test_set_that_counts(tmp_path: Path, monkeypatch: Any) -> None:
    records = [
        record(network, "qcqp_bingham", 2 * images, [50.0, error + seed], 1.0)
        for network, error in (("vgg_gem_m", 20.0), ("d4_vgg_gem_s", 5.0))
        for images in (1000, 300)
        for seed in (0, 1)
    ]
    x, found = curves.curves(records)
    assert x == "images to train on"
    plain, d4 = ("vgg_gem_m, images turned", "qcqp_bingham"), ("d4_vgg_gem_s, images turned", "qcqp_bingham")
    assert found[plain] == [(300, [20.0, 21.0]), (1000, [20.0, 21.0])]
    assert set(found) == {plain, d4}
    monkeypatch.setattr(curves, "load_results", lambda suite: records)
    write("any", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
