"""The command line: what each verb does, what it prints, and what it leaves when it is stopped."""

import json
import re
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
import torch
import yaml
from scipy.spatial.transform import Rotation

from cryozoo import __version__
from cryozoo.cli import VERBS
from cryozoo.cli import main as cli
from cryozoo.imaging.volumes import Volume
from cryozoo.particles.errors import BadInputWarning
from cryozoo.particles.mrc_writer import write_volume
from cryozoo.particles.poses import PoseTable
from cryozoo.particles.stack import ParticleStack
from cryozoo.zoo.pretrained import load_pretrained

ROOT = Path(__file__).parents[2]


def shell(*words, code=None, **options):
    """Run the command, or Python code with its arguments, in a process of its own."""
    start = ["-m", "cryozoo"] if code is None else ["-c", code]
    command = [sys.executable, *start, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **options)


class TestHelp:
    def test_imports_nothing_heavy(self):
        code = "import sys; from cryozoo.cli.main import main\ntry:\n    main(['--help'])\n"
        code += "finally:\n    print(*sys.modules, file=sys.stderr)"
        done = shell(code=code)
        assert done.returncode == 0
        assert {"torch", "numpy", "yaml", "tqdm"}.isdisjoint(done.stderr.split())

    def test_lists_every_verb(self, run):
        done = run("--help")
        assert done.code == 0
        listed = re.findall(r"^  ([a-z-]+) +[A-Z]", done.out.partition("Commands:")[2], re.MULTILINE)
        assert listed == [command.name for command in VERBS]
        assert "..." not in done.out.partition("Commands:")[2]  # no summary is cut off

    @pytest.mark.parametrize("name", [command.name for command in VERBS])
    def test_of_a_verb(self, run, name):
        done = run(name, "--help")
        assert (done.code, done.err) == (0, "")
        assert f"Usage: cryozoo {name}" in done.out

    def test_version(self, run):
        assert __version__ in run("--version").out


class TestErrors:
    def test_wrong_usage(self, run):
        for words in (["predict"], ["nosuchverb"], ["list", "--nosuch"], ["simulate", "--volume", "x", "-o", "y.mrcs"]):
            done = run(*words)
            assert done.code == 2
            assert re.fullmatch(r"error: .* \(`cryozoo.* --help` says more\)\n", done.err)

    def test_unexpected_ones_take_one_line_unless_debug_is_asked_for(self, run, monkeypatch, tmp_path):
        monkeypatch.setattr("cryozoo.zoo.entries.list_encoders", lambda *_, **__: 1 / 0)
        done = run("list")
        assert done.code == 1
        assert done.err == "error: ZeroDivisionError: division by zero (--debug shows where)\n"
        for words in (["--debug", "list"], ["list", "--debug"]):
            done = run(*words)
            assert done.code == 1
            assert done.err.startswith("Traceback")
            assert done.err.splitlines()[-1].startswith("error: ")

    def test_a_repository_out_of_reach_has_a_code_of_its_own(self, run, monkeypatch):
        from cryozoo.zoo import pretrained

        def fail(*_, **__):
            raise pretrained.HubError("no way to\nhub")

        monkeypatch.setattr(pretrained, "load_pretrained", fail)
        done = run("verify", "hf-hub:a/b@0")
        assert (done.code, done.err) == (4, "error: no way to hub\n")

    def test_warnings_are_counted_and_take_one_line_each(self, capsys):
        with cli._counted_warnings():
            for text in ("a\nb", "c", "a\nb", "a\nb"):
                warnings.warn(BadInputWarning(text), stacklevel=1)
        assert capsys.readouterr().err == "warning: a b\nwarning: c\nwarning: 2 more of: a b\n"


