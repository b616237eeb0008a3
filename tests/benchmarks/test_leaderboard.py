"""The page: what it shows is made of predictions, names of strangers do no harm, and a browser shows it."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryozoo.benchmarks.badge import badge
from cryozoo.benchmarks.design import Design
from cryozoo.benchmarks.harness import named
from cryozoo.benchmarks.leaderboard import markdown, tables, write_leaderboard
from cryozoo.benchmarks.references import references
from cryozoo.benchmarks.runs import RESULTS
from cryozoo.benchmarks.store import PREDICTIONS, Result, Store, write_predictions
from cryozoo.benchmarks.task import Task
from cryozoo.geometry.pose import Pose
from cryozoo.particles.errors import BadInput, BadInputWarning
from cryozoo.training.data import Simulated

TASK = Task.from_dict(
    {
        "title": "A phantom </script><b>bold</b>",
        "image_size": 32,
        "data": {"volume": "phantom:0", "snr": 1.0, "shift_sigma": 4.0, "held_out": 60},
        "pixel_size": 10.0,
    },
    "phantom",
)
assert isinstance(TASK.data, Simulated)
_QUIET_DATA = replace(TASK.data, imaging=replace(TASK.data.imaging, snr=4.0))
QUIET = replace(TASK, name="phantom_quiet", title="A phantom, SNR 4", data=_QUIET_DATA)
ERRORS = {
    ("vgg_gem_s", "sixd_svd", "chordal"): 30,
    ("d4_vgg_gem_s", "sixd_svd", "chordal"): 10,
    ("d4_vgg_gem_s", "qcqp_bingham", "bingham_nll"): 5,
}


def turned(truth: torch.Tensor, degrees: float, seed: int) -> torch.Tensor:
    """Rotations so many degrees off, about axes at random."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.randn(len(truth), 3, generator=generator, dtype=torch.float64)
    angle = np.radians(degrees) * (1 + 0.2 * torch.randn(len(truth), 1, generator=generator, dtype=torch.float64))
    vectors = angle * axis / axis.norm(dim=1, keepdim=True)
    return torch.from_numpy(Rotation.from_rotvec(vectors.numpy()).as_matrix()) @ truth.double()


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """Results of designs that were not trained: predictions are so many degrees off."""
    store = Store(tmp_path_factory.mktemp("store"))
    for task, factor in ((TASK, 1.0), (QUIET, 0.5)):
        truth = task.test().pose
        assert truth.rotation is not None
        for (backbone, head, loss), degrees in ERRORS.items():
            for seed in (0, 1):
                design = Design(f"{backbone}-{head}", loss)
                place = store.place(task, design, seed)
                confidence = torch.arange(60.0) if head == "qcqp_bingham" else None
                pose = Pose(turned(truth.rotation, factor * degrees + seed, seed), truth.shift, confidence)
                cost = {"parameters": 10**5, "gmacs": 0.1, "ms_per_image": 1.0 + degrees, "peak_memory_mb": 500.0}
                result = Result(
                    task=named(task),
                    design=design.to_dict(),
                    seed=seed,
                    status="done",
                    cost={**cost, "steps": 100, "cpu_s": 9.0, "wall_s": 10.0},
                    provenance={"commit": "abc", "hardware": "a processor", "torch": "2", "cryozoo": "0"},
                    history=tuple({"cpu_s": t, "median_deg": degrees + 100 / t} for t in (1.0, 3.0, 9.0)),
                    predictions_sha256=write_predictions(place, pose),
                )
                result.write(place)
        bad = Design("vgg_gem_s-sixd_svd", "bingham_nll")
        Result(named(task), bad.to_dict(), 0, "impossible", "<img src=x onerror=alert(1)>").write(
            store.place(task, bad, 0)
        )
    return store


@pytest.fixture(scope="module")
def page(store, tmp_path_factory) -> Path:
    return write_leaderboard(tables(store), tmp_path_factory.mktemp("site"))


