"""``cryozoo match``, ``refine`` and ``predict --refine``: files in, poses out, and what they refuse."""

import sys

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryozoo.imaging.simulate import Imaging, Simulator
from cryozoo.imaging.simulate_files import write_simulated_stack
from cryozoo.imaging.volumes import Volume
from cryozoo.particles.errors import BadInput
from cryozoo.particles.mrc_writer import write_volume
from cryozoo.particles.poses import PoseTable
from cryozoo.zoo import match as match_module
from cryozoo.zoo.pretrained import load_pretrained, save_pretrained
from cryozoo.zoo.unfinished import Unfinished

SIZE, PIXEL, N = 32, 6.0, 40


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    volume = Volume.phantom(size=SIZE, pixel_size=PIXEL)
    write_volume(folder / "map.mrc", volume.data.numpy(), PIXEL)
    write_simulated_stack(folder / "particles.mrcs", Simulator(volume, Imaging(snr=2.0, shift_sigma=5.0)), N)
    true = PoseTable.load(folder / "particles.star")
    rng = np.random.default_rng(0)
    off = Rotation.from_rotvec(rng.normal(scale=0.06, size=(N, 3))).as_matrix()
    PoseTable(off @ true.rotation, true.shift + 4, particles=true.particles).save(folder / "rough.star")
    return folder


def median_error(project, found):
    true = PoseTable.load(project / "particles.star")
    relative = PoseTable.load(found).rotation.swapaxes(1, 2) @ true.rotation
    return np.rad2deg(np.median(Rotation.from_matrix(relative).magnitude()))


def test_match(run, project):
    done = run("match", project / "particles.star", "--map", project / "map.mrc", "-o", project / "matched.star")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{N} particles, ")
    assert "expected angular error: median " in done.out
    assert "poses are in the frame of the map, and of its hand" in done.out
    assert median_error(project, project / "matched.star") < 3


def test_refine_and_report(run, project):
    pytest.importorskip("matplotlib")
    words = ("refine", project / "rough.star", "--map", project / "map.mrc", "--report", project / "refined.html")
    done = run(*words, "-o", project / "reported.star")
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith(f"report in {project / 'refined.html'}\n")
    assert f"reconstruct {project / 'reported.star'}" in (project / "refined.html").read_text()
    assert len(list((project / "refined_files").glob("*.png"))) == 15
    done = run(*words, "-o", project / "no.star")
    assert (done.code, "refined.html: exists already" in done.err) == (3, True)
    assert not (project / "no.star").exists()


def test_reports_that_are_refused(run, project, monkeypatch, tiny_folder):
    monkeypatch.chdir(project)
    words = {
        "match": ("match", "particles.star", "--map", "map.mrc"),
        "refine": ("refine", "rough.star", "--map", "map.mrc"),
        "predict": ("predict", "particles.star", "--encoder", tiny_folder, "--refine", "map.mrc"),
    }
    for line in words.values():
        done = run(*line, "-o", "no.star", "--report", "report.pdf")
        assert (done.code, "report.pdf: the suffix '.pdf'; expected a page, .html" in done.err) == (3, True)
        done = run(*line, "-o", "no.star", "--report", "nowhere/report.html")
        assert (done.code, "cannot be written: its folder" in done.err) == (3, True)
    done = run(*words["predict"][:-2], "-o", "no.star", "--report", "report.html")
    assert (done.code, "it needs --refine MAP" in done.err) == (2, True)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = run(*words["match"], "-o", "no.star", "--report", "report.html")
    assert (done.code, done.err) == (1, "error: drawing needs matplotlib: pip install 'cryozoo[bench]'\n")
    assert not (project / "no.star").exists()


def test_refine(run, project):
    words = ("--map", project / "map.mrc", "--resolution", 12.5)
    done = run("refine", project / "rough.star", *words, "-o", project / "refined.star")
    assert (done.code, done.err) == (0, "")
    assert median_error(project, project / "refined.star") < 3 < median_error(project, project / "rough.star")
    poses = ("--poses", project / "rough.star")
    done = run("refine", project / "particles.mrcs", *poses, *words, "-o", project / "again.npz")
    assert done.code == 0
    assert median_error(project, project / "again.npz") < 3


def test_predict_and_refine(run, project, tiny_folder):
    """An encoder that has learnt nothing: the poses are refined from wherever they are."""
    pytest.importorskip("matplotlib")
    words = ("--encoder", f"local-dir:{tiny_folder}", "--refine", project / "map.mrc", "-o", project / "both.star")
    done = run("predict", project / "particles.star", *words, "--report", project / "both.html")
    assert done.code == 0
    assert "Poses of particles.star" in (project / "both.html").read_text()
    assert f"{N} particles" in done.out
    assert len(PoseTable.load(project / "both.star")) == N


