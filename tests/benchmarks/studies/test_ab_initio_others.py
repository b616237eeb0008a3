"""The study of other programs: how their poses and maps are judged, whatever their frame, hand and sign."""

from pathlib import Path

import numpy as np
import pytest

from cryozoo.benchmarks.studies import ab_initio_others as study
from cryozoo.geometry.sampling import random_rotations
from cryozoo.imaging.volumes import Volume
from cryozoo.particles.mrc_writer import write_volume
from cryozoo.particles.poses import PoseTable


def test_frame_hand_sign_and_order_count_for_nothing(tmp_path: Path) -> None:
    volume = Volume.phantom(size=32, pixel_size=4.0)
    rotation = random_rotations(50).double().numpy()
    truth = PoseTable(rotation, image_size=32, pixel_size=4.0)
    mirror, rows = np.diag([1.0, 1.0, -1.0]), np.arange(50)[::-2]
    turned = mirror @ rotation[rows] @ mirror @ rotation[0]
    np.savez(tmp_path / "poses.npz", rotation=turned, row=rows)
    write_volume(tmp_path / "map.mrc", -volume.data.flip(0).numpy(), 4.0)
    found = {"cpu_s": 3.0, "whole": True, "poses": "poses.npz", "map": "map.mrc"}
    judged = study.judged(tmp_path, found, volume, truth)
    assert judged["median_deg"] < 0.01
    assert judged["n"] == 25
    assert judged["resolution_A"] < 10
    assert judged["cpu_s"] == 3.0


def test_what_was_stopped_before_it_had_anything_is_told() -> None:
    rows = [
        {"side": "slow", "cpu_s": 1801.0, "whole": False, "commit": "c", "hardware": "h"},
        {"side": "quick", "cpu_s": 100.0, "whole": True, "n": 9000, "median_deg": 1.5, "acc_5": 0.98, "acc_15": 1.0}
        | {"resolution_A": 14.0, "commit": "c", "hardware": "h"},
    ]
    text = study.table({"images": 10_000, "limit_s": 1800.0, "rows": rows})
    assert "| slow | yes | - | - | - | - | - | 1801 |" in text
    assert "| quick | no | 9,000 | 1.5 | 98.0 | 100.0 | 14.0 | 100 |" in text


@pytest.mark.parametrize("epochs", [(), (0,), (0, 4, 12)])
def test_the_last_epoch_with_poses_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: tuple[int, ...]
) -> None:
    (tmp_path / "drgn").mkdir()
    for epoch in epochs:
        (tmp_path / f"drgn/pose.{epoch}.pkl").touch()
    monkeypatch.setattr(study, "run_command", lambda *args, **more: study.Cost(1.0, 2.0, 3.0, whole=False))
    found = study.cryodrgn(tmp_path, 10.0, where="cryodrgn")
    assert found["cpu_s"] == 2.0
    assert found.get("poses") == ("drgn/pose.12.pkl" if len(epochs) > 1 else None)