def test_badges_show_places_and_no_markup(store, page):
    """One for each row; read by a parser of XML, titles of strangers are words."""
    from xml.etree import ElementTree

    for task in tables(store):
        for row in [row for row in task["rows"] if row["values"]]:
            file = page.parent / "badges" / task["name"] / f"{row['file']}.svg"
            root = ElementTree.fromstring(file.read_text())
            assert f"place {row['place']}" in root.attrib["aria-label"]
            assert f"{row['value']:.2f}" in root.attrib["aria-label"]
    task = tables(store)[0]
    tied = {**task, "name": '<b>&"', "rows": [{**row, "place": 1} for row in task["rows"] if row["values"]]}
    root = ElementTree.fromstring(badge(tied, tied["rows"][0]))
    assert '<b>&"' in root.attrib["aria-label"]
    assert "place 1 (of 3 that tie)" in root.attrib["aria-label"]


def test_a_table_to_read_without_the_page(store):
    """Places, seeds, and what was measured beside; the best alone where that is asked."""
    task = tables(store)[0]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown(task).splitlines() if "|" in line]
    header, rows = lines[0], lines[2:]
    assert [row[header.index("head")] for row in rows] == ["qcqp_bingham", "sixd_svd", "sixd_svd"]
    assert [row[header.index("place")] for row in rows] == ["1", "2", "3"]
    value, bound = float(rows[0][4].split()[0]), task["references"]["bound"]
    assert value == pytest.approx(task["rows"][0]["value"], abs=0.006)
    assert float(rows[0][header.index("x bound")]) == pytest.approx(value / bound, abs=0.06)
    assert rows[0][-1] == "2"
    assert f"guessing has {task['references']['chance']:.2f}" in markdown(task)
    best = markdown(task, 1).splitlines()
    assert len(best) == len(markdown(task).splitlines()) - 2
    assert best[0].count("|") == 8


def test_numbers_are_made_of_predictions(store):
    noisy, _ = tables(store)
    assert [row["label"] for row in noisy["rows"]][:2] == [
        "d4_vgg_gem_s-qcqp_bingham+bingham_nll",
        "d4_vgg_gem_s-sixd_svd+chordal",
    ]
    assert [row["value"] for row in noisy["rows"]][:3] == pytest.approx([5.5, 10.5, 30.5], rel=0.1)
    assert [row.get("place") for row in noisy["rows"]] == [1, 2, 3, None]
    assert noisy["references"]["bound"] < 5 < 100 < noisy["references"]["chance"]
    assert sum(noisy["rows"][0]["histogram"]) == 120


def test_predictions_that_were_changed_are_caught(store, tmp_path):
    shutil.copytree(store.folder, tmp_path / "store")
    file = next((tmp_path / "store").rglob(PREDICTIONS))
    file.write_bytes(file.read_bytes() + b" ")
    whole = sum(len(row["seeds"]) for task in tables(store) for row in task["rows"])
    with pytest.warns(BadInputWarning, match="sha256"):
        shown = tables(Store(tmp_path / "store"))
    assert sum(len(row["seeds"]) for task in shown for row in task["rows"]) == whole - 1


def test_without_noise_and_of_other_metrics_there_is_no_bound(tmp_path):
    """Nothing is a limit of images without noise, and degrees are none of squared distances."""
    for changes in ({"metric": "mse"}, {"data": {"volume": "phantom:0", "held_out": 20}}):
        plain = {**TASK.to_dict(), **changes}
        found = references(Store(tmp_path), Task.from_dict(plain, "quiet"))
        assert "bound" not in found
        assert ("chance" in found) == ("metric" not in changes)