class TestPredict:
    @pytest.mark.parametrize("suffix", [".star", ".cs", ".pkl", ".npz"])
    def test_writes_what_the_library_predicts(self, run, tiny, tiny_folder, stack, tmp_path, suffix):
        out = tmp_path / f"poses{suffix}"
        done = run("predict", stack, "--encoder", f"local-dir:{tiny_folder}", "-o", out, "--batch-size", 7)
        assert (done.code, done.err) == (0, "")
        expected = tiny.predict(stack)
        found = PoseTable.load(out, image_size=32, pixel_size=5.0)
        np.testing.assert_allclose(found.rotation, expected.rotation, rtol=0, atol=1e-5)
        np.testing.assert_allclose(found.shift, expected.shift, rtol=0, atol=1e-3)
        if suffix != ".pkl":
            np.testing.assert_allclose(found.confidence, expected.confidence, rtol=0, atol=1e-5)
        assert "23 particles" in done.out
        assert re.search(r"[\d,]+ images/s", done.out)
        assert str(out) in done.out
        assert "in the frame of phantom:3; for another molecule they mean nothing" in done.out

    def test_of_a_bare_stack_needs_no_table(self, run, tiny_folder, stack, tmp_path):
        stack.unlink()
        images = stack.with_suffix(".mrcs")
        done = run("predict", images, "--encoder", f"local-dir:{tiny_folder}", "-o", tmp_path / "poses.star")
        assert done.code == 0
        names = starfile.read(tmp_path / "poses.star")["particles"]["rlnImageName"]
        assert list(names) == [f"{k:06d}@{images}" for k in range(1, 24)]

    def test_overwrites_when_told_to(self, run, tiny_folder, stack, tmp_path):
        out = tmp_path / "poses.star"
        out.write_text("old")
        done = run("predict", stack, "--encoder", f"local-dir:{tiny_folder}", "-o", out, "--overwrite")
        assert done.code == 0
        assert len(starfile.read(out)["particles"]) == 23

    def test_dark_particles_are_inverted_when_told_to(self, run, tiny, tiny_folder, stack, pixels, tmp_path):
        expected = tiny.predict(stack)
        pixels *= -1
        pixels.flush()
        done = run("predict", stack, "--encoder", tiny_folder, "-o", tmp_path / "a.npz", "--invert")
        assert (done.code, done.err) == (0, "")
        found = PoseTable.load(tmp_path / "a.npz")
        np.testing.assert_allclose(found.rotation, expected.rotation, rtol=0, atol=1e-5)

    def test_says_what_a_table_elsewhere_needs(self, run, tiny_folder, stack, tmp_path):
        images = stack.parent / "images"
        images.mkdir()
        for suffix in (".star", ".mrcs"):
            stack.with_suffix(suffix).rename(images / f"particles{suffix}")
        (tmp_path / "out").mkdir()
        out = tmp_path / "out/poses.star"
        done = run("predict", images / "particles.star", "--encoder", tiny_folder, "-o", out)
        assert done.code == 0
        assert re.fullmatch(rf"warning: {out}: image names .* needs --datadir {images}\n", done.err)
        assert run("reconstruct", out, "-o", tmp_path / "map.mrc").code == 3
        done = run("reconstruct", out, "-o", tmp_path / "map.mrc", "--datadir", images)
        assert (done.code, done.err) == (0, "")
        assert "share it: their FSC is optimistic" in done.out

    def test_shows_a_bar_only_when_somebody_is_looking(self, run, tiny_folder, stack, tmp_path):
        words = ["predict", stack, "--encoder", f"local-dir:{tiny_folder}", "-o", tmp_path / "a.npz", "--overwrite"]
        assert "image" not in run(*words).err
        assert "23/23" in run(*words, "--progress").err
        assert "23/23" not in run(*words, "--no-progress").err

    @pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
    def test_a_signal_keeps_the_finished_rows(self, tiny_folder, stack, tmp_path, name, code):
        """The signal comes during the third batch; one forward pass before the first is the self-test."""
        program = f"""
import os, signal, sys
from cryozoo.zoo.encoder import PoseEncoder
from cryozoo.cli.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and those of nohup with this one
forward, calls = PoseEncoder.forward, []
def stop(self, images):
    calls.append(len(images))
    if calls[-3:] == [5, 5, 5]:
        os.kill(os.getpid(), signal.{name})
    return forward(self, images)
PoseEncoder.forward = stop
main(sys.argv[1:])
"""
        out = tmp_path / "poses.star"
        options = ["--encoder", f"local-dir:{tiny_folder}", "-o", out, "--batch-size", 5]
        done = shell("predict", stack, *options, code=program)
        assert done.returncode == code
        (kept,) = tmp_path.glob("poses.partial*")
        what = "10 finished ones are kept"
        assert done.stderr == f"error: stopped after 10 of 23 particles; {what} in {kept}; the same command goes on\n"
        assert not out.exists()
        assert len(PoseTable.load(kept)) == 10
        again = shell("predict", stack, *options)
        assert (again.returncode, again.stderr) == (0, "")
        assert again.stdout.startswith("10 particles were finished before\n23 particles")
        assert not kept.exists()

    def test_poses_that_the_format_does_not_take_are_kept_in_another(self, run, stack, tiny_folder, tmp_path):
        tables, odd = starfile.read(stack), stack.with_name("odd.star")
        tables["particles"].loc[3, "rlnRandomSubset"] = 7
        starfile.write(tables, odd)
        out, kept = tmp_path / "poses.cs", tmp_path / "poses.partial.npz"
        done = run("predict", odd, "--encoder", f"local-dir:{tiny_folder}", "-o", out)
        assert done.code == 3
        assert "half-set 7" in done.err
        assert done.err.endswith(f"the poses are in {kept}\n")
        assert not out.exists()
        assert len(PoseTable.load(kept)) == 23


class TestConvert:
    def test_there_and_back(self, run, stack, tmp_path):
        path = stack
        for k, suffix in enumerate((".cs", ".npz", ".star", ".pkl", ".npz", ".cs", ".star")):
            out = tmp_path / f"{k}{suffix}"
            sizes = ["--image-size", 32, "--pixel-size", 5] if path.suffix == ".pkl" else []
            done = run("convert", path, out, *sizes)
            assert (done.code, done.err) == (0, "")
            assert done.out == f"23 poses in {out}\n"
            path = out
        before, after = PoseTable.load(stack), PoseTable.load(path)
        angle = (Rotation.from_matrix(before.rotation) * Rotation.from_matrix(after.rotation).inv()).magnitude()
        assert np.degrees(angle).max() < 1e-4
        np.testing.assert_allclose(after.shift, before.shift, rtol=0, atol=1e-4)

    def test_fractions_of_an_unknown_box(self, run, stack, tmp_path):
        assert run("convert", stack, tmp_path / "a.pkl").code == 0
        done = run("convert", tmp_path / "a.pkl", tmp_path / "a.star")
        assert done.code == 3
        assert done.err.count("\n") == 1
        assert "a.pkl" in done.err
        assert not (tmp_path / "a.star").exists()


