"""``cryozoo recover`` with the embedded encoder, on its phantom, and what it refuses."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cryozoo.cli.recover import _trust
from cryozoo.geometry import align_frames
from cryozoo.imaging.simulate import Imaging, Simulator
from cryozoo.imaging.simulate_files import write_simulated_stack
from cryozoo.imaging.volumes import Volume
from cryozoo.particles.poses import PoseTable
from cryozoo.training.data import Simulated
from cryozoo.training.recipe import Recipe
from cryozoo.zoo.encoder import create_encoder
from cryozoo.zoo.pretrained import save_pretrained

EMBEDDED = "vgg_gem-qcqp_bingham.phantom_64"


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recover")
    simulator = Simulator(Volume.phantom(size=64, pixel_size=5.0), Imaging(snr=0.5, shift_sigma=5.0))
    write_simulated_stack(folder / "particles.mrcs", simulator, 300)
    return folder / "particles.star"


def test_poses_and_figure(run, particles, tmp_path):
    words = ["--encoder", EMBEDDED, "--copies", "20", "--no-progress"]
    done = run("recover", particles, "-o", tmp_path / "out.star", "--figure", tmp_path / "out.png", *words)
    assert done.code == 0
    assert re.fullmatch(rf"warning: .*needs --datadir {particles.parent}\n", done.err)
    assert re.search(r"agree with them to \d\.\d degrees \(\d\d+\.\d if they were transposed\)", done.out)
    assert "hand may be the wrong one" in done.out
    assert "do not trust" not in done.out
    found, true = (PoseTable.load(path) for path in (tmp_path / "out.star", particles))
    angles = align_frames(torch.from_numpy(found.rotation), torch.from_numpy(true.rotation)).angles
    assert torch.rad2deg(angles).median() < 8
    assert np.sqrt(((found.shift - true.shift) ** 2).mean()) < 4
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["test_siamese_cnn-embedding", "test_vgg_gem-sixd_svd"])
def test_what_is_not_to_be_trusted_is_said(run, name, tmp_path):
    """Encoders with random weights."""
    torch.manual_seed(0)
    encoder = create_encoder(name, image_size=32, pixel_size=5.0)
    encoder.train()(torch.randn(16, 1, 32, 32))
    save_pretrained(encoder, tmp_path / "model", metrics={})
    write_simulated_stack(tmp_path / "few.mrcs", Simulator(Volume.phantom(size=32), Imaging(snr=0.1)), 60)
    words = ["--encoder", f"local-dir:{tmp_path / 'model'}", "-o", tmp_path / "out.star"]
    done = run("recover", tmp_path / "few.star", *words)
    assert done.code == 0
    assert ("explain" in done.out) == name.endswith("embedding")
    assert "do not trust these poses" in done.out


@pytest.mark.parametrize("converged", [True, False])
def test_a_search_that_did_not_come_to_rest_is_said(converged):
    recovery = SimpleNamespace(quaternions=torch.zeros(1000, 4), explained=0.9, noise=0.1, converged=converged)
    found = SimpleNamespace(recovery=recovery, gauge=SimpleNamespace(residual=0.1, other_residual=1.0, preference=9.0))
    assert ("come to rest" in _trust(found, by_construction=False)) != converged


@pytest.mark.parametrize("name", ["test_d4_cnn-sixd_svd", "test_c4_cnn-sixd_svd", "test_vgg_gem-sixd_svd"])
def test_encoders_that_learnt_distances_claim_no_more(run, name, tmp_path):
    """That an equivariant encoder agrees with itself says nothing; nor has any of them the frame of a molecule."""
    encoder = create_encoder(name, image_size=32, pixel_size=5.0)
    recipe = Recipe(name, 32, Simulated("phantom:0"), 1, loss="siamese_distance")
    save_pretrained(encoder, tmp_path / "model", metrics={}, recipe=recipe)
    write_simulated_stack(tmp_path / "few.mrcs", Simulator(Volume.phantom(size=32), Imaging(snr=0.1)), 60)
    words = [tmp_path / "few.star", "--encoder", f"local-dir:{tmp_path / 'model'}", "-o"]
    recovered = run("recover", *words, tmp_path / "a.star").out
    assert ("as always with an equivariant encoder, right or wrong" in recovered) == (encoder.group == "D4")
    predicted = run("predict", *words, tmp_path / "b.star").out
    assert "learnt distances only: the frame is arbitrary" in predicted
    assert ("cryozoo recover" in predicted) == (encoder.group != "D4")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--copies", "1"], 2, "--copies"),
        (["-o", "poses.txt"], 3, "suffix '.txt'"),
        (["--figure", "/nowhere/out.png"], 3, "cannot be written"),
        (["--figure", "out.star"], 3, "suffix '.star'"),
        (["--encoder", "vgg_gem-quaternion.none"], 2, "vgg_gem-quaternion.none"),
    ],
)
def test_refusals(run, particles, tmp_path, words, code, message):
    done = run("recover", particles, "--encoder", EMBEDDED, "-o", tmp_path / "out.star", *words)
    assert done.code == code
    assert message in done.err
    assert list(tmp_path.iterdir()) == []


def test_too_few(run, stack, tiny_folder, tmp_path):
    done = run("recover", stack, "--encoder", f"local-dir:{tiny_folder}", "-o", tmp_path / "out.star")
    assert done.code == 3
    assert "23 particles; expected at least 30" in done.err
