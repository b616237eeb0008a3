"""Prediction against the bare network, on files and in memory; real stacks in the dialects they came in."""

import threading
from concurrent.futures import ThreadPoolExecutor

import mrcfile
import numpy as np
import pytest
import starfile
import torch
from scipy.spatial.transform import Rotation

from cryozoo.imaging.simulate import Imaging
from cryozoo.imaging.simulate_files import write_simulated_stack
from cryozoo.particles.errors import BadInput, BadInputWarning
from cryozoo.particles.poses import PoseTable
from cryozoo.particles.stack import ParticleStack
from cryozoo.training.data import Simulated
from cryozoo.training.recipe import Recipe
from cryozoo.zoo._source import read_ahead
from cryozoo.zoo.encoder import create_encoder
from cryozoo.zoo.predict import PredictionStopped, predict
from cryozoo.zoo.pretrained import load_pretrained, save_pretrained


def bare(encoder, images, pixel_size=None):
    """What the network says of all images in one batch, without any of the machinery."""
    with torch.no_grad():
        return encoder(encoder.preprocessing(torch.as_tensor(np.asarray(images)), pixel_size))


def assert_poses(table, pose, tolerance=1e-5):
    np.testing.assert_allclose(table.rotation, pose.rotation.numpy(), rtol=0, atol=tolerance)
    np.testing.assert_allclose(table.shift, pose.shift.numpy(), rtol=0, atol=20 * tolerance)
    np.testing.assert_allclose(table.confidence, pose.confidence.numpy(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("batch_size", [1, 7, 23, 256])
@pytest.mark.parametrize("shape", [(23, 32, 32), (23, 1, 32, 32)])
@pytest.mark.parametrize("kind", [torch.from_numpy, np.asarray])
def test_images_in_memory(tiny, batch_size, shape, kind):
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    table = tiny.predict(kind(images), batch_size=batch_size)
    assert_poses(table, bare(tiny, images))
    assert (table.image_size, table.pixel_size) == (32, 5.0)


@pytest.mark.parametrize("suffix", [".star", ".mrcs", ".cs"])
def test_files(tiny, stack, suffix, tmp_path):
    images = mrcfile.read(stack.with_suffix(".mrcs"))
    path = stack.with_suffix(suffix)
    if suffix == ".cs":
        PoseTable.load(stack).save(path)
    table = tiny.predict(path, batch_size=5)
    assert_poses(table, bare(tiny, images, 5.0))
    opened = tiny.predict(ParticleStack.open(str(path)), batch_size=6)
    np.testing.assert_allclose(opened.rotation, table.rotation, rtol=0, atol=1e-5)


def test_another_pixel_size_is_resampled(tiny):
    images = np.random.default_rng(1).normal(size=(4, 48, 48)).astype(np.float32)
    table = tiny.predict(images, pixel_size=4.0)
    assert_poses(table, bare(tiny, images, 4.0))
    assert table.pixel_size == 4.0
    assert np.abs(table.rotation - tiny.predict(images).rotation).max() > 1e-3


@pytest.mark.parametrize("training", [True, False])
def test_predicts_in_evaluation_mode_and_restores_the_mode(tiny, training):
    images = torch.randn(6, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = bare(tiny.eval(), images)
    tiny.train(training)
    try:
        assert_poses(tiny.predict(images, batch_size=2), expected)
        assert {module.training for module in tiny.modules()} == {training}
    finally:
        tiny.eval()


def test_batches_are_handed_over_as_they_come(tiny, stack):
    batches = []
    table = tiny.predict(stack, batch_size=9, on_batch=batches.append)
    assert [len(batch) for batch in batches] == [9, 9, 5]
    for name in ("rotation", "shift", "confidence"):
        np.testing.assert_array_equal(np.concatenate([getattr(b, name) for b in batches]), getattr(table, name))


def test_the_next_images_are_read_while_the_network_works(tiny, stack, monkeypatch):
    """The network waits for the reading of the batch after its own; it would wait for ever if that came later."""
    reading = {start: threading.Event() for start in range(0, 23, 8)}
    read = ParticleStack.images
    monkeypatch.setattr(ParticleStack, "images", lambda self, rows: (reading[rows[0]].set(), read(self, rows))[1])
    batches = iter(range(8, 23, 8))

    def wait(module, images):
        if (following := next(batches, None)) is not None:
            assert reading[following].wait(30), "the next batch was not read meanwhile"

    handle = tiny.register_forward_pre_hook(wait)
    try:
        assert len(tiny.predict(stack, batch_size=8)) == 23
    finally:
        handle.remove()
    assert all(event.is_set() for event in reading.values())


@pytest.mark.parametrize("batches", [0, 2])
def test_ctrl_c_keeps_what_is_done(tiny, stack, tmp_path, batches):
    whole = tiny.predict(stack)
    count = []

    def press(module, images):
        count.append(1)
        if len(count) > batches:
            raise KeyboardInterrupt

    handle = tiny.register_forward_pre_hook(press)
    try:
        with pytest.raises(PredictionStopped, match=f"stopped after {9 * batches} of 23") as stop:
            tiny.predict(stack, batch_size=9)
    finally:
        handle.remove()
    if not batches:
        assert stop.value.done is None
        return
    np.testing.assert_allclose(stop.value.done.rotation, whole.rotation[:18], rtol=0, atol=1e-5)
    stop.value.done.save(tmp_path / "done.star")
    rows, expected = (starfile.read(path)["particles"] for path in (tmp_path / "done.star", stack))
    assert list(rows["rlnImageName"]) == list(expected["rlnImageName"][:18])


@pytest.mark.parametrize(
    ("number", "value"),
    [("30", np.nan), ("31", np.inf), ("31", -np.inf), ("32", "constant"), ("33", 0.0), ("35", 1e30)],
)
@pytest.mark.parametrize("where", ["memory", "file"])
def test_bad_images_are_refused_with_their_row(tiny, stack, pixels, number, value, where):
    pixels[17] = 1.25 if value == "constant" else value
    if number in ("30", "31", "35"):
        pixels[17] = 1.0
        pixels[17, 3, 5] = value
    source = stack if where == "file" else torch.from_numpy(np.array(pixels))
    with pytest.raises(BadInput, match="row 18"):
        tiny.predict(source, batch_size=4)
    if where == "file":
        with pytest.warns(BadInputWarning, match="left out"):
            table = tiny.predict(stack, batch_size=4, skip_bad=True)
        keep = np.delete(np.arange(23), 17)
        assert_poses(table, bare(tiny, np.array(pixels)[keep], 5.0))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((0, 32, 32)), "shape"),
        (np.zeros((3, 32, 16)), "shape"),
        (np.zeros((3, 2, 32, 32)), "shape"),
        (np.zeros((32, 32)), "shape"),
    ],
)
def test_arrays_that_are_no_images(tiny, images, message):
    with pytest.raises(BadInput, match=message):
        tiny.predict(images)