class TestSimulate:
    def test_images_and_table(self, run, tmp_path):
        out = tmp_path / "sim.mrcs"
        done = run("simulate", "--volume", "phantom:2", "-n", 150, "--size", 24, "--pixel-size", 6, "--snr", 0.5,
                   "--shift-sigma", 4, "--defocus", 8000, 9000, "--seed", 3, "-o", out)  # fmt: skip
        assert (done.code, done.err) == (0, "")
        with mrcfile.open(out) as file:
            assert file.data.shape == (150, 24, 24)
            assert file.voxel_size.x == pytest.approx(6)
        particles = starfile.read(out.with_suffix(".star"))["particles"]
        assert particles["rlnDefocusU"].between(8000, 9000).all()
        assert particles["rlnOriginXAngst"].std() == pytest.approx(4, rel=0.3)

    def test_agrees_with_cryodrgn(self, run, data, tmp_path):
        """cryoDRGN's own projections, its matrices and its map; with the transposed matrices it would be 0.41."""
        folder = data("particles/cryodrgn_toy1000")
        volume, poses = folder / "toymodel_small_nocenter.mrc", folder / "toy_rot_zerotrans.pkl"
        done = run("simulate", "--volume", volume, "--voxel-size", 1, "--poses", poses, "-o", tmp_path / "a.mrcs")
        assert done.code == 0
        raw = np.fromfile(folder / "toy_projections.mrcs", dtype="<f4", offset=1024).reshape(1000, -1)
        ours = mrcfile.read(tmp_path / "a.mrcs").reshape(1000, -1)
        correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(ours, raw, strict=True)]
        assert np.mean(correlation) > 0.99

    def test_poses_and_ctf_of_a_table(self, run, stack, tmp_path):
        """The same particles without their noise."""
        words = ["simulate", "--volume", "phantom:3", "--size", 32, "--pixel-size", 5, "--poses", stack]
        assert run(*words, "--ctf", "-o", tmp_path / "ctf.mrcs").code == 0
        assert run(*words, "-o", tmp_path / "bare.mrcs").code == 0
        given, ctf, bare = (starfile.read(tmp_path / f"{n}.star")["particles"] for n in ("particles", "ctf", "bare"))
        for label in ("rlnAngleRot", "rlnOriginYAngst", "rlnDefocusU"):
            np.testing.assert_allclose(ctf[label], given[label], rtol=0, atol=2e-5)
        assert "rlnDefocusU" not in bare
        noisy = mrcfile.read(stack.with_suffix(".mrcs"))
        residual = [(mrcfile.read(tmp_path / f"{n}.mrcs") - noisy).var() for n in ("ctf", "bare")]
        assert residual[0] < 0.9 * residual[1]

    def test_a_molecule_larger_than_its_images(self, run, data, tmp_path):
        words = ["simulate", "--volume", data("maps/4v7r_5A.mrc"), "-n", 2, "--size", 32, "-o", tmp_path / "a.mrcs"]
        refused = run(*words)
        assert refused.code == 3
        assert "4v7r_5A.mrc: a molecule of 315 A in images of 160 A (32 pixels of 5 A)" in refused.err
        assert list(tmp_path.iterdir()) == []
        assert run(*words, "--allow-wrap").code == 0

    def test_defocus_in_micrometres(self, run, tmp_path):
        done = run("simulate", "--volume", "phantom:2", "-n", 2, "--defocus", 1.5, 2.5, "-o", tmp_path / "a.mrcs")
        assert done.code == 2
        assert "1.5 is not a number at least 100 and at most 100000 (Angstrom; 1.5 micrometres are 15,000)" in done.err

    def test_a_signal_leaves_nothing(self, tmp_path):
        program = """
import os, signal, sys
from cryozoo.imaging.simulate import Simulator
from cryozoo.cli.main import main
forward, calls = Simulator.forward, []
def stop(self, n, generator):
    calls.append(n)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGTERM)
    return forward(self, n, generator)
Simulator.forward = stop
main(sys.argv[1:])
"""
        words = ["--volume", "phantom:2", "-n", 1000, "--size", 16, "-o", tmp_path / "sim.mrcs"]
        done = shell("simulate", *words, code=program)
        assert (done.returncode, done.stderr) == (143, "error: stopped\n")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "words",
        [
            ["-n", "5", "--poses", "a.star"],
            ["--poses", "a.star", "--shift-sigma", "3"],
            ["-n", "5", "--ctf"],
            ["--poses", "a.star", "--ctf", "--defocus", "1000", "2000"],
            ["-n", "5", "--defocus", "2000", "1000"],
        ],
    )
    def test_options_that_exclude_each_other(self, run, tmp_path, words):
        done = run("simulate", "--volume", "phantom:1", "-o", tmp_path / "a.mrcs", *words)
        assert done.code == 2
        assert list(tmp_path.iterdir()) == []


RECIPE = {
    "encoder": "test_vgg_gem-sixd_svd",
    "image_size": 32,
    "pixel_size": 5.0,
    "data": {"volume": "phantom:0", "snr": 1.0, "images": 64},
    "steps": 4,
    "batch_size": 8,
    "validate_every": 2,
}