def test_predict_and_refine_against_the_encoders_own_map(run, project, tiny_folder, tmp_path):
    """And one that has none says so before anything is predicted."""
    words = ("predict", project / "particles.star", "--refine", "frame", "-o", tmp_path / "own.star", "--encoder")
    done = run(*words, f"local-dir:{tiny_folder}")
    assert done.code == 3
    assert "has no map of the molecule that it was trained on" in done.err
    assert not list(tmp_path.glob("own*"))
    encoder = load_pretrained(f"local-dir:{tiny_folder}")
    encoder.frame_map = Volume.load(project / "map.mrc")
    save_pretrained(encoder, tmp_path / "model")
    done = run(*words, f"local-dir:{tmp_path / 'model'}")
    assert done.code == 0
    words = ("predict", project / "particles.star", "--encoder", f"local-dir:{tmp_path / 'model'}", "--overwrite", "-o")
    done = run(*words, tmp_path / "plain.star")
    assert "24 images agree with the molecule that the encoder was trained on to " in done.out
    assert "agree" not in run(*words, tmp_path / "plain.star", "--no-check").out
    assert len(PoseTable.load(tmp_path / "own.star")) == N


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--map", "nowhere.mrc"), 3, "nowhere.mrc: no such file"),
        (("--map", "particles.star"), 3, "particles.star"),
        (("--map", "map.mrc", "--symmetry", "D"), 2, "point group 'D'"),
        (("--map", "map.mrc", "--reach", "-1"), 2, "-1 is not a number at least 0"),
        (("--map", "map.mrc", "--reach", "97"), 3, "reach 97; expected 0 to 96 Angstrom, half of the images' box"),
        (("--map", "map.mrc", "--resolution", "500"), 3, "resolution 500; expected above 0 to 24 Angstrom"),
        ((), 2, "--map"),
    ],
)
def test_what_is_refused(run, project, monkeypatch, words, code, message):
    monkeypatch.chdir(project)
    done = run("match", "particles.star", *words, "-o", "no.star")
    assert done.code == code
    assert message in done.err
    assert not (project / "no.star").exists()


def test_what_cannot_be_saved_is_kept(run, project, monkeypatch):
    """A disk that is full at the end: the next try has nothing left to match."""
    words = ("match", project / "particles.star", "--map", project / "map.mrc", "-o", project / "full.star")
    with monkeypatch.context() as patch:
        patch.setattr(PoseTable, "save", full_disk)
        done = run(*words)
    assert done.code == 3
    assert "No space left on device" in done.err
    assert f"{N} finished ones are kept in" in done.err
    done = run(*words)
    assert done.code == 0
    assert f"{N} particles were finished before" in done.out
    assert median_error(project, project / "full.star") < 3
    assert not list(project.glob("full.partial-*"))


def full_disk(self, path, **kwargs):
    raise BadInput(path, "cannot be written: No space left on device")


def test_shards_are_parts_of_the_whole(run, project):
    """Their rows, one after the other, are those of the table; noise and so poses are each shard's own."""
    words = ("match", project / "particles.star", "--map", project / "map.mrc")
    names, rotations = [], []
    for part in (1, 2, 3):
        assert run(*words, "--shard", f"{part}/3", "-o", project / f"part{part}.star").code == 0
        found = PoseTable.load(project / f"part{part}.star")
        names += [found.particles.index]
        rotations += [found.rotation]
    assert np.concatenate(names).tolist() == list(range(N))
    whole = PoseTable.load(project / "particles.star")
    relative = np.concatenate(rotations).swapaxes(1, 2) @ whole.rotation
    assert np.rad2deg(np.median(Rotation.from_matrix(relative).magnitude())) < 3
    for shard, message in (("0/3", "'0/3' is no part of several, such as 3/10"), ("4/3", "no part"), ("x", "no part")):
        done = run(*words, "--shard", shard, "-o", project / "no.star")
        assert (done.code, message in done.err) == (2, True)
    done = run(*words, "--shard", "1/50", "-o", project / "no.star")
    assert done.code == 3
    assert "40 particles in 50 parts: part 1 is empty" in done.err


@pytest.mark.parametrize("verb", ["match", "refine", "predict"])
def test_a_stopped_run_goes_on_to_the_same_poses(run, project, tiny_folder, monkeypatch, tmp_path, verb):
    """Killed while it compares its second batch of 16; a whole run is bit for bit the same."""
    monkeypatch.setattr(match_module, "_BATCH", 16)
    words = {
        "match": ("match", project / "rough.star", "--map", project / "map.mrc"),
        "refine": ("refine", project / "rough.star", "--map", project / "map.mrc"),
        "predict": ("predict", project / "rough.star", "--encoder", tiny_folder, "--refine", project / "map.mrc"),
    }[verb]
    assert run(*words, "-o", tmp_path / "whole.npz").code == 0
    add, batches = Unfinished.add, []

    def stop(self, columns):
        add(self, columns)
        batches.append(columns)
        if "score" in columns and sum("score" in batch for batch in batches) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Unfinished, "add", stop)
    done = run(*words, "-o", tmp_path / "poses.npz")
    assert done.code == 130
    assert "finished ones are kept in" in done.err
    monkeypatch.setattr(Unfinished, "add", add)
    done = run(*words, "-o", tmp_path / "poses.npz")
    assert done.code == 0
    assert "16 particles were finished before" in done.out
    found, whole = PoseTable.load(tmp_path / "poses.npz"), PoseTable.load(tmp_path / "whole.npz")
    np.testing.assert_array_equal(found.rotation, whole.rotation)
    np.testing.assert_array_equal(found.shift, whole.shift)
    assert not list(tmp_path.glob("*.partial*"))
