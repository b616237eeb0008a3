"""Poses and a map from images alone: found where there is something, refused where there is nothing."""

import json
import warnings

import numpy as np
import pytest
import torch

from cryozoo.imaging.map_alignment import align_map
from cryozoo.imaging.reconstruct import Reconstruction, reconstruct
from cryozoo.imaging.simulate import Imaging, Simulator
from cryozoo.imaging.simulate_files import write_simulated_stack
from cryozoo.imaging.stochastic_em import Stage
from cryozoo.imaging.volumes import Volume
from cryozoo.particles.errors import BadInput, BadInputWarning
from cryozoo.particles.mrc import MrcStack
from cryozoo.particles.mrc_writer import write_stack
from cryozoo.particles.poses import PoseTable
from cryozoo.particles.stack import ParticleStack
from cryozoo.zoo import ab_initio
from cryozoo.zoo.ab_initio import abinitio, image_diameter
from cryozoo.zoo.evaluate import aligned_metrics
from cryozoo.zoo.pieces import Pieces

SIZE, PIXEL = 32, 6.0
VOLUME = Volume.phantom(size=SIZE, pixel_size=PIXEL)


@pytest.fixture
def small(monkeypatch):
    """A schedule for a phantom and few images."""
    monkeypatch.setattr(ab_initio, "STAGES", (Stage(4.0, 1, 40), Stage(6.0, 1, 50)))
    monkeypatch.setattr(ab_initio, "_HELD_OUT", 100)


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    path = tmp_path_factory.mktemp("particles") / "p.mrcs"
    write_simulated_stack(path, Simulator(VOLUME, Imaging(snr=1.0, shift_sigma=6.0, defocus=(1e4, 3e4))), 800)
    return path


def replaced(stack, folder, images):
    """The same table with other images."""
    write_stack(folder / "p.mrcs", images.astype(np.float32), PIXEL)
    (folder / "p.star").write_text(stack.with_suffix(".star").read_text())
    return folder / "p.star"


def test_a_phantom_is_found(small, stack, tmp_path, run, monkeypatch):
    """Some images of either half are taken for junk, and left out of the map."""
    made = []
    reconstruct = ab_initio.reconstruct
    monkeypatch.setattr(
        ab_initio, "reconstruct", lambda *args, **more: made.append(reconstruct(*args, **more)) or made[-1]
    )
    monkeypatch.setattr(ab_initio, "looks_like_no_particle", lambda found: torch.arange(len(found.score)) < 30)
    done = run("abinitio", stack.with_suffix(".star"), "-o", tmp_path / "out", "--starts", 1, "--no-progress")
    assert done.code == 0, done.err
    assert "the molecule measures about" in done.out
    assert "start 1: images that were left out fit by" in done.out
    found = align_map(Volume.load(tmp_path / "out/map.mrc"), VOLUME)
    assert found.correlation > 0.85
    judged = json.loads(
        run("evaluate", tmp_path / "out/poses.star", stack.with_suffix(".star"), "--align", "--json").out
    )
    assert judged["median_deg"] < 4  # of 132 by chance
    assert "60 images look like no particles, and are left out of the map" in done.out
    clean = PoseTable.load(tmp_path / "out/without_junk.star")
    assert len(clean) == 740
    assert sum(made[-1].counts) == 740
    assert "without_junk.star" in (tmp_path / "out/report.html").read_text()
    page = (tmp_path / "out/report.html").read_text()
    assert all(title in page for title in ("The map", "Random starts", "Directions of view", "What to do next"))
    assert "<script" not in page
    assert (tmp_path / "out/progress.png").read_bytes().startswith(b"\x89PNG")
    shells = (tmp_path / "out/fsc.csv").read_text().splitlines()
    assert len(shells) == 1 + SIZE // 2
    assert not (tmp_path / "out/unfinished").exists()
    again = run("abinitio", stack.with_suffix(".star"), "-o", tmp_path / "out")
    assert "exists already" in again.err


def test_noise_alone_is_refused(small, stack, tmp_path):
    noise = np.random.default_rng(0).normal(size=(800, SIZE, SIZE))
    with pytest.raises(BadInput, match="nothing that the images have in common but noise"):
        abinitio(replaced(stack, tmp_path, noise), diameter=120.0, starts=1)