class TestTrain:
    @pytest.fixture
    def recipe(self, tmp_path):
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
        return tmp_path / "recipe.yaml"

    @pytest.mark.parametrize("freeze", [True, False])
    def test_from_another_encoder(self, run, tiny, tiny_folder, tmp_path, freeze):
        words = ["--set", "loss=chordal", "--set", "loss_args={}", "--set", "data.held_out=16", "--set", "batch_size=4"]
        words += ["--set", "steps=2", "--head", "sixd_svd", *(["--freeze"] if freeze else [])]
        done = run("finetune", "--from", tiny_folder, "--map", "phantom:4", *words, "--out", tmp_path / "out")
        assert (done.code, done.err) == (0, "")
        used = json.loads((tmp_path / "out" / "recipe.json").read_text())
        assert (used["encoder"], used["init_part"]) == ("test_vgg_gem-sixd_svd", "backbone")
        assert used["data"]["volume"] == "phantom:4"
        found = load_pretrained(f"local-dir:{tmp_path / 'out' / 'model'}")
        assert found.entry.metrics["begun_from"].startswith("backbone of test_vgg_gem-qcqp_bingham, sha256 ")
        pairs = zip(found.backbone.parameters(), tiny.backbone.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs) == freeze

    def test_for_a_map(self, run, tmp_path):
        words = ("--set", "encoder=test_vgg_gem-sixd_svd", "--set", "loss=chordal", "--set", "loss_args={}")
        words += ("--set", "data.held_out=16", "--set", "batch_size=4", "--symmetry", "C2")
        done = run("train", "--map", "phantom:3", *words, "--out", tmp_path / "out", "--set", "steps=2")
        assert done.code == 0
        assert re.fullmatch(r"warning: phantom:3 is not C2 in RELION's axes: .*\n", done.err)  # nor in any other
        assert "--refine phantom:3 -o poses.star" in done.out
        used = json.loads((tmp_path / "out" / "recipe.json").read_text())
        assert (used["data"]["volume"], used["data"]["symmetry"], used["image_size"]) == ("phantom:3", "C2", 64)
        assert run("train", "--map", "phantom:3", *words, "--out", tmp_path / "out", "--set", "steps=3").code == 0

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ((), "a RECIPE or --map, one of the two"),
            (("recipe.yaml", "--map", "map.mrc"), "a RECIPE or --map, one of the two"),
            (("recipe.yaml", "--particles", "p.star"), "go with --map; a recipe has its own"),
            (("recipe.yaml", "--symmetry", "D2"), "go with --map; a recipe has its own"),
            (("recipe.yaml", "--invert"), "go with --map; a recipe has its own"),
        ],
    )
    def test_what_goes_together(self, run, tmp_path, words, message):
        done = run("train", *words, "--out", tmp_path / "out")
        assert done.code == 2
        assert message in done.err

    def test_recipe_in_encoder_out(self, run, recipe, tmp_path):
        out = tmp_path / "out"
        done = run("train", recipe, "--out", out, "--set", "steps=2", "--set", "lr=1e-4", "--set", "data.snr=0.5")
        assert (done.code, done.err) == (0, "")
        used = json.loads((out / "recipe.json").read_text())
        assert (used["steps"], used["lr"], used["data"]["snr"]) == (2, 1e-4, 0.5)
        metrics = json.loads((out / "result.json").read_text())["metrics"]
        assert re.search(rf"median error +{metrics['median_deg']:.2f} deg", done.out)
        assert f"local-dir:{out / 'model'}" in done.out
        assert run("verify", out / "model").code == 0

    def test_says_how_far_it_is(self, run, recipe, tmp_path):
        """One line for the beginning and for every validation, bar or not."""
        for words in (["--no-progress"], ["--progress", "--restart"]):
            first, *lines = run("train", recipe, "--out", tmp_path / "out", *words).out.splitlines()
            assert re.match(r"test_vgg_gem-sixd_svd on cpu, \d+ thread\(s\): 7,393 parameters, 0.\d+ GMACs", first)
            assert first.endswith(f"; data: volume phantom:0, images 64, snr 1.0; folder {tmp_path / 'out'}")
            value = r"\d+\.\d\d deg"
            expected = rf"step 2 of 4: median error ({value}), the best so far \1 at step 2; loss \d\.\d+; \d s left"
            assert re.fullmatch(expected, lines[0])
            assert re.match(rf"step 4 of 4: median error {value}, the best so far {value} at step [24]; ", lines[1])

    def test_a_longer_run_goes_on(self, run, recipe, tmp_path):
        assert run("train", recipe, "--out", tmp_path / "out").code == 0
        done = run("train", recipe, "--out", tmp_path / "out", "--set", "steps=6")
        assert "; goes on after step 4 of 6, with the learning rates of 6 from there\n" in done.out
        done = run("train", recipe, "--out", tmp_path / "out")
        checkpoint = tmp_path / "out/checkpoint.safetensors"
        expected = f"field steps: 4; expected more than the 6 that {checkpoint} has done already"
        assert (done.code, done.err) == (3, f"error: {recipe}, {expected}; use another folder, or --restart\n")

    def test_the_template_is_a_recipe(self, run, tmp_path):
        done = run("train", "--template")
        assert (done.code, done.err) == (0, "")
        (tmp_path / "recipe.yaml").write_text(done.out)
        changes = {**RECIPE, "data": {"volume": "phantom:0", "held_out": 8}, "validate_every": 4}
        words = [word for key, value in changes.items() for word in ("--set", f"{key}={json.dumps(value)}")]
        assert (
            run("train", tmp_path / "recipe.yaml", "--out", tmp_path / "out", *words, "--set", "loss=chordal").code == 0
        )

    def test_goes_on_after_a_signal(self, run, recipe, stack, tmp_path):
        program = """
import os, signal, sys
from cryozoo.training import trainer as train
from cryozoo.cli.main import main
step = train._Trainer._train_step
def stop(self):
    if self.step == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self)
train._Trainer._train_step = stop
main(sys.argv[1:])
"""
        done = shell("train", recipe, "--out", tmp_path / "out", code=program)
        assert done.returncode == 143
        kept = rf"the encoder of step 2, the best so far, is in {tmp_path}/out/model"
        assert re.fullmatch(rf"error: stopped at step 2; .*goes on from there; {kept}\n", done.stderr)
        assert not (tmp_path / "out/result.json").exists()
        info = run("info", f"local-dir:{tmp_path}/out/model").out
        assert re.search(r"unfinished +median error \d+\.\d\d deg in the validation at step 2 of 4\n", info)
        assert "on its test set\n  parameters" in info
        assert run("predict", stack, "--encoder", tmp_path / "out/model", "-o", tmp_path / "poses.star").code == 0
        assert run("train", recipe, "--out", tmp_path / "out").code == 0
        assert json.loads((tmp_path / "out" / "result.json").read_text())["metrics"]["steps"] == 4

    @pytest.mark.parametrize(
        ("change", "code", "word"),
        [
            ("steps", 2, "KEY=VALUE"),
            ("steps=[", 2, "YAML"),
            ("steps.x=1", 2, "steps"),
            ("nosuch=1", 3, "nosuch"),
            ("image_size=16", 3, "24 pixels"),
            ("image_size=abc", 3, "whole number from 8 to 4,096"),
            ("data=5", 3, "field data: 5; expected names and values"),
            ("data.volume=5", 3, "a map, an atomic model"),
            ("data.held_out=0", 3, "field data.held_out: 0; expected a whole number from 2"),
            ("data.split=0.5", 3, "field data.split: 0.5"),
            ("backbone_args.foo=5", 3, "foo"),
            ("loss_args.foo=5", 3, "foo"),
        ],
    )
    def test_changes_that_cannot_be(self, run, recipe, tmp_path, change, code, word):
        done = run("train", recipe, "--out", tmp_path / "out", "--set", change)
        assert done.code == code
        assert word in done.err
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("out", ["file", "file/below"])
    def test_a_folder_that_cannot_be(self, run, recipe, tmp_path, monkeypatch, out):
        (tmp_path / "file").touch()
        monkeypatch.setattr(
            "cryozoo.training.data.Simulated.open", lambda *a, **k: pytest.fail("worked before it looked")
        )
        done = run("train", recipe, "--out", tmp_path / out)
        assert done.code == 3
        assert f"{tmp_path / out}: cannot be written to" in done.err


