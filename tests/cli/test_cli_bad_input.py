"""Bad input at the command line: the rows of the catalogue that reach prediction, their numbers in the ids.

Of every refusal is asked: exit code 3 (2 for wrong usage), one line on stderr that names the file and the place, no
traceback, and no output.
"""

import os
import re
import time

import mrcfile
import numpy as np
import pytest
import starfile

from cryozoo.particles.mrc_writer import write_stack
from cryozoo.particles.star import StarFile
from cryozoo.zoo.encoder import PoseEncoder


@pytest.fixture
def predict(run, tiny_folder, tmp_path):
    """``predict(particles, ...)`` to poses.star; refusals are checked for what all of them have in common."""

    def call(particles, *options, out=tmp_path / "poses.star", code=0):
        before = set(out.parent.iterdir()) if out.parent.is_dir() else set()
        began = time.monotonic()
        done = run("predict", particles, "--encoder", f"local-dir:{tiny_folder}", "-o", out, *options)
        assert done.code == code, done.err
        assert "Traceback" not in done.err
        if code:
            after = set(out.parent.iterdir()) if out.parent.is_dir() else set()
            left = {path for path in after - before if ".partial-" not in path.name}
            assert not left, "left something behind"
            assert done.out == ""
        if code == 3:
            *notes, error = done.err.splitlines()
            assert error.startswith("error: ")
            assert all(note.startswith("warning: ") for note in notes)
            assert time.monotonic() - began < 30  # 5 seconds on a machine with nothing else to do
        return done

    return call


def change(stack, **columns):
    """Replace columns of the table."""
    star = StarFile.read(stack)
    old = {label: star["particles"].text(label) for label in columns}
    star.with_columns("particles", {k: edit(old[k]) for k, edit in columns.items()}).write(stack, overwrite=True)


def rename(stack, name, row=4):
    """Let one row name another image file."""
    change(stack, rlnImageName=lambda old: [f"1@{name}" if k == row else text for k, text in enumerate(old)])


