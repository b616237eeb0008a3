"""Held against mrcfile, which shares only the header's layout with our reader and writer."""

import os
import resource
import subprocess
import sys
import threading
import warnings

import mrcfile
import numpy as np
import pytest

from cryozoo.particles import mrc
from cryozoo.particles.errors import BadInput, BadInputWarning
from cryozoo.particles.mrc import MrcStack, read_volume
from cryozoo.particles.mrc_writer import StackWriter, write_stack, write_volume

DTYPES = {"int8": 0, "int16": 1, "float32": 2, "uint16": 6, "float16": 12}


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(size=(50, 16, 16)).astype(np.float32)


def write_by_mrcfile(path, array, pixel_size=1.5, extended=b""):
    with mrcfile.new(path) as out:
        out.set_data(array)
        out.set_image_stack()
        out.voxel_size = pixel_size
        if extended:
            out.set_extended_header(np.frombuffer(extended, dtype="V1"))
    return path


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("extended", [b"", b"x" * 1000])
def test_read_every_mode_and_byte_order(tmp_path, dtype, order, extended):
    array = (np.random.default_rng(1).normal(size=(7, 12, 12)) * 50 + 60).clip(0, 127)
    array = array.astype(np.dtype(dtype).newbyteorder(order))
    path = write_by_mrcfile(tmp_path / "a.mrcs", array, extended=extended)
    stack = MrcStack(path)
    assert stack.shape == (7, 12, 12)
    assert len(stack) == 7
    assert stack.pixel_size == pytest.approx(1.5, rel=1e-6)
    read = stack.read([6, 0, 3, 3])
    assert read.dtype == np.dtype("f4")  # native
    assert np.array_equal(read, array[[6, 0, 3, 3]].astype(np.float32))
    volume, pixel_size = read_volume(path)
    assert volume.flags.writeable
    assert volume.dtype == np.dtype("f4")
    assert np.array_equal(volume, array.astype(np.float32))
    assert pixel_size == stack.pixel_size


@pytest.mark.parametrize("indices", [[], [49], range(50), range(49, -1, -1), [3, 4, 5, 4, 5, 6, 0, 49, 3]])
def test_any_order_with_repeats(tmp_path, images, indices, monkeypatch):
    monkeypatch.setattr(mrc, "_MAX_BUFFERS", 7)
    stack = MrcStack(write_by_mrcfile(tmp_path / "a.mrcs", images))
    assert np.array_equal(stack.read(indices), images[list(indices)])


def test_neighbours_come_in_one_call(tmp_path, images, monkeypatch):
    stack = MrcStack(write_by_mrcfile(tmp_path / "a.mrcs", images))
    calls = []
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda *a: calls.append(a) or preadv(*a))
    assert np.array_equal(stack.read([12, 30, 10, 11]), images[[12, 30, 10, 11]])
    assert [(len(buffers), position) for _, buffers, position in calls] == [
        (3, 1024 + 10 * 1024),
        (1, 1024 + 30 * 1024),
    ]


def test_short_deliveries_are_continued(tmp_path, images, monkeypatch):
    """The system may return fewer bytes than asked for, anywhere."""
    stack = MrcStack(write_by_mrcfile(tmp_path / "a.mrcs", images))
    pread = os.pread

    def stingy(fd, buffers, position):
        wanted = sum(map(len, buffers))
        data = pread(fd, min(wanted, 700 + position % 700), position)
        left = data
        for buffer in buffers:
            buffer[: len(left)] = left[: len(buffer)]
            left = left[len(buffer) :]
        return len(data)

    monkeypatch.setattr(os, "preadv", stingy)
    assert np.array_equal(stack.read(range(50)), images)
    assert np.array_equal(stack.read([40, 2, 3]), images[[40, 2, 3]])