class TestEvaluate:
    @pytest.fixture
    def turned(self, stack, tmp_path):
        """Every pose of ``stack`` turned by 10 degrees about an axis of its own, every shift off by (3, -4) A."""
        truth = PoseTable.load(stack)
        axes = np.random.default_rng(0).normal(size=(len(truth), 3))
        axes *= np.radians(10) / np.linalg.norm(axes, axis=1, keepdims=True)
        rotation = Rotation.from_rotvec(axes).as_matrix() @ truth.rotation
        table = PoseTable(rotation, truth.shift + [3, -4], image_size=32, pixel_size=5.0, particles=truth.particles)
        table.save(tmp_path / "turned.star")
        return tmp_path / "turned.star"

    def test_text_and_json(self, run, stack, turned):
        done = run("evaluate", turned, stack)
        assert (done.code, done.err) == (0, "")
        assert re.search(r"median error +10\.00 deg", done.out)
        assert re.search(r"within 5 deg +0\.0%\nwithin 10 deg", done.out)
        assert re.search(r"within 15 deg +100\.0%", done.out)
        metrics = json.loads(run("evaluate", turned, stack, "--json").out)
        assert metrics["median_deg"] == pytest.approx(10, abs=1e-4)
        assert metrics["shift_rmse_A"] == pytest.approx(np.sqrt((9 + 16) / 2), abs=1e-4)

    def test_rows_belong_together_that_name_one_image(self, run, stack, turned, tmp_path):
        order = np.random.default_rng(1).permutation(23)
        PoseTable.load(turned).subset(order[:15]).save(tmp_path / "some.star")
        metrics = json.loads(run("evaluate", tmp_path / "some.star", stack, "--json").out)
        assert metrics["n"] == 15
        assert metrics["mean_deg"] == pytest.approx(10, abs=1e-4)

    def test_rows_that_do_not_belong_together(self, run, stack, turned, tmp_path):
        PoseTable.load(stack).subset(range(20)).save(tmp_path / "few.star")
        PoseTable.load(stack).subset(range(20)).save(tmp_path / "few.npz")
        done = run("evaluate", turned, tmp_path / "few.npz")
        assert done.code == 3
        assert done.err.count("\n") == 1
        assert "20 poses; expected 23" in done.err
        done = run("evaluate", turned, tmp_path / "few.star")
        assert (done.code, done.out.split()[:2]) == (0, ["particles", "20"])
        assert "no pose, by the names of images: left out (3 times, first: row 21 of" in done.err

    def test_the_box_of_one_file_serves_for_both(self, run, stack, turned, tmp_path):
        run("convert", turned, tmp_path / "turned.pkl")
        for words in ([tmp_path / "turned.pkl", stack], [stack, tmp_path / "turned.pkl"]):
            metrics = json.loads(run("evaluate", *words, "--json").out)
            assert metrics["shift_rmse_A"] == pytest.approx(np.sqrt((9 + 16) / 2), abs=1e-4)
        done = run("evaluate", tmp_path / "turned.pkl", tmp_path / "turned.pkl")
        assert done.code == 3
        assert "image_size" in done.err

    def test_aligned_frames_and_hands(self, run, stack, tmp_path):
        truth = PoseTable.load(stack)
        mirror, frame = np.diag([1.0, 1, -1]), Rotation.random(rng=np.random.default_rng(2)).as_matrix()
        PoseTable(mirror @ truth.rotation @ mirror @ frame, truth.shift).save(tmp_path / "other.npz")
        assert json.loads(run("evaluate", tmp_path / "other.npz", stack, "--json").out)["median_deg"] > 10
        aligned = json.loads(run("evaluate", tmp_path / "other.npz", stack, "--align", "--json").out)
        assert aligned["mean_deg"] < 1e-4
        assert aligned["mirrored"] is True
        assert "mirrored hand" in run("evaluate", tmp_path / "other.npz", stack, "--align").out
        truth.subset(range(3)).save(tmp_path / "three.npz")
        done = run("evaluate", tmp_path / "three.npz", tmp_path / "three.npz", "--align")
        assert done.code == 3
        assert "3 poses" in done.err

    def test_symmetry(self, run, stack, tmp_path):
        truth = PoseTable.load(stack)
        half_turns = [Rotation.from_euler("z", 180 * (k % 2), degrees=True).as_matrix() for k in range(23)]
        PoseTable(truth.rotation @ half_turns).save(tmp_path / "mates.npz")
        for group, mean in (("C1", 180 * 11 / 23), ("C2", 0), ("D2", 0), ("C3", 60 * 11 / 23)):
            done = run("evaluate", tmp_path / "mates.npz", stack, "--symmetry", group, "--json")
            assert json.loads(done.out)["mean_deg"] == pytest.approx(mean, abs=1e-4)
        assert run("evaluate", tmp_path / "mates.npz", stack, "--symmetry", "Q7").code == 2
        frame = Rotation.random(rng=np.random.default_rng(2)).as_matrix()
        PoseTable(truth.rotation @ half_turns @ frame).save(tmp_path / "other.npz")
        words = ["evaluate", tmp_path / "other.npz", stack, "--align", "--json", "--symmetry"]
        assert json.loads(run(*words, "C2").out)["mean_deg"] < 1e-3
        assert json.loads(run(*words, "C1").out)["mean_deg"] > 10