class TestImages:
    def test_28_odd_box(self, predict, tmp_path):
        write_stack(tmp_path / "odd.mrcs", np.random.default_rng(0).normal(size=(3, 65, 65)), 2.5)
        predict(tmp_path / "odd.mrcs")
        assert len(starfile.read(tmp_path / "poses.star")["particles"]) == 3

    def test_27_not_square(self, predict, tmp_path):
        mrcfile.write(tmp_path / "flat.mrcs", np.zeros((3, 8, 16), dtype=np.float32), voxel_size=2.0)
        assert "flat.mrcs: images of 16 x 8 pixels" in predict(tmp_path / "flat.mrcs", code=3).err

    @pytest.mark.parametrize(
        ("number", "value", "fault"),
        [
            (30, np.nan, "NaN or infinite"),
            (31, np.inf, "NaN or infinite"),
            (32, 2.5, "constant"),
            (33, 0.0, "constant"),
            (35, 1e30, "beyond"),
        ],
    )
    def test_bad_image(self, predict, stack, pixels, tmp_path, number, value, fault):
        pixels[6] = value if number in (32, 33) else 1.0
        pixels[6, 0, 0] = value
        pixels.flush()
        error = predict(stack, "--batch-size", 4, code=3).err
        for text in (str(stack), "row 7", "image 7", "particles.mrcs", fault, "--skip-bad"):
            assert text in error
        assert "; 4 finished ones are kept in " in error
        done = predict(stack, "--skip-bad", "--batch-size", 4)
        assert re.fullmatch(rf"warning: .*left out.*{fault}.*row 7.*\n", done.err)
        assert done.out.startswith("4 particles were finished before")
        rows = starfile.read(tmp_path / "poses.star")["particles"]
        assert list(rows["rlnImageName"]) == [f"{k:06d}@particles.mrcs" for k in range(1, 24) if k != 7]
        assert np.isfinite(rows[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy()).all()

    def test_34_inverted_contrast(self, predict, stack, pixels):
        assert predict(stack, "--overwrite").err == ""
        pixels *= -1
        pixels.flush()
        assert re.fullmatch(r"warning: .*particles look darker.*invert.*\n", predict(stack, "--overwrite").err)

    @pytest.mark.parametrize(
        ("content", "kind"),
        [(b"\x1f\x8b\x08" + bytes(2000), "gzip"), (b"<!DOCTYPE html><html>" + b" " * 2000, "web page"), (b"", "empty")],
    )
    def test_36_something_else(self, predict, stack, content, kind):
        stack.with_suffix(".mrcs").write_bytes(content)
        assert kind in predict(stack, code=3).err
        assert kind in predict(stack.with_suffix(".mrcs"), code=3).err

    @pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
    def test_37_not_a_file(self, predict, tmp_path, kind):
        path = tmp_path / "x.mrcs"
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero")
        assert f"{path}: is a" in predict(path, code=3).err

    @pytest.mark.parametrize("end", [1024, 1024 + 4096 * 9 + 100, 0])
    def test_38_cut_short_while_it_is_read(self, predict, stack, monkeypatch, end):
        """After the first batch; a mapped file would end the process with a bus error."""
        forward, calls = PoseEncoder.forward, []

        def cut(self, images):
            calls.append(len(images))
            if calls[-1] == 2:
                os.truncate(stack.with_suffix(".mrcs"), end)
            return forward(self, images)

        monkeypatch.setattr(PoseEncoder, "forward", cut)
        error = predict(stack, "--batch-size", 2, code=3).err
        assert "particles.mrcs" in error
        assert re.search("changed since|cut short", error)
        assert re.search(r"; \d finished ones are kept in ", error)

    def test_4_cut_in_the_middle(self, predict, stack, tmp_path):
        os.truncate(stack.with_suffix(".mrcs"), 1024 + 4096 * 9 + 100)
        assert "particles.mrcs" in predict(stack, code=3).err
        predict(stack, "--skip-bad")
        assert len(starfile.read(tmp_path / "poses.star")["particles"]) == 9


class TestTable:
    def test_55_missing_stack(self, predict, stack, tmp_path):
        rename(stack, "nosuch.mrcs")
        error = predict(stack, code=3).err
        for text in ("row 5", "nosuch.mrcs", str(tmp_path), "--datadir"):
            assert text in error

    def test_56_dots_to_a_system_file(self, predict, stack):
        rename(stack, "../" * 20 + "etc/hostname")
        assert re.search(r"row 5.*leads out", predict(stack, code=3).err)

    def test_57_absolute_path(self, predict, stack, tmp_path_factory):
        elsewhere = tmp_path_factory.mktemp("elsewhere") / "a.mrcs"
        write_stack(elsewhere, np.random.default_rng(0).normal(size=(2, 32, 32)), 5.0)
        rename(stack, elsewhere)
        error = predict(stack, code=3).err
        assert re.search(r"row 5.*leads out", error)
        assert "--allow-outside" in error
        predict(stack, "--allow-outside", "--overwrite")
        predict(stack, "--datadir", elsewhere.parent, "--overwrite")

    def test_58_link_that_leads_out(self, predict, stack, tmp_path_factory):
        elsewhere = tmp_path_factory.mktemp("elsewhere") / "a.mrcs"
        write_stack(elsewhere, np.random.default_rng(0).normal(size=(2, 32, 32)), 5.0)
        (stack.parent / "link.mrcs").symlink_to(elsewhere)
        rename(stack, "link.mrcs")
        assert re.search(r"row 5.*leads out", predict(stack, code=3).err)
        predict(stack, "--allow-outside")

    @pytest.mark.parametrize("name", ["-rf.mrcs", "a; touch pwned; .mrcs", "$(touch pwned).mrcs", "`touch pwned`.mrcs"])
    def test_74_names_are_data(self, predict, stack, tmp_path, monkeypatch, name):
        monkeypatch.chdir(tmp_path)
        write_stack(tmp_path / name, np.random.default_rng(0).normal(size=(2, 32, 32)), 5.0)
        rename(stack, name)
        predict(stack)
        assert starfile.read(tmp_path / "poses.star")["particles"]["rlnImageName"].iloc[4] == f"1@{name}"
        assert not (tmp_path / "pwned").exists()

    def test_74_a_line_break_in_a_name(self, predict, stack):
        text = stack.read_text().replace("000005@particles.mrcs", '"1@a\nb.mrcs"')
        stack.write_text(text)
        assert "line" in predict(stack, code=3).err

    def test_48_text_in_an_angle(self, predict, stack):
        """A column that prediction replaces is refused as well: the table is not what it seems to be."""
        change(stack, rlnAngleTilt=lambda old: ["abc", *old[1:]])
        assert re.search(r"row 1 .*rlnAngleTilt: 'abc'", predict(stack, code=3).err)

    def test_73_the_corrected_file_is_read(self, predict, stack):
        good = stack.read_bytes()
        change(stack, rlnAngleTilt=lambda old: ["abc", *old[1:]])
        predict(stack, code=3)
        stack.write_bytes(good)
        predict(stack)


class TestArguments:
    @pytest.mark.parametrize("value", ["0", "-1", "1e9", "nan", "inf", "x", ""])
    @pytest.mark.parametrize("option", ["--batch-size", "--pixel-size", "--threads"])
    def test_111_numbers_out_of_range(self, predict, stack, option, value):
        error = predict(stack, option, value, code=2).err
        assert option in error.splitlines()[-1]

    @pytest.mark.parametrize(
        "words",
        [
            ["-n", "0"],
            ["-n", "1e9"],
            ["-n", "5", "--size", "4"],
            ["-n", "5", "--size", "1000000000"],
            ["-n", "5", "--pixel-size", "nan"],
            ["-n", "5", "--snr", "0"],
            ["-n", "5", "--snr", "nan"],
            ["-n", "5", "--shift-sigma", "-1"],
            ["-n", "5", "--defocus", "-5", "inf"],
            ["-n", "5", "--defocus", "1.5", "2.5"],
            ["-n", "5", "--defocus", "15000", "250000"],
            ["-n", "5", "--seed", "-1"],
        ],
    )
    def test_111_numbers_of_simulate(self, run, tmp_path, words):
        done = run("simulate", "--volume", "phantom:1", "-o", tmp_path / "a.mrcs", *words)
        assert done.code == 2
        assert words[-2] in done.err or words[-3] in done.err
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("volume", "words", "message"),
        [
            ("phantom:abc", [], "expected phantom:SEED"),
            ("phantom:7", ["--voxel-size", "4"], "no voxels"),
            ("model.pdb", ["--pixel-size", "4"], "give --size and --pixel-size"),
            ("nosuch.mrc", [], "no such file"),
        ],
    )
    def test_111_volumes_of_simulate(self, run, tmp_path, volume, words, message):
        if volume == "model.pdb":
            volume = tmp_path / volume
            volume.write_text("")
        done = run("simulate", "--volume", volume, "-o", tmp_path / "a.mrcs", "-n", "3", *words)
        assert done.code == 3
        assert message in done.err

    @pytest.mark.parametrize("pixel_size", [0.01, 900])
    def test_111_pixels_of_quite_another_size(self, predict, stack, pixel_size):
        assert "expected about the 5 A of the training" in predict(stack, "--pixel-size", pixel_size, code=3).err

    @pytest.mark.parametrize("device", ["cuda:99", "gpu", "meta0", ""])
    def test_111_device(self, predict, stack, device):
        assert "--device" in predict(stack, "--device", device, code=2).err.splitlines()[-1]

    def test_112_output_exists(self, predict, stack, tmp_path, monkeypatch):
        """Before any work: the particles are not even looked for."""
        (tmp_path / "poses.star").write_text("mine")
        assert "poses.star: exists already" in predict("nosuch.star", code=3).err
        assert (tmp_path / "poses.star").read_text() == "mine"

    @pytest.mark.parametrize("option", [[], ["--overwrite"]])
    @pytest.mark.parametrize("way", ["same name", "link"])
    def test_112_output_is_the_input(self, predict, stack, tmp_path, option, way):
        out = stack
        if way == "link":
            out = tmp_path / "link.star"
            out.symlink_to(stack)
        before = stack.read_bytes()
        assert "is the input as well as the output" in predict(stack, *option, out=out, code=3).err
        assert stack.read_bytes() == before

    @pytest.mark.parametrize("folder", ["/proc", "nosuch"])
    def test_112_folder_that_cannot_be_written_to(self, predict, stack, tmp_path, folder):
        error = predict(stack, out=tmp_path / folder / "poses.star", code=3).err
        assert f"{tmp_path / folder / 'poses.star'}: cannot be written" in error

    def test_112_output_is_a_folder(self, predict, stack, tmp_path):
        (tmp_path / "poses.star").mkdir()
        assert "not a regular file" in predict(stack, "--overwrite", code=3).err

    @pytest.mark.parametrize("name", ["poses", "poses.csv", "poses.mrcs"])
    def test_112_output_of_no_known_format(self, predict, stack, tmp_path, name):
        assert ".star, .cs, .pkl, .npz" in predict(stack, out=tmp_path / name, code=3).err

    @pytest.mark.parametrize("option", [[], ["--overwrite"]])
    def test_112_convert_in_place(self, run, stack, option):
        before = stack.read_bytes()
        done = run("convert", stack, stack, *option)
        assert done.code == 3
        assert stack.read_bytes() == before

    @pytest.mark.parametrize("name", ["a.mrcs", "a.star"])
    def test_112_simulate_where_something_is(self, run, tmp_path, name):
        (tmp_path / name).write_text("mine")
        done = run("simulate", "--volume", "phantom:1", "-n", 5, "-o", tmp_path / "a.mrcs")
        assert (done.code, done.err) == (
            3,
            f"error: {tmp_path / name}: exists already; choose another name, or --overwrite\n",
        )
        assert [path.name for path in tmp_path.iterdir()] == [name]

    def test_112_simulate_over_its_volume(self, run, stack):
        before = stack.with_suffix(".mrcs").read_bytes()
        done = run("simulate", "--volume", stack.with_suffix(".mrcs"), "-n", 5, "-o", stack.with_suffix(".mrcs"),
                   "--overwrite")  # fmt: skip
        assert done.code == 3
        assert stack.with_suffix(".mrcs").read_bytes() == before

    @pytest.mark.parametrize(
        ("name", "code", "word"),
        [
            ("test_vgg_gem-sixd_svd", 2, "no pretrained weights"),
            ("test_vgg_gem-sixd_swd", 2, "sixd_svd"),
            ("test_vgg_gem-sixd_svd.nosuch", 2, "no pretrained encoder"),
            ("./somewhere", 2, "local-dir:"),
            ("local-dir:/nosuch", 3, "/nosuch"),
        ],
    )
    def test_an_encoder_that_is_not_there(self, run, stack, tmp_path, name, code, word):
        done = run("predict", stack, "--encoder", name, "-o", tmp_path / "poses.star")
        assert done.code == code
        assert re.fullmatch(rf"error: .*{re.escape(word)}.*\n", done.err)
        assert not (tmp_path / "poses.star").exists()
