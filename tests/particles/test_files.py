import errno
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from cryozoo.particles import files
from cryozoo.particles.errors import BadInput, BadInputWarning
from cryozoo.particles.files import Tally, atomic_write, find_data, looks_like, open_regular


def test_content_arrives_and_nothing_else_is_left(tmp_path):
    with atomic_write(tmp_path / "poses.star") as handle:
        handle.write(b"old")
        assert not (tmp_path / "poses.star").exists()
    assert (tmp_path / "poses.star").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["poses.star"]


def test_existing_file_needs_overwrite(tmp_path):
    path = tmp_path / "poses.star"
    path.write_bytes(b"old")
    with pytest.raises(BadInput, match=r"poses\.star: exists already"), atomic_write(path) as handle:
        handle.write(b"new")
    assert path.read_bytes() == b"old"
    with atomic_write(path, overwrite=True) as handle:
        handle.write(b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["poses.star"]


def test_file_that_appears_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "poses.star"

    def write():
        with atomic_write(path) as handle:
            handle.write(b"mine")
            path.write_bytes(b"theirs")

    with pytest.raises(BadInput, match="exists already"):
        write()
    assert path.read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["poses.star"]


def test_error_in_the_block_leaves_the_old_file(tmp_path):
    path = tmp_path / "poses.star"
    path.write_bytes(b"old")

    def write():
        with atomic_write(path, overwrite=True) as handle:
            handle.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["poses.star"]


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_disk_full_is_one_line_and_leaves_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "poses.star"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write():
        with atomic_write(path, overwrite=True) as handle:
            handle.write(b"half")
            if step == "write":
                full()

    if step != "write":
        monkeypatch.setattr(os, step, full)
    with pytest.raises(BadInput, match=r"poses\.star: cannot be written: No space left on device; free some space"):
        write()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["poses.star"]


def test_error_about_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="input"), atomic_write(tmp_path / "out"):
        (tmp_path / "input").read_bytes()
    assert os.listdir(tmp_path) == []


def test_killed_run_leaves_the_old_file_and_the_next_run_cleans_up(tmp_path):
    path = tmp_path / "poses.star"
    path.write_bytes(b"old")
    code = """
import os, signal, sys
from cryozoo.particles.files import atomic_write
with atomic_write(sys.argv[1], overwrite=True) as handle:
    handle.write(b"half")
    handle.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code, path], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert len(os.listdir(tmp_path)) == 2

    with atomic_write(path, overwrite=True) as mine:  # holds a lock: alive
        mine.write(b"mine")
        with atomic_write(path, overwrite=True) as theirs:
            theirs.write(b"theirs")
        assert path.read_bytes() == b"theirs"
    assert path.read_bytes() == b"mine"
    assert os.listdir(tmp_path) == ["poses.star"]


def test_no_folder_and_no_right_to_write(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="folder does not exist"), atomic_write(tmp_path / "none" / "out"):
        pass
    with pytest.raises(BadInput, match="not a regular file"), atomic_write(tmp_path, overwrite=True):
        pass

    def denied(path, *_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(files, "open", denied, raising=False)
    with pytest.raises(BadInput, match="out: cannot be written: Permission denied"), atomic_write(tmp_path / "out"):
        pass


def test_what_is_not_a_file_is_refused_without_waiting(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for path, kind in [
        (tmp_path / "pipe", "a named pipe"),
        (tmp_path / "folder", "a folder"),
        (Path("/dev/zero"), "a device"),
        (tmp_path / "none", "No such file"),
        (tmp_path / "a\0b", "null byte"),
    ]:
        with pytest.raises(BadInput, match=kind):
            open_regular(path)

    def denied(path, *_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    (tmp_path / "file").write_bytes(b"x")
    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(BadInput, match="Permission denied"):
        open_regular(tmp_path / "file")


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"", "empty"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"\n <!DOCTYPE html>", "web page"),
        (b"\x93NUMPY\x01\x00", "numpy"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (b"data_particles", None),
    ],
)
def test_looks_like(head, kind):
    found = looks_like(head)
    assert found is None if kind is None else kind in found


def test_tally_reports_each_kind_once():
    tally = Tally("x.star")
    for row in range(3):
        tally.add("odd", f"row {row}")
    tally.add("strange", "row 7")
    with pytest.warns(BadInputWarning) as seen:
        tally.warn()
    assert [str(w.message) for w in seen] == ["x.star: odd (3 times, first: row 0)", "x.star: strange (row 7)"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tally.warn()


def test_data_is_found_here_or_below_the_folders_of_the_environment(tmp_path, monkeypatch):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        (folder / "maps").mkdir(parents=True)
    (two / "maps/a.mrc").touch()
    monkeypatch.setenv("CRYOZOO_DATA", f"{one}{os.pathsep}{two}")
    assert find_data("maps/a.mrc") == two / "maps/a.mrc"
    assert find_data(two / "maps/a.mrc") == two / "maps/a.mrc"
    (one / "maps/a.mrc").touch()
    assert find_data("maps/a.mrc") == one / "maps/a.mrc"
    with pytest.raises(BadInput, match=rf"maps/b\.mrc: no such file; .* \(searched: {one}, {two}\)"):
        find_data("maps/b.mrc")
    monkeypatch.delenv("CRYOZOO_DATA")
    with pytest.raises(BadInput, match="CRYOZOO_DATA is not set"):
        find_data("maps/a.mrc")