class TestCatalogue:
    def test_list(self, run):
        out = run("list").out
        assert re.search(r"^  vgg_gem +\w", out, re.MULTILINE)
        assert re.search(r"^  geodesic +\w", out, re.MULTILINE)
        out = run("list", "test_vgg*-sixd*").out
        assert out.split() == ["encoders:", "test_vgg_gem-sixd_gs", "test_vgg_gem-sixd_svd"]
        assert run("list", "nosuch*").code == 2
        assert run("list", "--pretrained").code == 0

    def test_pretrained_encoders_are_found_by_molecule_and_tag(self, run, tiny_folder, tmp_path, monkeypatch):
        from cryozoo.zoo.embed import embed, restate

        for module in ("embed", "entries"):
            monkeypatch.setattr(f"cryozoo.zoo.{module}.WEIGHTS", tmp_path)
        name = embed(tiny_folder, "tiny_32", name="A tiny Phantom", source="PDB 0XYZ")
        for pattern in ("*phantom*", "pdb 0xyz", "test_vgg*", name):
            out = run("list", "--pretrained", pattern).out
            assert re.search(rf"tiny_32 +A tiny Phantom \(PDB 0XYZ\) +C1 +32 of 5 A +- +- +\d+ +{name[:-8]}\n", out)
        assert run("list", "--pretrained", "*ribosome*").code == 2
        assert run("info", "tiny_32").out == run("info", name).out
        assert run("info", "tiny_33").code == 2
        how = {"median_deg": 7.25, "acc_10": 0.5, "chance_median_deg": 132.0}
        at = {"0.1": {"alone": how, "refined": {**how, "median_deg": 1.5}, "bound_median_deg": 1.0}}
        over_noise = {"at": at, "images": 10, "seed": 1, "commit": "abc", "hardware": "a CPU"}
        restate(name, metrics={"over_noise": over_noise})
        assert re.search(r"32 of 5 A +7.2 +1.5 ", run("list", "--pretrained").out)
        assert "| 0.1 | 7.25 | 50.0 | 1.50 | 50.0 | 1.00 | 132 |" in (tmp_path / f"{name}.md").read_text()

    def test_info_of_a_part(self, run):
        out = run("info", "qcqp_bingham").out
        assert out.startswith("head qcqp_bingham: ")
        assert "cryozoo.heads.qcqp_bingham:QCQPBingham" in out
        assert "with a confidence" in out
        assert "loss chordal" in run("info", "chordal").out

    def test_info_of_a_combination(self, run, tiny):
        from cryozoo.zoo.encoder import create_encoder

        out = run("info", "test_vgg_gem-sixd_svd").out
        count = sum(p.numel() for p in create_encoder("test_vgg_gem-sixd_svd", image_size=64).parameters())
        assert re.search(rf"cost +{count:,} parameters, 0\.\d+ GMACs for an image of 64 pixels", out)
        assert re.search(r"numbers before the head +6", out)

    def test_info_of_trained_weights(self, run, tiny, tiny_folder):
        out = run("info", f"local-dir:{tiny_folder}").out
        assert "32 x 32 pixels of 5 A" in out
        assert f"{sum(p.numel() for p in tiny.parameters()):,}" in out
        assert re.search(r"median error +12\.50 deg", out)
        assert "AUROC" not in out  # which is not defined

    def test_a_picture_of_the_map(self, run, tiny_folder, tmp_path):
        pyplot = pytest.importorskip("matplotlib.pyplot")
        done = run("info", "ecoli_70s", "--picture", tmp_path / "map.png")
        assert done.code == 0
        assert done.out == run("info", "ecoli_70s").out
        assert pyplot.imread(tmp_path / "map.png").shape[1] > 1000
        done = run("info", tiny_folder, "--picture", tmp_path / "none.png")
        assert (done.code, "has no map of the molecule" in done.err) == (3, True)

    @pytest.mark.parametrize("name", ["vgg_gen", "vgg_gem-sixd_swd", "vgg_gem-sixd_svd.nosuch", "a b"])
    def test_info_of_nothing(self, run, name):
        done = run("info", name)
        assert done.code == 2
        assert re.fullmatch(r"error: .*\n", done.err)


