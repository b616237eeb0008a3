"""The map that travels with the weights: whose frame poses are in."""

import json

import numpy as np
import pytest
import torch

from cryozoo.geometry.sampling import random_rotations
from cryozoo.imaging.frame_map import make_frame_map
from cryozoo.imaging.projector import Projector
from cryozoo.imaging.simulate import Imaging, Simulator
from cryozoo.imaging.volumes import Volume, load_volume
from cryozoo.particles.errors import BadInput, BadInputWarning
from cryozoo.particles.mrc_writer import write_volume
from cryozoo.training.recipe import Recipe
from cryozoo.training.trainer import train
from cryozoo.zoo.embed import embed
from cryozoo.zoo.encoder import create_encoder
from cryozoo.zoo.entry import FileFacts
from cryozoo.zoo.match import refine
from cryozoo.zoo.pretrained import load_pretrained, save_pretrained

RECIPE = Recipe.from_dict(
    {
        "encoder": "vgg_gem-qcqp_bingham",
        "image_size": 32,
        "pixel_size": 6.0,
        "backbone_args": {"channels": [4, 8], "depths": [1, 1], "kernels": [3, 3]},
        "data": {"volume": "phantom:2", "snr": 1.0, "held_out": 64},
        "loss": "bingham_nll",
        "steps": 1,
        "batch_size": 2,
    }
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    train(RECIPE, out)
    return out / "model"


@pytest.mark.parametrize("pixel_size", [3.0, 5.0, 7.3])
def test_it_projects_as_the_map_does(pixel_size):
    volume = load_volume("phantom:1", image_size=64, pixel_size=5.0)
    small = make_frame_map(volume, pixel_size)
    assert small.size < volume.size
    assert small.size % 2 == 0
    assert 0.9 * min(pixel_size, 5.0) < small.pixel_size <= max(pixel_size, 5.0)
    rotation = random_rotations(8, generator=torch.Generator().manual_seed(0)).float()

    def images(volume, rotation):
        seen = Projector(volume, image_size=32, pixel_size=10.0)(rotation).flatten(1)
        return seen - seen.mean(1, keepdim=True)

    alike = torch.cosine_similarity(images(small, rotation), images(volume, rotation))
    assert alike.min() > 0.995
    assert torch.cosine_similarity(images(small, rotation.mT), images(volume, rotation)).max() < 0.95


def test_a_trained_encoder_brings_its_own(folder):
    encoder = load_pretrained(f"local-dir:{folder}")
    expected = make_frame_map(load_volume("phantom:2", image_size=32, pixel_size=6.0), 6.0)
    assert torch.equal(encoder.frame_map.data, expected.data)
    assert encoder.frame_map.pixel_size == pytest.approx(expected.pixel_size)
    save_pretrained(encoder, folder.parent / "again")
    assert (folder.parent / "again" / "frame.mrc").read_bytes() == (folder / "frame.mrc").read_bytes()


@pytest.mark.filterwarnings("ignore:.*the given poses are far off")
def test_poses_are_refined_against_it(folder):
    """Those of an encoder that has learnt nothing."""
    encoder = load_pretrained(f"local-dir:{folder}")
    batch = RECIPE.data.simulator(32, 6.0)(40, torch.Generator().manual_seed(1))
    images = batch.images[:, 0].numpy()
    own = encoder.predict(images, refine="frame")
    same = refine(images, encoder.frame_map, poses=encoder.predict(images), pixel_size=6.0)
    np.testing.assert_array_equal(own.rotation, same.rotation)
    assert not np.allclose(own.rotation, encoder.predict(images).rotation)
    assert own.compared.volume.size == encoder.frame_map.size


def test_an_encoder_without_one_says_so():
    encoder = create_encoder("vgg_gem-qcqp_bingham", image_size=32, backbone_args=RECIPE.backbone_args)
    with pytest.raises(BadInput, match="has no map of the molecule"):
        encoder.predict(np.zeros((1, 32, 32), dtype=np.float32), refine="frame")


def test_distances_have_no_frame():
    values = RECIPE.to_dict() | {"loss": "siamese_distance", "encoder": "siamese_cnn-embedding", "shift": False}
    assert Recipe.from_dict(values).frame_map() is None


@pytest.mark.parametrize("fault", ["another", "flat", "huge"])
def test_another_file_is_refused(folder, tmp_path, fault):
    encoder = load_pretrained(f"local-dir:{folder}")
    save_pretrained(encoder, tmp_path / "model")
    path, config = tmp_path / "model" / "frame.mrc", tmp_path / "model" / "config.json"
    values = json.loads(config.read_text())
    if fault == "another":
        write_volume(path, encoder.frame_map.data.numpy()[::-1].astype(np.float16), 6.0, overwrite=True)
    elif fault == "flat":
        encoder.frame_map = Volume(encoder.frame_map.data[:-2], 6.0)
        save_pretrained(encoder, tmp_path / "model", overwrite=True)
    else:
        values["files"]["frame.mrc"]["size"] = 2**40
        config.write_text(json.dumps(values))
    message = {"another": "sha256", "flat": "expected a cube", "huge": "a small map"}[fault]
    with pytest.raises(BadInput, match=rf"frame\.mrc.*{message}"):
        load_pretrained(f"local-dir:{tmp_path / 'model'}")


def test_it_is_embedded(folder, tmp_path, monkeypatch):
    for module in ("embed", "entries"):
        monkeypatch.setattr(f"cryozoo.zoo.{module}.WEIGHTS", tmp_path)
    name = embed(folder, "here", name="a phantom")
    encoder = load_pretrained(name)
    assert encoder.entry.molecule.name == "a phantom"
    assert encoder.entry.molecule.source == "phantom:2"
    assert isinstance(encoder.entry.files["frame.mrc"], FileFacts)
    assert torch.equal(encoder.frame_map.data, load_pretrained(f"local-dir:{folder}").frame_map.data)


def test_it_tells_whose_images_these_are(folder):
    """At 6 Angstrom, where molecules have more than an outline: its own, and those of a cloud of atoms at random."""
    encoder = load_pretrained(f"local-dir:{folder}")
    encoder.frame_map = Volume.phantom(size=64, pixel_size=3.0)
    atoms = np.random.default_rng(0).normal(size=(400, 3)) * (12.0, 12.0, 20.0)
    cloud = Volume.from_atoms(atoms, np.ones(len(atoms)), size=64, pixel_size=3.0)
    own, others = (
        Simulator(volume, Imaging(snr=0.5, shift_sigma=6.0))(60, torch.Generator().manual_seed(0)).images
        for volume in (encoder.frame_map, cloud)
    )
    assert encoder.agreement(own, pixel_size=3.0).agreement > 0.8
    with pytest.warns(BadInputWarning, match="the map seems to be of another molecule"):
        assert encoder.agreement(others, pixel_size=3.0).agreement < 0.4
