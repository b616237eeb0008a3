"""A prediction that did not come to its end goes on to the same poses, bit for bit, and to those of nothing else."""

import re
import shutil

import numpy as np
import pytest

from cryozoo.particles.errors import BadInputWarning
from cryozoo.particles.poses import PoseTable
from cryozoo.particles.stack import ParticleStack
from cryozoo.zoo.pretrained import load_pretrained
from cryozoo.zoo.unfinished import Unfinished


@pytest.fixture
def encoder(tiny_folder):
    return load_pretrained(f"local-dir:{tiny_folder}")


def interrupted(encoder, stack, out, batches=2, batch_size=5):
    """What is left when the batch after these fails, and the file it is in."""
    unfinished, tables = Unfinished(out, encoder, stack, batch_size), []

    def stop(table):
        tables.append(table)
        if len(tables) == batches:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        encoder.predict(stack, batch_size=batch_size, on_batch=stop)
    return unfinished.keep(tables)


def assert_same_bits(one, two):
    for name in ("rotation", "shift", "confidence"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


@pytest.mark.parametrize("batches", [1, 2, 4, 5])
def test_the_end_is_the_same_bit_for_bit(encoder, stack, tmp_path, batches):
    particles, out = ParticleStack.open(stack), tmp_path / "poses.star"
    kept = interrupted(encoder, particles, out, batches)
    seen = []
    handle = encoder.register_forward_pre_hook(lambda module, images: seen.append(len(images[0])))
    unfinished = Unfinished(out, encoder, ParticleStack.open(stack), 5)
    poses = encoder.predict(particles, batch_size=5, done=unfinished.done)
    handle.remove()
    assert seen == [5, 5, 5, 5, 3][batches:]
    assert_same_bits(poses, encoder.predict(particles, batch_size=5))
    unfinished.remove()
    assert not kept.exists()


def test_a_second_stop_replaces_the_first(encoder, stack, tmp_path):
    particles, out = ParticleStack.open(stack), tmp_path / "poses.star"
    first = interrupted(encoder, particles, out)
    unfinished = Unfinished(out, encoder, particles, 5)
    more = encoder.predict(particles, batch_size=5).subset(range(10, 15))
    second = unfinished.keep([unfinished.done, more])
    assert list(tmp_path.glob("*.partial-*")) == [second]
    assert second != first
    assert len(PoseTable.load(second)) == 15


def test_rows_that_are_left_out_later_do_not_matter(encoder, stack, tmp_path):
    particles = ParticleStack.open(stack)
    interrupted(encoder, particles, tmp_path / "poses.star")
    fewer = particles.subset(np.delete(np.arange(23), 17))
    unfinished = Unfinished(tmp_path / "poses.star", encoder, fewer, 5)
    assert unfinished.done is not None
    assert_same_bits(encoder.predict(fewer, batch_size=5, done=unfinished.done), encoder.predict(fewer, batch_size=5))


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
    with pytest.warns(BadInputWarning, match=re.escape(str(tmp_path)) + ".* is of other particles, another encoder"):
        assert Unfinished(out, encoder, particles, batch_size).done is None


def test_what_was_left_of_another_output_is_none_of_our_business(encoder, stack, tmp_path):
    particles = ParticleStack.open(stack)
    interrupted(encoder, particles, tmp_path / "other.star")
    assert Unfinished(tmp_path / "poses.star", encoder, particles, 5).done is None


def test_poses_that_are_no_whole_batches_are_refused(encoder, stack):
    done = encoder.predict(stack, batch_size=5)
    assert_same_bits(encoder.predict(stack, batch_size=5, done=done), done)
    for rows, batch_size in ((7, 5), (10, 4)):
        with pytest.raises(ValueError, match=f"{rows} poses are done: no whole batches of {batch_size} of 23"):
            encoder.predict(stack, batch_size=batch_size, done=done.subset(range(rows)))