class TestVerify:
    def test_a_whole_encoder(self, run, tiny_folder):
        for name in (tiny_folder, f"local-dir:{tiny_folder}"):
            done = run("verify", name)
            assert (done.code, done.err) == (0, "")
            assert "whole" in done.out

    def test_a_damaged_one(self, run, tiny_folder, tmp_path):
        for file in tiny_folder.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        damaged = bytearray((tmp_path / "model.safetensors").read_bytes())
        damaged[-5] ^= 1
        (tmp_path / "model.safetensors").write_bytes(damaged)
        done = run("verify", tmp_path)
        assert done.code == 3
        assert re.fullmatch(r"error: .*model\.safetensors: sha256 .*\n", done.err)


class TestFsc:
    @pytest.fixture
    def maps(self, tmp_path):
        rng = np.random.default_rng(0)
        first = rng.normal(size=(16, 16, 16)).astype(np.float32)
        write_volume(tmp_path / "a.mrc", first, 4.0)
        write_volume(tmp_path / "b.mrc", rng.normal(size=(16, 16, 16)), 4.0)
        write_volume(tmp_path / "small.mrc", first[:8, :8, :8], 4.0)
        write_volume(tmp_path / "coarse.mrc", first, 5.0)
        return tmp_path

    def test_of_a_map_and_itself(self, run, maps):
        out = run("fsc", maps / "a.mrc", maps / "a.mrc").out
        assert re.findall(r"^0\.\d+ +[\d.]+ +([\d.]+)$", out, re.MULTILINE) == ["1.0000"] * 8
        assert "FSC 0.143 (between half maps): better than 8.00 A" in out

    def test_of_noise(self, run, maps):
        assert "FSC 0.5 (against a reference): at 64.00 A" in run("fsc", maps / "a.mrc", maps / "b.mrc").out

    @pytest.mark.parametrize("name", ["small.mrc", "coarse.mrc", "nosuch.mrc"])
    def test_of_maps_that_do_not_fit(self, run, maps, name):
        done = run("fsc", maps / "a.mrc", maps / name)
        assert done.code == 3
        assert re.fullmatch(rf"error: .*{name}.*\n", done.err)

    def test_plot(self, run, maps):
        pyplot = pytest.importorskip("matplotlib.pyplot")
        assert run("fsc", maps / "a.mrc", maps / "b.mrc", "--plot", maps / "fsc.png").code == 0
        assert pyplot.imread(maps / "fsc.png").ndim == 3
        assert run("fsc", maps / "a.mrc", maps / "b.mrc", "--plot", maps / "fsc.png").code == 3
        assert "suffix '.pdf'" in run("fsc", maps / "a.mrc", maps / "b.mrc", "--plot", maps / "fsc.pdf").err