@pytest.mark.slow
def test_real_images_that_tell_too_little_are_refused(data):
    """Six ribosomes in a tilt series: with their published poses, too, half maps do not agree in any shell."""
    folder = data("particles") / "cryodrgn_ribosome_tilt220"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BadInputWarning)  # of the header
        real = ParticleStack.open(folder / "sta_testing_bin8.star", pixel_size=14.56)
        published = reconstruct(real, PoseTable.load(folder / "sta_pose.pkl", image_size=64, pixel_size=14.56))
        assert published.resolution == pytest.approx(64 * 14.56)
        with pytest.raises(BadInput, match="nothing that the images have in common but noise"):
            abinitio(real, diameter=320.0)


def test_dark_particles_are_refused(small, stack, tmp_path):
    images = MrcStack(stack).read(np.arange(800))
    with (
        pytest.warns(UserWarning, match="look darker"),
        pytest.raises(BadInput, match=r"density is lower .*invert=True \(--invert\)"),
    ):
        abinitio(replaced(stack, tmp_path, -images), diameter=120.0, starts=1)


def test_images_of_unusual_power_are_not_ordinary():
    images = Simulator(VOLUME, Imaging(snr=0.1))(500, torch.Generator().manual_seed(0)).images[:, 0]
    power = ab_initio._power(images)
    assert (power <= ab_initio._highest(power)).all()
    images[::10, 8:20, 8:20] += 3 * images.std()
    power = ab_initio._power(images)
    assert torch.equal(power > ab_initio._highest(power), torch.arange(500) % 10 == 0)


@pytest.mark.parametrize("size", [32, 33])
def test_images_are_cut_to_a_window_about_their_origin(tmp_path, size):
    """At pixels as fine as before, what is left is the middle."""
    simulator = Simulator(Volume.phantom(size=size, pixel_size=PIXEL), Imaging(snr=0.5, allow_wrap=True))
    write_simulated_stack(tmp_path / "p.mrcs", simulator, 20)
    wide = ParticleStack.open(tmp_path / "p.star")
    whole, _ = ab_initio._prepared(wide, np.arange(20), size, size)
    cut, _ = ab_initio._prepared(wide, np.arange(20), 24, 24)
    first = size // 2 - 12
    assert torch.allclose(cut, whole[:, first : first + 24, first : first + 24], atol=1e-5)