def test_seeds_of_others_are_a_row_of_their_own(store, tmp_path):
    copy = Store(shutil.copytree(store.folder, tmp_path / "store"))
    place = next(path.parent for path in copy.folder.rglob("seed1/result.json") if (path.parent / PREDICTIONS).exists())
    before = tables(copy)
    replace(Result.read(place), author="../../Somebody else").write(place)
    after = tables(copy)
    assert sum(len(task["rows"]) for task in after) == sum(len(task["rows"]) for task in before) + 1
    write_leaderboard(after, tmp_path / "site")
    written = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*.svg")}
    assert written == {"site"}
    assert not [path for path in tmp_path.rglob("*.svg") if "Somebody" in path.name]


def test_an_empty_store_says_what_to_do(tmp_path):
    with pytest.raises(BadInput, match="cryozoo benchmark"):
        tables(Store(tmp_path))


def test_the_page_needs_no_network_and_holds_no_markup_of_strangers(page):
    text = page.read_text()
    assert not re.findall(r"""(?:src|href)=["']""", text.partition('id="data"')[0])
    assert "<b>bold" not in text
    assert "<img" not in text
    data = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.S)[1]
    assert json.loads(data)[0]["title"] == TASK.title


def dom(page: Path, tmp_path: Path, hash_: str = "", script: str = "") -> str:
    """The page as a browser has made it, after a script of ours."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser")
    copy = tmp_path / "index.html"
    copy.write_text(page.read_text().replace("</body>", f"<script>{script}</script></body>"))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=2000", "--dump-dom", f"file://{copy}#{hash_}"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    return re.sub(r"<script.*?</script>", "", shown, flags=re.S)


def order(shown: str) -> list[str]:
    return re.findall(r'<tr[^>]*data-label="([^"]*)"', shown)


def test_a_browser_shows_the_ranking(page, tmp_path):
    shown = dom(page, tmp_path)
    assert "the best that noise allows" in order(shown)[:2]
    assert order(shown)[-1] == "guessing"
    assert "&lt;img" in shown
    assert "<b>bold" not in shown


def test_a_browser_sorts(page, tmp_path):
    script = "document.querySelector('[data-sort=value]').click()"
    assert order(dom(page, tmp_path, script=script))[0] == "guessing"


def test_a_browser_filters(page, tmp_path):
    script = "const f = document.getElementById('filter'); f.value = 'bingham'; f.dispatchEvent(new Event('input'))"
    designs = [label for label in order(dom(page, tmp_path, script=script)) if "+" in label]
    assert designs == ["d4_vgg_gem_s-qcqp_bingham+bingham_nll"]


def test_a_browser_opens_a_row_and_goes_back(page, tmp_path):
    script = "document.querySelector('tbody .name button').click()"
    shown = dom(page, tmp_path, script=script)
    assert "To make it again" in shown
    assert "What the confidence is worth" in shown
    assert order(shown) == []
    assert order(dom(page, tmp_path, "row=d4_vgg_gem_s-sixd_svd%2Bchordal", "document.getElementById('back').click()"))


def test_a_browser_weighs(page, tmp_path):
    """With accuracy at 0 and speed alone, the fastest is first: here the one of the least error."""
    found = dom(page, tmp_path, "w_accuracy=0&w_size=0&w_speed=10&sort=score&down=1")
    assert next(label for label in order(found) if "+" in label) == "d4_vgg_gem_s-qcqp_bingham+bingham_nll"
    script = "const w = document.getElementById('w_speed'); w.value = 9; w.dispatchEvent(new Event('change'))"
    assert "weight of speed: 9" in dom(page, tmp_path, script=script)


def test_a_browser_shows_the_other_task_and_both_over_noise(page, tmp_path):
    shown = dom(page, tmp_path, "task=phantom_quiet")
    assert "Over noise" in shown
    assert "SNR 4" in shown


def test_the_committed_table_is_that_of_the_committed_predictions(data):
    """Errors and places, with the truth made again."""
    data("maps/clean70S_ecoli_65.mrc")
    made = tables(Store(RESULTS.parents[1] / "docs" / "leaderboard"))
    shown = (RESULTS / "leaderboard.md").read_text()
    assert shown == "\n".join(f"### {task['title']}\n\n{markdown(task)}" for task in made)