class TestDoctor:
    @pytest.fixture
    def packages(self, monkeypatch, tmp_path):
        """Two packages that are installed and broken: one raises, one takes the interpreter down."""
        for name, source in (("raises", "raise RuntimeError('no such operator')"), ("dies", "import os; os.abort()")):
            (tmp_path / f"{name}.py").write_text(source)
            (tmp_path / f"{name}-1.5.dist-info").mkdir()
            (tmp_path / f"{name}-1.5.dist-info/METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n"
            )
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return [("", "click"), ("extra", "raises"), ("extra", "dies"), ("other", "nosuch-package")]

    def test_reports_what_is_broken(self, run, monkeypatch, packages, tmp_path):
        monkeypatch.setattr(sys.modules["cryozoo.cli.doctor"], "_requirements", lambda: packages)
        monkeypatch.setenv("CRYOZOO_DATA", f"{tmp_path}:{tmp_path / 'nosuch'}")
        done = run("doctor")
        assert (done.code, done.err) == (0, "")
        assert re.search(r"raises +1\.5, but importing it fails: RuntimeError: no such operator", done.out)
        assert re.search(r"dies +1\.5, but importing it fails: .*-6", done.out)
        assert re.search(r"nosuch-package +not installed; pip install 'cryozoo\[other\]'", done.out)
        assert f"{tmp_path}, {tmp_path / 'nosuch'} (NO SUCH FOLDER)" in done.out
        packages[1] = ("", "raises")
        assert run("doctor").code == 1

    def test_knows_what_is_declared(self, monkeypatch):
        requirements = sys.modules["cryozoo.cli.doctor"]._requirements
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        core = {("", re.split(r"[^\w.-]", name)[0]) for name in project["dependencies"]}
        assert {pair for pair in requirements() if not pair[0]} == core
        lines = ["torch>=2.4", "gemmi>=0.7.5; extra == 'sim'", 'cryozoo[sim]; extra == "train"', 'ruff; extra == "dev"']
        monkeypatch.setattr("importlib.metadata.requires", lambda _: lines)
        assert list(requirements()) == [("", "torch"), ("sim", "gemmi")]

    def test_says_what_files_are(self, run, monkeypatch, tiny_folder, stack, tmp_path):
        monkeypatch.setattr(sys.modules["cryozoo.cli.doctor"], "_requirements", list)
        run("convert", stack, tmp_path / "poses.npz")
        (tmp_path / "page.mrcs").write_text("<!DOCTYPE html>")
        done = run(
            "doctor", stack, stack.with_suffix(".mrcs"), tmp_path / "poses.npz", tiny_folder, tmp_path / "page.mrcs"
        )
        assert done.code == 3
        for text in (
            "23 particles: poses, shifts, CTF, no confidences",
            "23 images",
            "23 poses",
            "a saved encoder",
        ):
            assert text in done.out
        assert re.search(r"refused: .*page\.mrcs: is a web page", done.out)


class TestDemo:
    def test_from_images_to_a_map(self, run, tmp_path):
        """The embedded ribosome: better than half of what it promises, and refined near the limit of its images."""
        pyplot = pytest.importorskip("matplotlib.pyplot")
        done = run("demo", "-n", 200, "-o", tmp_path / "new" / "demo")
        assert (done.code, done.err) == (0, "")
        rows = {line.split()[0]: line.split() for line in done.out.splitlines()[1:3]}
        assert float(rows["predicted"][1]) < 8
        assert float(rows["refined"][1]) < 1.2
        assert rows["refined"][5] == "132.4"
        assert float(rows["refined"][7]) < float(rows["predicted"][7])
        picture = pyplot.imread(tmp_path / "new" / "demo" / "demo.png")
        assert picture.shape[0] > 900
        assert picture.shape[1] > 1500
        stack = ParticleStack.open(tmp_path / "new" / "demo" / "particles.star")
        poses = PoseTable.load(tmp_path / "new" / "demo" / "refined.star")
        assert len(stack) == len(poses) == 200
        assert Volume.load(tmp_path / "new" / "demo" / "refined.mrc").size == stack.image_size

    def test_of_a_phantom(self, run, tiny_folder, tmp_path):
        pytest.importorskip("matplotlib")
        done = run("demo", "--encoder", f"local-dir:{tiny_folder}", "-n", 60, "-o", tmp_path)
        assert done.code == 0
        assert 90 < float(done.out.splitlines()[1].split()[1]) < 170  # it was never trained

    def test_says_what_to_install(self, run, monkeypatch, tiny_folder, tmp_path):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        done = run("demo", "--encoder", f"local-dir:{tiny_folder}", "-n", 50, "-o", tmp_path)
        assert done.code == 1
        assert done.err == "error: drawing needs matplotlib: pip install 'cryozoo[bench]'\n"

    def test_the_figure_states_the_errors(self):
        pytest.importorskip("matplotlib")
        from cryozoo.zoo.figures import demo_figure

        rng = np.random.default_rng(0)
        errors = np.concatenate([[1.25, 20.0, 90.0], rng.uniform(0, 180, 50)])
        images = [rng.normal(size=(3, 8, 8)) for _ in range(3)]
        found, errors = {"first": images[1], "last": images[2]}, {"first": 2 * errors, "last": errors}
        slices = {"a map": images[0][0]}
        chance = rng.uniform(0, 180, 100)
        figure = demo_figure(*images[:2], found, errors, rng.normal(size=53), chance, slices, title="a title")
        labels = [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel().endswith("\N{DEGREE SIGN}")]
        assert labels == [f"{2 * x:.1f}\N{DEGREE SIGN}" for x in (1.25, 20, 90)] + [
            f"{x:.1f}\N{DEGREE SIGN}" for x in (1.25, 20, 90)
        ]
        shares = [axes for axes in figure.axes if axes.get_title(loc="left").startswith("share")]
        x, y = shares[0].lines[2].get_data()
        np.testing.assert_allclose(np.interp(90.5, x, y), np.mean(errors["last"] <= 90.5), atol=0.02)
