"""Published comparisons: every row can be run, and the table has what the store has."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cryozoo.benchmarks.design import Design, why_impossible
from cryozoo.benchmarks.harness import named
from cryozoo.benchmarks.protocol import PROTOCOLS, Protocol, Row, list_protocols
from cryozoo.benchmarks.store import SPENT, Result, Store
from cryozoo.benchmarks.task import Task
from cryozoo.particles.errors import BadInput
from cryozoo.particles.yaml_files import read_yaml
from cryozoo.zoo.provenance import provenance

PHANTOM = Task.from_dict(
    {
        "title": "A phantom",
        "image_size": 32,
        "data": {"volume": "phantom:0", "snr": 1.0, "images": 60},
        "pixel_size": 10.0,
        "shift": False,
        "metric": "mse",
        "budget": 1.0,
    },
    "own.1",
)
DESIGNS = [
    Design("test_d4_cnn-sixd_svd", f"reconstruction_{loss}", training={"batch_size": 4}) for loss in ("l2", "mirror")
]
OWN = Protocol(
    "own",
    "A comparison",
    "Somebody 1999",
    "It is small.",
    ("converged", "mse", "converged_cpu_s", "steps"),
    (("Losses", (Row("L2", PHANTOM, DESIGNS[0]), Row("mirror", PHANTOM, DESIGNS[1]))),),
)


@pytest.mark.parametrize("name", list_protocols())
def test_every_row_can_be_run(name: str) -> None:
    """On a phantom in place of the map, which need not be here."""
    protocol = Protocol.load(name)
    tried: set[tuple[str, str]] = set()
    for row in protocol.rows():
        assert row.task.budget == 300
        assert row.name
        if (key := (row.task.metric, row.design.label)) not in tried:
            tried.add(key)
            task = replace(row.task, data=replace(row.task.data, volume="phantom:0"))  # type: ignore[type-var]
            assert why_impossible(task, row.design) is None
    assert len({row.task.name for row in protocol.rows()}) == len({row.task.digest for row in protocol.rows()})


def result(design: Design, seed: int, **changes: Any) -> Result:
    made = {
        "status": "done",
        "metrics": {"mse": 0.05 + seed},
        "cost": {**dict.fromkeys(SPENT, 7), "cpu_s": 9.0},
        **changes,
    }
    return Result(named(PHANTOM), design.to_dict(), seed, provenance=provenance(), **made)


def test_a_table_has_what_the_store_has(tmp_path: Path) -> None:
    """Two seeds of which one has converged, and a design that failed."""
    store = Store(tmp_path)
    curve = ({"step": 1, "cpu_s": 2.0, "mse": 0.3}, {"step": 2, "cpu_s": 4.0, "mse": 0.05})
    for seed in (0, 1):
        history = curve[: 2 - seed]
        result(DESIGNS[0], seed, history=history).write(store.place(PHANTOM, DESIGNS[0], seed))
    broken = replace(result(DESIGNS[1], 0, status="failed", reason="it broke"), provenance={})
    broken.write(store.place(PHANTOM, DESIGNS[1], 0))
    lines = OWN.table(store, range(2)).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    assert rows[0] == ["", "% converged", "MSE", "CPU s to MSE < 0.1", "steps", "seeds"]
    assert rows[2] == ["L2", "50.0", "0.550 (0.050 to 1.050)", "4", "7 (7 to 7)", "2"]
    assert rows[3][:2] == ["mirror", "it broke"]
    assert rows[3][-1] == "0 of 1"
    assert lines[-1].startswith("Commits ")


def test_runs_are_made_and_the_table_written(tmp_path: Path) -> None:
    from cryozoo.benchmarks.engines import Local

    store = Store(tmp_path)
    OWN.run(store, [0], Local(2))
    assert {result.status for result in store.results()} == {"done"}
    text = OWN.write(store, [0]).read_text()
    assert "| L2 | 0.0 |" in text
    assert "| mirror | 0.0 |" in text


def test_a_file_with_other_fields_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = read_yaml(PROTOCOLS / "forum2023.yaml", "a protocol", hint=None)
    monkeypatch.setattr("cryozoo.benchmarks.protocol.PROTOCOLS", tmp_path)
    changes: list[dict[str, Any]] = [{"columms": []}, {"task": {**plain["task"], "budgett": 3}}]
    for change in changes:
        (tmp_path / "bad.yaml").write_text(json.dumps(plain | change))
        with pytest.raises(BadInput, match=r"columms|budgett"):
            Protocol.load("bad")


def test_the_command_names_them() -> None:
    said = subprocess.run([sys.executable, "-m", "cryozoo", "benchmark"], capture_output=True, text=True, check=True)
    for name in list_protocols():
        assert f"{name}: " in said.stdout
    words = ["benchmark", "forum2023", "--heads", "sixd_svd"]
    refused = subprocess.run([sys.executable, "-m", "cryozoo", *words], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "designs of its own" in refused.stderr
