"""Work that did not come to its end goes on to the same poses, bit for bit, and to those of nothing else."""

import contextlib
import re
import shutil

import numpy as np
import pytest

from cryozoo.particles.errors import BadInputWarning
from cryozoo.particles.poses import PoseTable
from cryozoo.particles.stack import ParticleStack
from cryozoo.zoo import unfinished as module
from cryozoo.zoo.entry import MODEL
from cryozoo.zoo.pretrained import load_pretrained
from cryozoo.zoo.unfinished import Unfinished


@pytest.fixture
def encoder(tiny_folder):
    return load_pretrained(f"local-dir:{tiny_folder}")


def kept_beside(out, encoder, stack, batch_size=5):
    """As the command line keeps predictions."""
    return Unfinished(out, stack, (encoder.config, encoder.entry.files[MODEL].sha256, batch_size))


def columns(table):
    return {name: getattr(table, name) for name in ("rotation", "shift", "confidence")}


def done(unfinished):
    return PoseTable(**unfinished.done)


def interrupted(encoder, stack, out, batches=2, batch_size=5):
    """The file of what is left when the batch after these fails."""
    unfinished, tables = kept_beside(out, encoder, stack, batch_size), []

    def stop(table):
        tables.append(table)
        unfinished.add(columns(table))
        if len(tables) == batches:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough") as caught, unfinished.kept_on_failure():
        encoder.predict(stack, batch_size=batch_size, on_batch=stop)
    (kept,) = out.parent.glob(f"{out.stem}.partial-*")
    assert f"finished ones are kept in {kept}; the same command goes on" in caught.value.__notes__[0]
    return kept


def assert_same_bits(one, two):
    for name in ("rotation", "shift", "confidence"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


@pytest.mark.parametrize("batches", [1, 2, 4, 5])
def test_the_end_is_the_same_bit_for_bit(encoder, stack, tmp_path, batches):
    particles, out = ParticleStack.open(stack), tmp_path / "poses.star"
    kept = interrupted(encoder, particles, out, batches)
    seen = []
    handle = encoder.register_forward_pre_hook(lambda module, images: seen.append(len(images[0])))
    unfinished = kept_beside(out, encoder, ParticleStack.open(stack))
    poses = encoder.predict(particles, batch_size=5, done=done(unfinished))
    handle.remove()
    assert seen == [5, 5, 5, 5, 3][batches:]
    assert_same_bits(poses, encoder.predict(particles, batch_size=5))
    unfinished.remove()
    assert not kept.exists()


def test_a_second_stop_replaces_the_first(encoder, stack, tmp_path):
    particles, out = ParticleStack.open(stack), tmp_path / "poses.star"
    first = interrupted(encoder, particles, out)
    unfinished = kept_beside(out, encoder, particles)
    more = encoder.predict(particles, batch_size=5).subset(range(10, 15))
    unfinished.add(columns(more))
    second = unfinished.keep()
    assert list(tmp_path.glob("*.partial-*")) == [second]
    assert second != first
    assert len(done(kept_beside(out, encoder, particles))) == 15


def test_rows_that_are_left_out_later_do_not_matter(encoder, stack, tmp_path):
    particles = ParticleStack.open(stack)
    interrupted(encoder, particles, tmp_path / "poses.star")
    fewer = particles.subset(np.delete(np.arange(23), 17))
    unfinished = kept_beside(tmp_path / "poses.star", encoder, fewer)
    assert unfinished.done is not None
    assert_same_bits(encoder.predict(fewer, batch_size=5, done=done(unfinished)), encoder.predict(fewer, batch_size=5))


@pytest.mark.parametrize(
    "change", ["order", "pixels", "pixel size", "invert", "batch size", "weights", "fewer", "damage", "name"]
)
def test_what_does_not_match_is_said_and_begun_anew(encoder, stack, tmp_path, pixels, change):
    out, batch_size = tmp_path / "poses.star", 5
    kept = interrupted(encoder, ParticleStack.open(stack), out)
    if change == "pixels":
        pixels[3] += 1
        pixels.flush()
    particles = ParticleStack.open(stack, pixel_size=5.01 if change == "pixel size" else None)
    particles.inverted = change == "invert"
    if change == "order":
        particles = particles.subset([1, 0, *range(2, 23)])
    elif change == "fewer":
        particles = particles.subset(range(7))
    elif change == "batch size":
        batch_size = 2
    elif change == "weights":
        facts = {name: type(f)(f.size, "0" * 64) for name, f in encoder.entry.files.items()}
        encoder.entry = type(encoder.entry)(**{**vars(encoder.entry), "files": facts})
    elif change == "damage":
        kept.write_bytes(kept.read_bytes()[:-200])
    elif change == "name":  # as if they were of other particles
        shutil.move(kept, kept.with_name("poses.partial-0123456789abcdef.npz"))
    with pytest.warns(
        BadInputWarning,
        match=re.escape(str(tmp_path)) + ".* is damaged, of other particles, or was made with other settings",
    ):
        assert kept_beside(out, encoder, particles, batch_size).done is None


def test_what_was_left_of_another_output_is_none_of_our_business(encoder, stack, tmp_path):
    particles = ParticleStack.open(stack)
    interrupted(encoder, particles, tmp_path / "other.star")
    assert kept_beside(tmp_path / "poses.star", encoder, particles).done is None


def test_poses_that_are_no_whole_batches_are_refused(encoder, stack):
    whole = encoder.predict(stack, batch_size=5)
    assert_same_bits(encoder.predict(stack, batch_size=5, done=whole), whole)
    for rows, batch_size in ((7, 5), (10, 4)):
        with pytest.raises(ValueError, match=f"{rows} poses are done: no whole batches of {batch_size} of 23"):
            encoder.predict(stack, batch_size=batch_size, done=whole.subset(range(rows)))


def test_what_is_new_is_written_once_a_minute(encoder, stack, tmp_path, monkeypatch):
    """For those that are killed and cannot say goodbye."""
    particles, out = ParticleStack.open(stack), tmp_path / "poses.star"
    unfinished = kept_beside(out, encoder, particles)
    whole = encoder.predict(particles, batch_size=5)
    unfinished.add(columns(whole.subset(range(5))))
    assert not list(tmp_path.glob("*.partial-*"))
    monkeypatch.setattr(module, "_SECONDS", 0.0)
    unfinished.add(columns(whole.subset(range(5, 10))))
    assert_same_bits(done(kept_beside(out, encoder, particles)), whole.subset(range(10)))


@pytest.mark.parametrize("whole", [False, True])
def test_of_all_images_the_whole_table_counts(encoder, stack, tmp_path, whole):
    """The noise of a match is that of all particles: then also what comes later must be the same."""
    particles, out = ParticleStack.open(stack), tmp_path / "poses.star"
    unfinished = Unfinished(out, particles, "match", whole=whole)
    unfinished.add({"score": np.zeros(5)})
    unfinished.keep()
    fewer = particles.subset(range(20))
    with contextlib.nullcontext() if not whole else pytest.warns(BadInputWarning, match="begins anew"):
        assert (Unfinished(out, fewer, "match", whole=whole).done is None) == whole