@pytest.mark.parametrize("index", [-1, 50])
def test_index_outside(tmp_path, images, index):
    with pytest.raises(IndexError, match=r"a\.mrcs: image .* of 50"):
        MrcStack(write_by_mrcfile(tmp_path / "a.mrcs", images)).read([0, index])


def test_reads_into_what_is_there(tmp_path, images):
    stack = MrcStack(write_by_mrcfile(tmp_path / "a.mrcs", images))
    out = np.zeros((5, 16, 16), dtype=np.float32)
    stack.read_into(out, np.array([4, 0]), np.array([7, 30]))
    assert np.array_equal(out, [images[30], *np.zeros((3, 16, 16)), images[7]])
    for wrong in (out[:, :8], out.astype(float), out.transpose(0, 2, 1)):
        with pytest.raises(ValueError, match="cannot take images"):
            stack.read_into(wrong, np.array([0]), np.array([0]))


def test_one_image_is_a_stack_of_one(tmp_path, images):
    with mrcfile.new(tmp_path / "one.mrc") as out:
        out.set_data(images[0])
    assert np.array_equal(MrcStack(tmp_path / "one.mrc").read([0]), images[:1])


def test_stack_can_be_read_from_many_threads(tmp_path, images):
    stack = MrcStack(write_by_mrcfile(tmp_path / "a.mrcs", images))
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(50):
            indices = rng.integers(0, 50, 20)
            if not np.array_equal(stack.read(indices), images[indices]):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_what_is_written_is_a_valid_file_with_the_same_values(tmp_path, images, dtype, capsys):
    images = images[:, :8, :8].astype(dtype)
    kept = images if dtype == "float16" else images.astype(np.float32)
    path = tmp_path / "a.mrcs"
    write_stack(path, images, 2.5)
    if dtype != "float16":  # mrcfile 1.5.4 takes the deviation of float16 in float16
        assert mrcfile.validate(path), capsys.readouterr().out
    with mrcfile.open(path) as file:
        assert file.is_image_stack()
        assert file.data.dtype == kept.dtype
        assert np.array_equal(file.data, kept)
        assert file.voxel_size.x == file.voxel_size.y == file.voxel_size.z == 2.5
    volume = tmp_path / "v.mrc"
    write_volume(volume, images[:8], 2.5)
    with mrcfile.open(volume) as file:
        assert file.is_volume()
        assert np.array_equal(file.data, kept[:8])
        assert file.voxel_size.z == 2.5
    assert mrcfile.validate(volume) or dtype == "float16"


def test_writer_streams_and_repeats_byte_for_byte(tmp_path, images, capsys):
    write_stack(tmp_path / "whole.mrcs", images, 1.1)
    with StackWriter(tmp_path / "parts.mrcs", count=50, image_size=16, pixel_size=1.1) as writer:
        for part in np.split(images, [10, 10, 37]):
            writer.write(part)
        assert not (tmp_path / "parts.mrcs").exists()
    assert mrcfile.validate(tmp_path / "parts.mrcs"), capsys.readouterr().out
    whole, parts = ((tmp_path / name).read_bytes() for name in ("whole.mrcs", "parts.mrcs"))
    assert whole[1024:] == parts[1024:]


@pytest.mark.parametrize("count", [3, 7])
def test_writer_with_a_wrong_count_leaves_nothing(tmp_path, images, count):
    with (
        pytest.raises(ValueError, match="for a stack of"),
        StackWriter(tmp_path / "a.mrcs", count=count, image_size=16, pixel_size=1) as writer,
    ):
        writer.write(images[:5])
    assert os.listdir(tmp_path) == []


def test_writer_that_is_interrupted_leaves_nothing(tmp_path, images):
    def write():
        with StackWriter(tmp_path / "a.mrcs", count=50, image_size=16, pixel_size=1) as writer:
            writer.write(images[:5])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert os.listdir(tmp_path) == []