def test_arguments_that_cannot_be(tiny, stack):
    with pytest.raises(ValueError, match="batch_size 0"):
        tiny.predict(stack, batch_size=0)
    with pytest.raises(TypeError, match="datadir"):
        tiny.predict(np.zeros((2, 32, 32)), datadir="x")
    with pytest.raises(TypeError, match="pixel_size"):
        tiny.predict(ParticleStack.open(stack), pixel_size=2.0)
    with pytest.raises(ValueError, match="no rotation"):
        predict(create_encoder("test_siamese_cnn-embedding", image_size=32), np.ones((2, 32, 32)))


@pytest.mark.parametrize(
    ("size", "pixel_size", "warnings"),
    [(32, 5.0, []), (64, 2.5, []), (16, 5.0, ["padded"]), (32, 2.5, ["padded"]), (32, 6.0, ["coarser"])],
)
def test_29_images_of_another_scale_are_resampled_and_reported(tiny, size, pixel_size, warnings, recwarn):
    images = np.random.default_rng(2).normal(size=(3, size, size)).astype(np.float32)
    table = tiny.predict(images, pixel_size=pixel_size)
    assert_poses(table, bare(tiny, images, pixel_size))
    assert len(recwarn) == len(warnings)
    assert all(word in str(recwarn[i].message) for i, word in enumerate(warnings))


def test_a_ctf_that_the_training_lacked_is_reported(tiny, stack, tmp_path):
    for name, imaging in (("without", Imaging()), ("with", Imaging(defocus=(8000.0, 20000.0)))):
        recipe = Recipe(tiny.name, 32, Simulated("phantom:0", imaging), 1)
        save_pretrained(tiny, tmp_path / name, recipe=recipe, metrics={})
    with pytest.warns(BadInputWarning, match="have a CTF, and those of the training had none"):
        load_pretrained(f"local-dir:{tmp_path / 'without'}").predict(stack)
    load_pretrained(f"local-dir:{tmp_path / 'with'}").predict(stack)


REAL = [
    ("cryodrgn_relion31_5/relion31.star", "particles", 5),
    ("aspire_sample17/sample_particles_relion30.star", "model_class_1", 17),
    ("aspire_sample17/sample_particles_relion31.star", "particles", 17),
    ("cryodrgn_ribosome_tilt220/sta_testing_bin8.star", "", 219),
    ("cryodrgn_empiar10076_7/empiar_10076_7.star", "", 7),
]