@pytest.mark.slow
def test_junk_is_told_and_left_out(small, stack, tmp_path):
    """A fifth of the images are noise, a tenth have ice on them."""
    images = MrcStack(stack).read(np.arange(800)).astype(np.float32)
    random = np.random.default_rng(0)
    noise, ice = np.arange(800) % 10 < 2, np.arange(800) % 10 == 9
    sigma = images[:, :4].std()
    images[noise | ice] = sigma * random.normal(size=(240, SIZE, SIZE))
    y, x = np.mgrid[:SIZE, :SIZE]
    centre = random.uniform(0, SIZE, (80, 2, 1, 1))
    images[ice] += 8 * sigma * np.exp(-((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2) / 2 / 5**2)
    path, lines = replaced(stack, tmp_path, images), []
    found = abinitio(path, starts=3, say=lines.append)
    assert "images have far more power than the others" in "\n".join(lines)
    assert found.junk[ice].all()
    assert found.junk[noise].mean() > 0.8
    assert found.junk[~noise & ~ice].mean() < 0.05
    assert any("look like no particles" in doubt and "made without them" in doubt for doubt in found.doubts)
    good = ~(noise | ice)
    true = torch.from_numpy(ParticleStack.open(path).poses.rotation[good])
    assert aligned_metrics(torch.from_numpy(found.poses.rotation[good]), true)["median_deg"] < 4  # of 132 by chance


def test_images_that_are_all_the_same_are_refused(stack, tmp_path):
    images = np.repeat(MrcStack(stack).read(np.arange(1)), 800, axis=0)
    with pytest.raises(BadInput, match="images that are all the same; expected many views"):
        abinitio(replaced(stack, tmp_path, images), diameter=120.0, starts=1)


def test_a_molecule_as_wide_as_its_box_is_asked_for(stack, tmp_path):
    noise = np.random.default_rng(0).normal(size=(800, SIZE, SIZE))
    with pytest.raises(BadInput, match=r"do not show how large the molecule is; say it: diameter \(--diameter\)"):
        abinitio(replaced(stack, tmp_path, noise))


@pytest.mark.parametrize(
    ("count", "junk", "resolution", "mirror", "said"),
    [
        (500, 0, 10.0, 40.0, ["are few"]),
        (9000, 900, 40.0, 60.0, ["900 of 9,000 images look like no particles", "no finer"]),
        (9000, 9, 15.0, 17.0, ["its own mirror image to 17.0 A, as far as it is resolved"]),
        (9000, 9, 15.0, 40.0, []),
    ],
)
def test_what_is_doubted(count, junk, resolution, mirror, said):
    fsc = (torch.arange(SIZE // 2 + 1) <= SIZE * PIXEL / resolution).double()
    made = Reconstruction(VOLUME, (VOLUME, VOLUME), (count, count), fsc, fsc, fsc)
    doubts = ab_initio._doubts(np.arange(count) < junk, made, mirror, 200.0)
    assert len(doubts) == len(said)
    assert all(part in doubt for part, doubt in zip(said, doubts, strict=True))


def test_few_images_are_refused(stack):
    few = ParticleStack.open(stack.with_suffix(".star")).subset(np.arange(99))
    with pytest.raises(BadInput, match="99 images; expected at least 100, better thousands"):
        abinitio(few)


@pytest.mark.parametrize("snr", [0.1, 0.5])
def test_the_diameter_is_that_of_the_molecule(snr):
    simulator = Simulator(VOLUME, Imaging(snr=snr, shift_sigma=4.0))
    images = simulator(2000, torch.Generator().manual_seed(0)).images[:, 0]
    # A phantom is 0.6 of its box wide; shifts make it look larger.
    assert 0.45 * SIZE < image_diameter(images) < 0.8 * SIZE
    images[::20, :, :5] = 5 * images.std()  # the edge of a hole in some of the images
    assert 0.45 * SIZE < image_diameter(images) < 0.8 * SIZE


@pytest.fixture(scope="module")
def whole():
    """What was found without a stop, once it was needed."""
    return []


class Stopped(Exception):
    """In place of a kill."""


@pytest.mark.parametrize("at", ["first map, start 1, stage 2", "round 2"])
def test_stopped_work_goes_on_to_the_same_end(small, stack, tmp_path, monkeypatch, whole, at):
    monkeypatch.setattr(ab_initio, "_ROUNDS", 2)

    def find(**more):
        return abinitio(stack.with_suffix(".star"), starts=1, diameter=120.0, **more)

    def stop(volume, rotation, title):
        assert volume.size > 0
        assert rotation.shape[1:] == (3, 3)
        if at.endswith(title.partition(" of")[0]) or at.startswith(title.partition(",")[0]):
            raise Stopped

    with pytest.raises(Stopped) as stopped:
        find(keep=tmp_path / "kept", show=stop)
    assert "kept; the same command goes on" in stopped.value.__notes__[0]
    lines = []
    again = find(keep=tmp_path / "kept", say=lines.append)
    assert any("goes on after" in line for line in lines)
    if not whole:
        whole.append(find())
    assert np.array_equal(again.poses.rotation, whole[0].poses.rotation)
    assert np.array_equal(again.poses.confidence, whole[0].poses.confidence)
    assert torch.equal(again.reconstruction.map.data, whole[0].reconstruction.map.data)


def test_parts_of_other_work_are_not_gone_on_from(tmp_path):
    Pieces(tmp_path, "one").get("a", lambda: {"x": torch.ones(3)})
    (tmp_path / "b.safetensors").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match=r"(a|b)\.safetensors is damaged, of other particles, or"):
        others = Pieces(tmp_path, "two")
    assert len(others) == 0
    assert others.get("a", lambda: {"x": torch.zeros(3)})["x"].sum() == 0
    with pytest.warns(UserWarning, match=r"b\.safetensors"):
        again = Pieces(tmp_path, "two")
    assert again.get("a", lambda: pytest.fail("made again"))["x"].sum() == 0