def test_disk_full_while_writing(tmp_path):
    """A limit on the size of a file stands in for a full disk: write() fails in the same place."""
    code = """
import sys
import numpy as np
from cryozoo.particles.mrc_writer import write_stack
try:
    write_stack(sys.argv[1], np.zeros((100, 64, 64)), 1.0)
except ValueError as error:
    print(error)
"""
    limit = (200_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.mrcs"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{tmp_path}/a.mrcs: cannot be written: File too large\n"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("pixel_size", [0, -1, float("nan")])
def test_writer_wants_a_pixel_size(tmp_path, images, pixel_size):
    with pytest.raises(ValueError, match="pixel size"):
        write_stack(tmp_path / "a.mrcs", images, pixel_size)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_what_is_not_finite_is_not_written(tmp_path, images, value):
    images = images.astype(np.float64)
    images[3, 2, 1] = value
    for write in (write_stack, write_volume):
        with np.errstate(over="ignore"), pytest.raises(ValueError, match="1 values are NaN or infinite in float32"):
            write(tmp_path / "v.mrc", images, 1.0)
    assert os.listdir(tmp_path) == []


def test_volume_with_nan_is_refused(tmp_path, images):
    with warnings.catch_warnings(), mrcfile.new(tmp_path / "v.mrc") as file:
        warnings.simplefilter("ignore")  # about what is not finite
        images[3, 2, 1] = np.nan
        file.set_data(images.astype(np.float32))
    with pytest.raises(BadInput, match=r"v\.mrc: 1 voxels are NaN or infinite"):
        read_volume(tmp_path / "v.mrc")


@pytest.mark.parametrize(
    ("path", "count", "size", "pixel_size"),
    [
        ("aspire_relion_project/rln_proj_64_shifted.mrcs", 4, 64, 1.0),
        ("bioem_particles/OneImage.mrc", 1, 220, None),  # cell of 0.05 Angstrom
        ("simplecryoem_relion_project24/relion_proj_batch.mrcs", 24, 64, 3.54),
    ],
)
def test_real_stacks(data, path, count, size, pixel_size):
    path = data("particles") / path
    stack = MrcStack(path)
    assert stack.shape == (count, size, size)
    assert stack.pixel_size == (pixel_size and pytest.approx(pixel_size))
    expected = mrcfile.read(path).reshape(stack.shape)
    assert np.array_equal(stack.read(range(count)), expected)


def test_real_stacks_with_damaged_headers(data):
    for name in ("cryodrgn_relion31_5/relion31.mrcs", "cryodrgn_toy1000/toy_projections.mrcs"):
        path = data("particles") / name
        with pytest.warns(BadInputWarning) as seen:
            stack = MrcStack(path)
        assert [str(w.message) for w in seen] == [
            f"{path}: the header has no MAP identifier",
            f"{path}: the header has no valid machine stamp; read as little-endian",
        ]
        with pytest.warns(RuntimeWarning), mrcfile.open(path, permissive=True) as file:
            assert np.array_equal(stack.read([0, len(stack) - 1]), file.data[[0, -1]])


def test_real_stack_that_holds_one_of_the_11029_images_it_claims(data):
    path = data("particles") / "drgnai_ribosome_tilts10/00256_Ribosomes_1.70A.mrcs"
    with pytest.raises(BadInput, match=r"1 complete images .* expected 11029"):
        MrcStack(path)
    with pytest.warns(BadInputWarning, match="fewer images than its header claims"):
        stack = MrcStack(path, allow_truncated=True)
    assert stack.shape == (1, 128, 128)
    assert np.array_equal(stack.read([0])[0].ravel(), np.fromfile(path, "<f4", offset=1024))


def test_real_maps(data):
    for path in sorted(data("maps").glob("*.mrc")):
        volume, pixel_size = read_volume(path)
        with mrcfile.open(path) as file:
            assert np.array_equal(volume, file.data.astype(np.float32))
            assert pixel_size == pytest.approx(float(file.voxel_size.x))
