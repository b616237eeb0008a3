"""What people type by mistake: each is answered by its exit code and one line that says what to do."""

import re
import shutil

import click
import numpy as np
import pytest

from cryozoo.cli.common import choose_device
from cryozoo.particles.mrc_writer import write_volume

RECIPE = "encoder: test_vgg_gem-sixd_svd\nimage_size: 32\ndata:\n  volume: phantom:0\nsteps: 4\n"


@pytest.fixture
def here(run, stack, tiny_folder, tmp_path, monkeypatch):
    """A folder as it might look on the first day, in which the shell is."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for size in (16, 18):
        write_volume(tmp_path / f"map{size}.mrc", rng.normal(size=(size,) * 3), 5.0)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "tabs.yaml").write_text(RECIPE.replace("  volume", "\tvolume"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "page.mrcs").write_text("<!DOCTYPE html>" + 2000 * " ")
    (tmp_path / "exists.star").touch()
    shutil.copytree(tiny_folder, tmp_path / "model")
    run("convert", "particles.star", "poses.pkl")
    return tmp_path


PREDICT = "--encoder model -o out.star"
SUFFIXES = r".star, .cs, .pkl, .npz"

MISTAKES = [
    # what is misspelt, and what is missing
    ("pretict particles.star", 2, "No such command 'pretict'. Did you mean 'predict'?"),
    (f"predict particles.star {PREDICT} --batchsize 4", 2, "Did you mean '--batch-size'? (`cryozoo predict --help`"),
    ("predict particles.star -o out.star", 2, "Missing option '--encoder' (`cryozoo predict --help` says more)"),
    ("predict particles.star --encoder model", 2, "Missing option '-o' / '--out'"),
    ("fsc map16.mrc", 2, "Missing argument 'B'"),
    (f"predict particles.star map16.mrc {PREDICT}", 2, "unexpected extra argument (map16.mrc)"),
    (f"predict particles.star {PREDICT} --batch-size many", 2, "'many' is not a valid integer"),
    (f"predict particles.star {PREDICT} --pixel-size 5A", 2, "'5A' is not a number"),
    ("reconstruct particles.star -o out.mrc --symmetry d7x", 2, "expected Cn, Dn (n from 1 to 999), T, O, I"),
    ("list vgg", 2, "nothing matches 'vgg'; * stands for any letters: '*vgg*'"),
    ("info vgg_gen", 2, "did you mean vgg_gem"),
    # encoders
    ("predict particles.star --encoder vgg_gem -o out.star", 2, "<backbone>-<head>.<tag>; `cryozoo list` shows"),
    ("predict particles.star --encoder vgg_gem-qcqp_bingham -o out.star", 2, "vgg_gem-qcqp_bingham.phantom_64"),
    ("predict particles.star --encoder vgg_gem-qcqp_bingham.phantom64 -o out.star", 2, "did you mean vgg_gem-qcqp"),
    ("predict particles.star --encoder vgg_gen-sixd_svd -o out.star", 2, "did you mean vgg_gem"),
    ("predict particles.star --encoder folder -o out.star", 3, "folder: has no config.json; expected a folder written"),
    ("predict particles.star --encoder model/config.json -o out.star", 2, "local-dir:model/config.json is a folder"),
    ("verify folder", 3, "has no config.json"),
    # particles
    (f"predict nosuch.star {PREDICT}", 3, "nosuch.star: cannot be read: No such file"),
    (f"predict folder {PREDICT}", 3, "folder: is a folder; expected a file"),
    (f"predict recipe.yaml {PREDICT}", 3, "suffix '.yaml'; expected particle images: a .star, .cs or .mrcs file"),
    (f"predict poses.pkl {PREDICT}", 3, "suffix '.pkl'; expected particle images: a .star, .cs or .mrcs file"),
    (f"predict page.mrcs {PREDICT}", 3, "page.mrcs: is a web page, perhaps the error page of a failed download"),
    (f"predict particles.star {PREDICT} --datadir nosuch", 3, "nosuch: is not a folder; expected the folder with"),
    (f"predict out.star {PREDICT}", 3, "out.star: cannot be read: No such file"),
    ("reconstruct particles.mrcs -o out.mrc", 3, "no poses; give them in a file of their own (--poses)"),
    # outputs
    ("predict particles.star --encoder model -o out.txt", 3, f"suffix '.txt'; expected one of {SUFFIXES}"),
    ("predict particles.star --encoder model -o folder", 3, f"expected one of {SUFFIXES}"),
    ("predict particles.star --encoder model -o exists.star", 3, "exists already; choose another name, or --overwrite"),
    ("predict particles.star --encoder model -o nosuch/out.star", 3, "its folder: No such file or directory"),
    ("predict particles.star --encoder model -o particles.star --overwrite", 3, "is the input as well as the output"),
    ("reconstruct particles.star -o out.star", 3, "suffix '.star'; expected a map, .mrc"),
    ("simulate --volume map16.mrc -n 3 -o out.star", 3, "suffix '.star'; expected a stack, .mrcs"),
    ("export model -o out.txt", 3, "expected .pt2 or .onnx"),
    # devices
    (f"predict particles.star {PREDICT} --device tpu", 2, "'tpu'; expected cpu, cuda or cuda:1"),
    (f"predict particles.star {PREDICT} --device meta", 2, "'meta' cannot be used here"),
    # poses
    ("evaluate particles.star map16.mrc", 3, f"map16.mrc: the suffix '.mrc'; expected one of {SUFFIXES}"),
    ("evaluate particles.star nosuch.star", 3, "nosuch.star: cannot be read"),
    ("convert map16.mrc out.star", 3, f"map16.mrc: the suffix '.mrc'; expected one of {SUFFIXES}"),
    ("convert poses.pkl out.star", 3, "shifts in fractions of the box"),
    ("reconstruct particles.star -o out.mrc --poses map16.mrc", 3, f"expected one of {SUFFIXES}"),
    # maps
    ("fsc map16.mrc map18.mrc", 3, "which has 16 x 16 x 16; crop or pad it (relion_image_handler --new_box 16)"),
    ("fsc particles.star map16.mrc", 3, "particles.star: the suffix '.star'; expected a map, .mrc"),
    ("fsc map16.mrc map16.mrc --mask particles.star", 3, "particles.star: the suffix '.star'; expected a map, .mrc"),
    ("fsc map16.mrc nosuch.mrc", 3, "nosuch.mrc: cannot be read"),
    ("fsc map16.mrc map16.mrc -o out.txt", 3, "expected one of .star, .csv"),
    ("simulate --volume nosuch.mrc -n 3 -o out.mrcs", 3, "nosuch.mrc: no such file"),
    ("simulate --volume map16.mrc -o out.mrcs", 2, "either -n or --poses says which particles"),
    # recipes
    ("train map16.mrc --out out", 3, "is an MRC file; expected a training recipe; `cryozoo train --template` prints"),
    ("train particles.star --out out", 3, "expected a training recipe; `cryozoo train --template` prints one"),
    ("train tabs.yaml --out out", 3, "tabs.yaml, line 4: not readable as YAML or JSON: "),
    ("train tabs.yaml --out out", 3, "indent with blanks, not tabs"),
    ("train nosuch.yaml --out out", 3, "nosuch.yaml: cannot be read: No such file"),
    ("train folder --out out", 3, "folder: is a folder; expected a file"),
    ("train recipe.yaml --out out --set nosuch=1", 3, "nosuch"),
]


@pytest.mark.parametrize(("line", "code", "answer"), MISTAKES, ids=[line for line, _, _ in MISTAKES])
def test_mistake(run, here, line, code, answer):
    before = sorted(here.rglob("*"))
    done = run(*line.split())
    assert (done.code, done.out) == (code, "")
    assert re.fullmatch(r"error: [^\n]*\n", done.err)
    assert answer in done.err
    assert len(done.err) < 400
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("device", ["gpu", "cuda", "GPU:1"])
def test_a_gpu_that_is_not_there(run, here, monkeypatch, device):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = run("predict", "particles.star", *PREDICT.split(), "--device", device)
    assert done.code == 2
    message = f"no GPU '{device}': PyTorch sees none here; --device cpu does without"
    assert done.err == f"error: Invalid value for --device: {message}\n"


def test_gpu_is_another_word_for_cuda(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.zeros", lambda *_, device: np.float32(0))
    assert [str(choose_device(name)) for name in ("gpu", "gpu:1", "cuda:1")] == ["cuda", "cuda:1", "cuda:1"]
    with pytest.raises(click.BadParameter, match="no GPU 'gpu:2': PyTorch sees 2 here, from 0"):
        choose_device("gpu:2")


def test_no_word_at_all_shows_the_help(run):
    done = run()
    assert done.code == 2
    assert "Commands:" in done.err