@pytest.mark.filterwarnings("ignore::cryozoo.particles.errors.BadInputWarning", "ignore::RuntimeWarning:mrcfile")
@pytest.mark.parametrize(("name", "block", "count"), REAL, ids=[name.split("/")[1] for name, _, _ in REAL])
def test_real_stacks_come_back_with_all_their_columns(tiny, data, tmp_path, name, block, count):
    path = data(f"particles/{name}")
    table = tiny.predict(path)
    table.save(tmp_path / "out.star")
    before, after = (starfile.read(p, always_dict=True) for p in (path, tmp_path / "out.star"))
    assert list(before) == list(after)
    old, new = before[block], after[block]
    assert len(new) == count == len(table)
    ours = {"rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnParticleFigureOfMerit"}
    ours |= {f"rlnOrigin{axis}" for axis in ("X", "Y", "XAngst", "YAngst")}
    assert set(new) - set(old) <= ours
    gone = {"rlnLogLikeliContribution", "rlnMaxValueProbDistribution", "rlnNrOfSignificantSamples"}  # of the old poses
    assert not gone & set(new)
    for label in set(old) - ours - gone:
        assert list(new[label]) == list(old[label]), label
    if "optics" in before:
        assert before["optics"].equals(after["optics"])
    # The angles in the file are those of the network for the image that the row names.
    files = {}
    for row in (0, count - 1):
        number, _, file = str(new["rlnImageName"].iloc[row]).partition("@")
        if file not in files:
            files[file] = mrcfile.open(path.parent / file, permissive=True).data
        pose = bare(tiny, np.array(files[file][int(number) - 1])[None], ParticleStack.open(path).pixel_size)
        angles = new.loc[row, ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy(dtype=float)
        matrix = Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix().T
        np.testing.assert_allclose(matrix, pose.rotation[0].numpy(), rtol=0, atol=1e-4)


def test_phases_are_flipped_by_the_ctf_of_the_table(tmp_path):
    """Flipped by hand, then predicted by the same network without flipping; a table without a CTF is refused."""
    volume = Simulated("phantom:0", Imaging(defocus=(20_000.0, 30_000.0))).simulator(32, 8.0)
    star = tmp_path / "particles.star"
    write_simulated_stack(tmp_path / "particles.mrcs", volume, 6, seed=0)
    arguments = {"image_size": 32, "pixel_size": 8.0, "shift": True}
    torch.manual_seed(0)
    flipping = create_encoder("vgg_gem_xs-qcqp_bingham", ctf="phase_flip", **arguments).eval()
    plain = create_encoder("vgg_gem_xs-qcqp_bingham", **arguments).eval()
    plain.load_state_dict(flipping.state_dict())
    stack = ParticleStack.open(star)
    k = np.stack(np.meshgrid(np.fft.fftfreq(32, 8.0), np.fft.fftfreq(32, 8.0)), -1)
    sign = np.sign(stack.ctf(torch.from_numpy(k)).numpy())
    by_hand = np.fft.ifft2(np.fft.fft2(stack.images(range(6))) * sign).real.astype(np.float32)
    assert_poses(flipping.predict(star, batch_size=4), bare(plain, by_hand, 8.0))
    assert np.abs(plain.predict(star).rotation - flipping.predict(star).rotation).max() > 1e-3
    save_pretrained(flipping, tmp_path / "saved")
    loaded = load_pretrained(f"local-dir:{tmp_path / 'saved'}")
    assert loaded.preprocessing.ctf == "phase_flip"
    with pytest.raises(BadInput, match=r"no CTF; expected defocus.*; take a table that has them"):
        flipping.predict(tmp_path / "particles.mrcs")
    with pytest.warns(BadInputWarning, match="their phases are taken as flipped already"):
        assert_poses(flipping.predict(by_hand, pixel_size=8.0), bare(plain, by_hand, 8.0))


def test_who_stops_in_the_middle_leaves_nothing_to_close():
    """The garbage collector may run in the thread that reads ahead, which cannot wait for itself."""
    readers = {thread for thread in threading.enumerate() if "ThreadPool" in thread.name}
    batches = [range(k, k + 2) for k in range(0, 8, 2)]
    with read_ahead(batches, list, total=8, progress=False, desc="read") as work:
        assert next(work) == (range(2), [0, 1])
    assert {thread for thread in threading.enumerate() if "ThreadPool" in thread.name} == readers
    with ThreadPoolExecutor(1) as another:
        another.submit(work.close).result()
