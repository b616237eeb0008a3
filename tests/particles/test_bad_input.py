"""The catalogue of bad input, row by row: what comes in broken or hostile, and what has to happen.

A refusal is a ``BadInput`` in one line that names the file and the place in it, within seconds, within the memory that
the input takes plus 500 MB, and runs no code from the file. What only looks odd is accepted with a counted warning.
Row 29 (a box that is not the model's) needs a model and is tested with the models.
"""

import errno
import gzip
import os
import pickle
import resource
import struct
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from numpy.lib.recfunctions import repack_fields
from scipy.spatial.transform import Rotation

from cryozoo.particles.cs import read_cs
from cryozoo.particles.errors import BadInput, BadInputWarning
from cryozoo.particles.mrc import MrcStack, read_volume
from cryozoo.particles.poses import PoseTable
from cryozoo.particles.stack import ParticleStack
from cryozoo.particles.star import StarFile

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(4, 16, 16)).astype("<f4")
ROTATION = Rotation.random(4, rng=np.random.default_rng(0)).as_matrix()
SHIFT = np.array([[0.1, 0.2], [-0.3, 0.4], [0.0, 0.0], [0.5, -0.5]])
MEGABYTE = 1 << 20

ROWS: list = []


def row(number: int, *values: object) -> Callable:
    """Register a check of one row of the catalogue, once for each of ``values``."""

    def register(check: Callable) -> Callable:
        for value in values or (None,):
            name = f"{number}-{check.__name__}" + (f"-{str(value)[:30]}" if values else "")
            ROWS.append(pytest.param(check, value, id=name))
        return check

    return register


@pytest.mark.parametrize(("check", "value"), ROWS)
def test_row(tmp_path, monkeypatch, check, value):
    monkeypatch.chdir(tmp_path)
    started = time.process_time()
    check(tmp_path, *(() if value is None else (value,)))
    assert time.process_time() - started < 5
    assert not (tmp_path / "canary").exists()


def refused(read: Callable, path: Path, *words: str) -> str:
    """Reading must be refused in one line that begins with the file and has all of the words."""
    with pytest.raises(BadInput) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(str(path)), message
    assert "\n" not in message
    assert len(message) < 1000, message
    assert all(word in message for word in words), message
    return message


def odd(read: Callable, path: Path, *words: str) -> object:
    """Reading must succeed with one warning that names the file and has all of the words."""
    with pytest.warns(BadInputWarning) as seen:
        result = read(path)
    assert len(seen) == 1, [str(w.message) for w in seen]
    message = str(seen[0].message)
    assert message.startswith(str(path)), message
    assert all(word in message for word in words), message
    return result


# ---------------------------------------------------------------------------------------------------------- MRC


def mrc(folder: Path, images: np.ndarray = IMAGES, **header: object) -> Path:
    """A valid stack by mrcfile, with header fields overwritten; ``_name=value`` for the nested ones."""
    path = folder / "a.mrcs"
    with mrcfile.new(path, overwrite=True) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # statistics of NaN
        file.set_data(images)
        file.set_image_stack()
        file.voxel_size = 1.5
    content = bytearray(path.read_bytes())
    if header:
        view = np.frombuffer(content, mrcfile.dtypes.HEADER_DTYPE, 1)
        for name, value in header.items():
            view[name] = value
    path.write_bytes(content)
    return path


def same(path: Path, images: np.ndarray = IMAGES) -> None:
    assert np.array_equal(MrcStack(path).read(range(len(images))), images.astype("f4"))


@row(1)
def empty(folder):
    path = folder / "a.mrcs"
    path.touch()
    refused(MrcStack, path, "an empty file")


@row(2)
def short_of_a_header(folder):
    path = mrc(folder)
    path.write_bytes(path.read_bytes()[:1023])
    refused(MrcStack, path, "1023 bytes", "1024")


@row(3, 1024, 1024 + 1023)
def header_without_images(folder, size):
    path = mrc(folder)
    path.write_bytes(path.read_bytes()[:size])
    refused(MrcStack, path, "0 complete", "expected 4")
    refused(lambda p: MrcStack(p, allow_truncated=True), path, "0 complete")
    refused(read_volume, path, "0 complete")


@row(4)
def cut_in_the_third_image(folder):
    path = mrc(folder)
    path.write_bytes(path.read_bytes()[: 1024 + 2 * 1024 + 500])
    refused(MrcStack, path, "2 complete images", "expected 4", "skip_bad")
    stack = odd(lambda p: MrcStack(p, allow_truncated=True), path, "fewer images")
    assert np.array_equal(stack.read([0, 1]), IMAGES[:2])
    assert len(odd(lambda p: ParticleStack.open(p, skip_bad=True), path, "fewer images")) == 2


@row(5)
def trailing_bytes(folder):
    path = mrc(folder)
    path.write_bytes(path.read_bytes() + bytes(100))
    stack = odd(MrcStack, path, "bytes follow the last image")
    assert np.array_equal(stack.read(range(4)), IMAGES)


@row(6, "nx", "ny", "nz")
def size_zero(folder, field):
    refused(MrcStack, mrc(folder, **{field: 0}), "positive sizes")


@row(7, "nx", "ny", "nz")
def size_negative(folder, field):
    refused(MrcStack, mrc(folder, **{field: -16}), "-16", "positive sizes")


@row(8)
def size_huge(folder):
    bounded(folder, mrc(folder, nx=2**31 - 1), "from cryozoo.particles.mrc import MrcStack as read", "0 complete")


@row(9)
def a_thousand_million_images(folder):
    path = mrc(folder, nz=10**9)
    bounded(folder, path, "from cryozoo.particles.mrc import MrcStack as read", "4 complete images")
    bounded(folder, path, "from cryozoo.particles.mrc import read_volume as read", "4 complete images")


@row(10)
def product_beyond_64_bits(folder):
    path = mrc(folder, nx=2**31 - 1, ny=2**31 - 1, nz=2**31 - 1)
    bounded(folder, path, "from cryozoo.particles.mrc import MrcStack as read", "0 complete")
    # A product that is 0 modulo 2^64.
    path = mrc(folder, nx=2**24, ny=2**24, nz=2**24)
    bounded(folder, path, "from cryozoo.particles.mrc import read_volume as read", "0 complete")


@row(11, 99, -1, 101)
def unknown_mode(folder, mode):
    refused(MrcStack, mrc(folder, mode=mode), f"mode {mode}", "expected one of the modes [0, 1, 2, 6, 12]")


@row(12, 3, 4)
def complex_mode(folder, mode):
    refused(MrcStack, mrc(folder, mode=mode), f"mode {mode}", "complex")


@row(13)
def float16(folder):
    same(mrc(folder, IMAGES.astype("f2")), IMAGES.astype("f2"))


@row(14, "int8", "int16", "uint16")
def integers(folder, dtype):
    images = RNG.integers(0, 128, (4, 16, 16)).astype(dtype)
    same(mrc(folder, images), images)


@row(15)
def no_map_identifier(folder):
    path = mrc(folder, map=b"ABCD")
    stack = odd(MrcStack, path, "no MAP identifier")
    assert np.array_equal(stack.read(range(4)), IMAGES)
    path.write_bytes(path.read_bytes()[:-1])
    refused(MrcStack, path, "damaged header", "expected an MRC file")


@row(16)
def bad_machine_stamp(folder):
    path = mrc(folder, machst=(0, 0, 0, 0))
    stack = odd(MrcStack, path, "machine stamp", "little-endian")
    assert np.array_equal(stack.read(range(4)), IMAGES)
    path.write_bytes(path.read_bytes() + b"x")
    refused(MrcStack, path, "damaged header")


@row(17)
def big_endian(folder):
    path = mrc(folder, IMAGES.astype(">f4"))
    assert path.read_bytes()[212:214] == b"\x11\x11"
    same(path)


@row(18)
def stamp_says_big_and_data_are_little(folder):
    refused(MrcStack, mrc(folder, machst=(0x11, 0x11, 0, 0)), "big-endian header")


@row(19)
def negative_extended_header(folder):
    refused(MrcStack, mrc(folder, nsymbt=-1), "extended header of -1 bytes")


@row(20)
def huge_extended_header(folder):
    path = mrc(folder, nsymbt=2**31 - 1)
    bounded(folder, path, "from cryozoo.particles.mrc import MrcStack as read", "0 complete")


@row(21)
def valid_extended_header(folder):
    path = mrc(folder)
    content = bytearray(path.read_bytes())
    content[92:96] = struct.pack("<i", 77)
    path.write_bytes(content[:1024] + bytes(77) + content[1024:])
    same(path)


@row(22)
def no_cell(folder):
    path = mrc(folder, cella=(0, 0, 0))
    assert MrcStack(path).pixel_size is None
    refused(ParticleStack.open, path, "no pixel size", "give pixel_size")
    assert ParticleStack.open(star(folder)).pixel_size == 1.5


@row(23, float("nan"), -24.0, float("inf"))
def nonsense_cell(folder, value):
    path = mrc(folder, cella=(value, value, value))
    refused(ParticleStack.open, path, "no pixel size", "give pixel_size")
    assert ParticleStack.open(path, pixel_size=2.0).pixel_size == 2.0


@row(24)
def pixel_sizes_disagree(folder):
    mrc(folder, cella=(32, 32, 2))
    stack = odd(ParticleStack.open, star(folder), "pixels have 2 Angstrom; 1.5 are used", "a.mrcs")
    assert stack.pixel_size == 1.5
    mrc(folder, cella=(24.1, 24.1, 1.5))  # 0.4 %
    ParticleStack.open(star(folder))


@row(25)
def other_axes(folder):
    refused(MrcStack, mrc(folder, mapc=3, maps=1), "axes in the order (3, 2, 1)")


@row(26)
def volume_given_as_stack(folder):
    odd(MrcStack, mrc(folder, ispg=1), "says that this is a volume")


@row(27)
def not_square(folder):
    refused(MrcStack, mrc(folder, IMAGES[:, :8]), "16 x 8", "expected square images")


@row(28)
def odd_box(folder):
    images = RNG.normal(size=(3, 65, 65)).astype("f4")
    path = mrc(folder, images)
    same(path, images)
    assert ParticleStack.open(path).image_size == 65


@row(30, np.nan)
@row(31, np.inf, -np.inf)
@row(32, "constant")
@row(33, "zero")
@row(35, 1e30)
def bad_image(folder, value):
    images = IMAGES.copy()
    if isinstance(value, str):
        images[2] = 3 if value == "constant" else 0
    else:
        images[2, 5, 5] = value
    mrc(folder, images)
    path = star(folder)
    stack = ParticleStack.open(path)
    assert np.array_equal(stack.images([0, 1, 3]), IMAGES[[0, 1, 3]])
    message = refused(lambda _: stack.images(range(4)), path, "row 3 (line 25)", "image 3 of", "a.mrcs", "skip_bad")
    assert ("constant" in message) == isinstance(value, str)
    kept = odd(lambda p: ParticleStack.open(p, skip_bad=True), path, "left out", "row 3")
    assert np.array_equal(kept.images(range(3)), IMAGES[[0, 1, 3]])


@row(34)
def inverted_contrast(folder):
    y, x = np.indices((16, 16)) - 8
    particle = np.exp(-(x**2 + y**2) / 10)
    noise = RNG.normal(size=(40, 16, 16))
    ParticleStack.open(mrc(folder, (noise + particle).astype("f4")))
    odd(ParticleStack.open, mrc(folder, (noise - particle).astype("f4")), "darker", "invert the images")


@row(36, "gzip", "web page", "zip", "TIFF", "numpy")
def another_kind_of_file(folder, kind):
    path = folder / "a.mrcs"
    content = {
        "gzip": gzip.compress(mrc(folder).read_bytes()),
        "web page": b"<!DOCTYPE html>\n<title>404</title>" + b" " * 2000,
        "zip": b"PK\x03\x04" + bytes(2000),
        "TIFF": b"II*\0" + bytes(2000),
        "numpy": b"\x93NUMPY\x01\x00" + bytes(2000),
    }[kind]
    path.write_bytes(content)
    refused(MrcStack, path, kind, "expected an MRC file")


@row(37)
def not_a_file(folder):
    (folder / "folder.mrcs").mkdir()
    os.mkfifo(folder / "pipe.mrcs")
    (folder / "device.mrcs").symlink_to("/dev/zero")
    for name, kind in (("folder", "a folder"), ("pipe", "a named pipe"), ("device", "a device"), ("none", "No such")):
        for read in (MrcStack, read_volume, ParticleStack.open):
            refused(read, folder / f"{name}.mrcs", kind)
    path = mrc(folder)
    with pytest.MonkeyPatch.context() as patch:  # the tests may run as root, who is permitted everything

        def denied(*_):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        patch.setattr(os, "open", denied)
        refused(MrcStack, path, "Permission denied")


@row(38)
def changed_while_running(folder):
    images = RNG.normal(size=(1000, 16, 16)).astype("f4")
    for opened in (lambda path: MrcStack(path).read, lambda path: ParticleStack.open(path).images):
        path = mrc(folder, images)
        read = opened(path)
        assert np.array_equal(read([999]), images[[999]])
        with open(path, "r+b") as handle:
            handle.truncate(2000)
        refused(lambda _, read=read: read([999]), path, "changed since it was opened")
        path.unlink()
        refused(lambda _, read=read: read([999]), path, "No such file")


@row(38)
def cut_short_in_the_middle_of_a_read(folder):
    images = RNG.normal(size=(1000, 16, 16)).astype("f4")
    path = mrc(folder, images)
    stack = MrcStack(path)
    preadv = os.preadv

    def cut(fd, buffers, position):
        with open(path, "r+b") as handle:
            handle.truncate(5000)
        return preadv(fd, buffers, position)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "preadv", cut)
        refused(lambda _: stack.read([2, 3, 4, 5, 6]), path, "cut short while it was read")


# --------------------------------------------------------------------------------------------------------- STAR

OPTICS = """
# version 30001

data_optics

loop_
_rlnOpticsGroup #1
_rlnVoltage #2
_rlnImagePixelSize #3
_rlnImageSize #4
1 300.0 1.5 16

"""
PARTICLES = """# version 30001

data_particles

loop_
_rlnImageName #1
_rlnOpticsGroup #2
_rlnAngleRot #3
_rlnAngleTilt #4
_rlnAnglePsi #5
1@a.mrcs 1 10 20 30
2@a.mrcs 1 11 21 31
3@a.mrcs 1 12 22 32
4@a.mrcs 1 13 23 33
"""


def star(folder: Path, *changes: tuple[str, str], text: str = OPTICS + PARTICLES) -> Path:
    """The table above for the stack ``a.mrcs``, with pieces of its text replaced."""
    if not (folder / "a.mrcs").exists():
        mrc(folder)
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = folder / "a.star"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return path


def both_refuse(path: Path, *words: str) -> None:
    refused(ParticleStack.open, path, *words)
    refused(PoseTable.load, path, *words)


@row(0)
def the_table_that_is_broken_below_is_fine(folder):
    stack = ParticleStack.open(star(folder))
    assert np.array_equal(stack.images(range(4)), IMAGES)
    assert len(stack.poses) == 4


@row(39, "", "\n\n", "hello\n", "# data_particles\n")
def no_blocks(folder, text):
    both_refuse(star(folder, text=text), "expected")


@row(40)
def only_optics(folder):
    both_refuse(star(folder, text=OPTICS), "0 blocks with particles", "data_optics")


@row(41)
def no_rows(folder):
    both_refuse(star(folder, text=OPTICS + PARTICLES.split("1@")[0]), "data_particles: 0 particles")


@row(42)
def no_optics(folder):
    refused(ParticleStack.open, star(folder, text=PARTICLES), "optics groups and no data_optics")


@row(43)
def relion_30(folder):
    text = """
data_

loop_
_rlnImageName
_rlnOriginX
_rlnOriginY
_rlnAngleRot
_rlnAngleTilt
_rlnAnglePsi
_rlnDetectorPixelSize
_rlnMagnification
1@a.mrcs 2.0 -4.0 10 20 30 7.5 50000
"""
    stack = ParticleStack.open(star(folder, text=text))
    assert stack.pixel_size == 1.5
    assert stack.poses.shift.tolist() == [[-3, 6]]


@row(44)
def undefined_optics_group(folder):
    both_refuse(star(folder, ("3@a.mrcs 1", "3@a.mrcs 7")), "row 3 (line 25), rlnOpticsGroup", "7", "one of [1]")


@row(45, "2 300.0 3.0 16", "2 300.0 1.5 32")
def two_groups_that_differ(folder, group):
    path = star(folder, ("1 300.0 1.5 16\n", f"1 300.0 1.5 16\n{group}\n"), ("3@a.mrcs 1", "3@a.mrcs 2"))
    both_refuse(path, "in row 1 and", "in row 3", "split the table")
    # A group that no particle is in does no harm.
    ParticleStack.open(star(folder, ("1 300.0 1.5 16\n", f"1 300.0 1.5 16\n{group}\n")))


@row(46)
def short_row(folder):
    both_refuse(star(folder, ("3@a.mrcs 1 12 22 32", "3@a.mrcs 1 12 22")), "line 25: 4 values; expected 5")


@row(47)
def long_row(folder):
    both_refuse(star(folder, ("3@a.mrcs 1 12 22 32", "3@a.mrcs 1 12 22 32 5")), "line 25: 6 values; expected 5")


@row(48)
def text_in_an_angle(folder):
    both_refuse(
        star(folder, ("12 22 32", "12 abc 32")), "row 3 (line 25), rlnAngleTilt: 'abc'; expected a finite number"
    )


@row(49, "nan", "-nan", "inf", "<NA>", "1e999")
def not_a_finite_number(folder, cell):
    both_refuse(star(folder, ("12 22 32", f"12 {cell} 32")), f"row 3 (line 25), rlnAngleTilt: '{cell}'")


@row(50)
def duplicate_column(folder):
    both_refuse(star(folder, ("_rlnAngleTilt", "_rlnAngleRot")), "line 21: a second column rlnAngleRot")


@row(51)
def duplicate_block(folder):
    both_refuse(star(folder, text=OPTICS + PARTICLES + PARTICLES), "line 29: a second block data_particles")


@row(52)
def index_0(folder):
    both_refuse(star(folder, ("3@a.mrcs", "000000@a.mrcs")), "row 3 (line 25), rlnImageName", "a number from 1")


@row(53)
def index_beyond_the_stack(folder):
    path = star(folder, ("3@a.mrcs", "5@a.mrcs"))
    refused(ParticleStack.open, path, "row 3 (line 25)", "image 5; expected 1 to 4")
    kept = odd(lambda p: ParticleStack.open(p, skip_bad=True), path, "left out", "row 3")
    assert np.array_equal(kept.images(range(3)), IMAGES[[0, 1, 3]])


@row(54, "-1@a.mrcs", "x@a.mrcs", "1@2@a.mrcs", "a.mrcs", "1@", "@a.mrcs", "1.0@a.mrcs", "²@a.mrcs", "9" * 5000 + "@a")
def no_image_name(folder, name):
    both_refuse(star(folder, ("3@a.mrcs", name)), "row 3 (line 25), rlnImageName", "000001@stack.mrcs")


@row(55)
def missing_stack(folder):
    path = star(folder, ("3@a.mrcs", "3@Extract/b.mrcs"))
    refused(ParticleStack.open, path, "row 3 (line 25): image file 'Extract/b.mrcs' is missing", str(folder), "datadir")


@row(56, "../../../../../../../../../../etc/passwd", "../a.mrcs", "x/../../a.mrcs")
def parent_folders(folder, name):
    (folder / "job/x").mkdir(parents=True)
    mrc(folder)
    path = star(folder, ("3@a.mrcs", f"3@{name}"), ("1@a.mrcs", "1@b.mrcs"), ("2@a.mrcs", "2@b.mrcs"))
    (folder / "a.mrcs").rename(folder / "job/b.mrcs")
    mrc(folder)
    path = path.rename(folder / "job/a.star")
    refused(ParticleStack.open, path, "row 3 (line 25)", "leads out to", "--datadir")


@row(57)
def absolute_path(folder):
    (folder / "job").mkdir()
    stack = mrc(folder)
    path = star(folder, ("3@a.mrcs", f"3@{stack}")).rename(folder / "job/a.star")
    (folder / "job/a.mrcs").write_bytes(stack.read_bytes())
    refused(ParticleStack.open, path, "row 3 (line 25)", "leads out to", "--allow-outside")
    assert len(ParticleStack.open(path, allow_outside=True)) == 4
    assert len(ParticleStack.open(path, datadir=folder)) == 4


@row(58)
def link_out_of_the_root(folder):
    (folder / "job").mkdir()
    stack = mrc(folder)
    (folder / "job/a.mrcs").symlink_to(stack)
    path = star(folder).rename(folder / "job/a.star")
    refused(ParticleStack.open, path, "row 1 (line 23)", "leads out to", "--allow-outside")
    assert len(ParticleStack.open(path, allow_outside=True)) == 4


@row(59)
def quoted_name(folder):
    mrc(folder).rename(folder / "my images.mrcs")
    text = (OPTICS + PARTICLES).replace("1@a.mrcs", '"1@my images.mrcs"').replace("2@a.mrcs", "'2@my images.mrcs'")
    stack = ParticleStack.open(star(folder, text=text))
    assert np.array_equal(stack.images([0, 1]), IMAGES[:2])


@row(60)
def same_image_twice(folder):
    stack = odd(ParticleStack.open, star(folder, ("3@a.mrcs", "1@a.mrcs")), "another row has too", "row 3 (line 25)")
    assert np.array_equal(stack.images([0, 2]), IMAGES[[0, 0]])


@row(61)
def carriage_returns(folder):
    path = star(folder, text=(OPTICS + PARTICLES).replace("\n", "\r\n"))
    stack = ParticleStack.open(path)
    stack.poses.save(folder / "out.star")
    assert b"\r" not in (folder / "out.star").read_bytes()
    assert len(PoseTable.load(folder / "out.star")) == 4


@row(62, "utf-8-sig", "utf-16", "utf-16-le")
def byte_order_marks(folder, encoding):
    path = star(folder)
    path.write_bytes((OPTICS + PARTICLES).encode(encoding))
    if encoding == "utf-8-sig":
        assert len(ParticleStack.open(path)) == 4
    else:
        both_refuse(path, "UTF-16" if encoding == "utf-16" else "NUL")


@row(63)
def nul_bytes_at_the_end(folder):
    both_refuse(star(folder, text=OPTICS + PARTICLES + "\0" * 100), "NUL bytes")


@row(64)
def random_bytes(folder):
    path = star(folder)
    path.write_bytes(RNG.bytes(5000))
    both_refuse(path, "expected a STAR file")
    path.write_bytes(RNG.bytes(5000).replace(b"\0", b""))
    both_refuse(path, "not UTF-8", "expected a STAR file")


@row(65)
def comments_and_blank_lines(folder):
    text = (OPTICS + PARTICLES).replace("3@a", "\n# a comment\n\n3@a") + "\n# the end\n\n"
    stack = ParticleStack.open(star(folder, text=text))
    assert np.array_equal(stack.images(range(4)), IMAGES)


@row(66, "0", "-1.5", "0.000")
def no_pixel_size(folder, size):
    both_refuse(
        star(folder, ("300.0 1.5", f"300.0 {size}")), "data_optics, rlnImagePixelSize", "expected a value between"
    )


@row(67)
def other_image_size(folder):
    refused(ParticleStack.open, star(folder, ("1.5 16", "1.5 32")), "a.mrcs: images of 16 pixels; expected 32")


def with_ctf(folder, **values):
    """Three particles with a defocus of 15000, but ``values`` in the third."""
    labels = ["rlnDefocusU", "rlnPhaseShift", "rlnCtfBfactor", "rlnSphericalAberration", "rlnAmplitudeContrast"]
    usual = dict(zip(labels, [15000, 0, 0, 2.7, 0.1], strict=True))
    text = (OPTICS + PARTICLES).replace(
        "_rlnOpticsGroup #2", "\n".join(f"_{v}" for v in labels) + "\n_rlnOpticsGroup #2"
    )
    text = text.replace("@a.mrcs 1 ", "@a.mrcs " + " ".join(map(str, usual.values())) + " 1 ")
    third = " ".join(map(str, (usual | values).values()))
    return star(folder, text=text.replace("3@a.mrcs 15000 0 0 2.7 0.1", f"3@a.mrcs {third}"))


@row(68, "-10000", "500000", "1500")
def implausible_defocus(folder, defocus):
    path = with_ctf(folder, rlnDefocusU=defocus)
    odd(ParticleStack.open, path, "defocus", "row 3 (line 30)", f"{float(defocus):g}")


@row(
    68,
    ("rlnDefocusU", "1e9", "1e+06 Angstrom"),
    ("rlnAmplitudeContrast", "10", "0 to 1"),
    ("rlnAmplitudeContrast", "-0.1", "0 to 1"),
    ("rlnSphericalAberration", "2.7e7", "-100 to 100 mm"),
    ("rlnPhaseShift", "9e4", "-720 to 720 degrees"),
    ("rlnCtfBfactor", "-1e9", "Angstrom^2"),
)
def impossible_ctf(folder, wrong):
    label, value, expected = wrong
    both_refuse(with_ctf(folder, **{label: value}), "row 3 (line 30)", label, expected)


@row(68, "1.5", "-2")
def defocus_in_micrometres(folder, defocus):
    path = with_ctf(folder)
    path.write_text(path.read_text().replace("15000", defocus))
    both_refuse(path, "rlnDefocusU", f"{defocus}; expected Angstrom; a micrometre is 10,000 of them")


@row(69, "300000", "0", "-300")
def implausible_voltage(folder, voltage):
    both_refuse(star(folder, ("300.0", voltage)), "data_optics, rlnVoltage", "between 10 and 3000 kV")


@row(70)
def twenty_thousand_columns(folder):
    path = folder / "a.star"
    labels = "".join(f"_rln{k} #{k}\n" for k in range(20_000))
    path.write_text(f"data_particles\nloop_\n{labels}" + "1 " * 20_000 + "\n")
    bounded(folder, path, "from cryozoo.particles.star import StarFile; read = StarFile.read", "at most 2000 columns")


@row(71)
def a_million_rows(folder):
    path = folder / "a.star"
    labels = ["rlnImageName", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginX", "rlnOriginY"]
    block = "".join(f"{k:06d}@Extract/job007/m.mrcs 10.125 20.5 -30.25 1.5 -2.5\n" for k in range(1, 1001))
    with open(path, "w") as handle:
        handle.write("data_\nloop_\n" + "".join(f"_{label}\n" for label in labels))
        for _ in range(1000):
            handle.write(block)
    code = """
from cryozoo.particles.star import StarFile
def read(path):
    table = StarFile.read(path)[""]
    numbers = table.numbers("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
    raise ValueError(f"{len(table)} {numbers.sum(axis=0).tolist()}")
"""
    bounded(folder, path, code, "1000000 [10125000.0, 20500000.0, -30250000.0]", seconds=10)


@row(72)
def one_endless_line(folder):
    path = folder / "a.star"
    with open(path, "wb") as handle:
        handle.write(b"data_particles\n" + b"x" * (2 * MEGABYTE))
        handle.truncate(1 << 30)
    code = "from cryozoo.particles.star import StarFile; read = StarFile.read"
    bounded(folder, path, code, "a line of more than 65536 bytes", memory=0)


@row(73)
def corrected_after_a_failed_read(folder):
    path = star(folder, ("3@a.mrcs 1 12 22 32", "3@a.mrcs 1 12 22"))
    status = path.stat()
    refused(ParticleStack.open, path, "line 25")
    star(folder)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert len(ParticleStack.open(path)) == 4


@row(74, "-rf", ";touch canary", "$(touch canary)", "|touch canary", "`touch canary`", "%s%n", "*")
def names_that_a_shell_would_run(folder, name):
    path = star(folder, ("3@a.mrcs", f'"3@{name}"'))
    refused(ParticleStack.open, path, "row 3 (line 25): image file", "is missing")
    mrc(folder).rename(folder / name)
    mrc(folder)
    stack = ParticleStack.open(path)
    assert np.array_equal(stack.images(range(4)), IMAGES)
    stack.poses.save(folder / "out.star")
    assert StarFile.read(folder / "out.star")["particles"].text("rlnImageName")[2] == f"3@{name}"


@row(74)
def new_line_in_a_name(folder):
    both_refuse(star(folder, ("3@a.mrcs", '"3@a\n.mrcs"')), "line 25", "expected every quote to be closed")


# ----------------------------------------------------------------------------------------------------------- CS

POSE = Rotation.from_matrix(ROTATION.transpose(0, 2, 1)).as_rotvec()
FIELDS = [
    ("uid", "u8"),
    ("blob/path", "S30"),
    ("blob/idx", "u4"),
    ("blob/shape", "u4", 2),
    ("blob/psize_A", "f4"),
    ("alignments3D/pose", "f4", 3),
    ("alignments3D/shift", "f4", 2),
]


def cs(folder: Path, changed: Callable = lambda table: table) -> Path:
    """A valid table of four particles, changed by a function."""
    mrc(folder)
    table = np.zeros(4, dtype=FIELDS)
    table["blob/path"] = b"a.mrcs"
    table["blob/idx"] = range(4)
    table["blob/shape"] = 16
    table["blob/psize_A"] = 1.5
    table["alignments3D/pose"] = POSE
    table["alignments3D/shift"] = [[1, 2], [3, 4], [5, 6], [7, 8]]
    table = changed(table)
    path = folder / "a.cs"
    with open(path, "wb") as handle:
        np.save(handle, table, allow_pickle=True)
    return path


def put(field: str, index: object, value: object) -> Callable:
    """A change of one value."""

    def change(table):
        table[field][index] = value
        return table

    return change


def angle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.rad2deg(Rotation.from_matrix(a.transpose(0, 2, 1) @ b).magnitude())


@row(0)
def the_cs_table_that_is_broken_below_is_fine(folder):
    stack = ParticleStack.open(cs(folder))
    assert np.array_equal(stack.images(range(4)), IMAGES)
    assert angle(stack.poses.rotation, ROTATION).max() < 1e-4


@row(75)
def damaged_cs(folder):
    path = cs(folder)
    content = path.read_bytes()
    for broken, words in (
        (b"", "an empty file"),
        (content[:-1], "bytes of data; expected"),
        (content[:50], "a header of"),
        (RNG.bytes(1000), "expected a cryoSPARC .cs table"),
        (b"\x95CSDAT" + RNG.bytes(1000), "CSDAT"),
    ):
        path.write_bytes(broken)
        both_refuse(path, words)


@row(76)
def csdat(folder):
    path = folder / "a.cs"
    path.write_bytes(b"\x95CSDAT" + bytes(1000))
    both_refuse(path, "CSDAT format", "cryosparc-tools")


class Canary:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("canary",)


@row(77)
def objects(folder):
    def change(table):
        new = np.zeros(4, dtype=[*FIELDS, ("attack", "O")])
        new["attack"] = Canary()
        return new

    both_refuse(cs(folder, change), "header", "expected an array of numbers or text")


@row(78)
def code_in_the_header(folder):
    path = folder / "a.cs"
    header = b"{'descr': __import__('os').mkdir('canary'), 'fortran_order': False, 'shape': (4,), }"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    both_refuse(path, "cannot use")


@row(79)
def claims_3_6_terabytes(folder):
    path = cs(folder)
    path.write_bytes(path.read_bytes().replace(b"(4,), }          ", b"(40000000000,), }", 1))
    bounded(folder, path, "from cryozoo.particles.cs import read_cs as read", "bytes of data; expected 2960000000000")


@row(80)
def long_header(folder):
    def change(table):
        new = np.zeros(4, dtype=[*FIELDS, *((f"alignments_class_{k}/class_posterior", "f4") for k in range(300))])
        for name in table.dtype.names:
            new[name] = table[name]
        return new

    path = cs(folder, change)
    assert int.from_bytes(path.read_bytes()[8:10], "little") > 10_000
    assert len(ParticleStack.open(path)) == 4


@row(81)
def plain_array(folder):
    both_refuse(cs(folder, lambda table: np.zeros((4, 3))), "a plain array of shape (4, 3)")


@row(82)
def pose_exactly_zero(folder):
    path = cs(folder, put("alignments3D/pose", 2, 0))
    poses = PoseTable.load(path)
    assert np.array_equal(poses.rotation[2], np.eye(3))
    poses.save(folder / "out.cs")
    assert np.linalg.norm(read_cs(folder / "out.cs")["alignments3D/pose"][2]) > 0


@row(83)
def rotation_vector_longer_than_pi(folder):
    longer = POSE * (1 + 2 * np.pi / np.linalg.norm(POSE, axis=1, keepdims=True))
    assert angle(PoseTable.load(cs(folder, put("alignments3D/pose", ..., longer))).rotation, ROTATION).max() < 1e-4


@row(84)
def no_pose(folder):
    path = cs(folder, put("alignments3D/pose", (2, 1), np.nan))
    both_refuse(path, "row 3, alignments3D/pose", "expected finite numbers")
    path = cs(folder, lambda table: repack_fields(table[[name for name in table.dtype.names if "pose" not in name]]))
    refused(PoseTable.load, path, "no poses: alignments3D/pose is missing")
    assert ParticleStack.open(path).poses is None


@row(85)
def paths_in_cs(folder):
    stack = ParticleStack.open(cs(folder, put("blob/path", ..., b">a.mrcs")))
    assert np.array_equal(stack.images(range(4)), IMAGES)
    both_refuse(cs(folder, put("blob/path", 2, b"\xff\xfe.mrcs")), "row 3, blob/path", "expected text in UTF-8")
    both_refuse(cs(folder, put("blob/path", 2, b">")), "row 3, blob/path", "an empty name")
    refused(ParticleStack.open, cs(folder, put("blob/path", 2, b"../../etc/passwd")), "row 3: image file")
    refused(ParticleStack.open, cs(folder, put("blob/path", 2, b"/etc/passwd")), "row 3", "leads out to")
    refused(ParticleStack.open, cs(folder, put("blob/idx", 2, 4)), "row 3", "image 5; expected 1 to 4")


# ---------------------------------------------------------------------------------------------------------- PKL


def pkl(folder: Path, content: object) -> Path:
    path = folder / "pose.pkl"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, 4))
    return path


def load_pkl(path: Path) -> PoseTable:
    return PoseTable.load(path, image_size=16, pixel_size=1.5)


@row(0)
def the_pickle_that_is_broken_below_is_fine(folder):
    poses = load_pkl(pkl(folder, (ROTATION, SHIFT)))
    assert np.array_equal(poses.rotation, ROTATION)
    assert np.allclose(poses.shift, -SHIFT * 16 * 1.5)


@row(86)
def code_in_a_pickle(folder):
    refused(load_pkl, pkl(folder, Canary()), "posix.mkdir", "nothing else")
    refused(load_pkl, pkl(folder, (ROTATION, Canary())), "posix.mkdir")


@row(87)
def code_in_an_object_array(folder):
    attack = np.array([Canary()] * 4, dtype=object)
    refused(load_pkl, pkl(folder, (attack, SHIFT)), "array of type O8")
    refused(load_pkl, pkl(folder, (ROTATION, [attack])), "array of type O8")


@row(88)
def damaged_pickle(folder):
    content = pickle.dumps((ROTATION, SHIFT), 4)
    refused(load_pkl, pkl(folder, b""), "an empty file")
    refused(load_pkl, pkl(folder, content[:100]), "damaged pickle")
    refused(load_pkl, pkl(folder, content[:-1]), "damaged pickle")
    np.save(folder / "a.npy", ROTATION)
    refused(load_pkl, pkl(folder, (folder / "a.npy").read_bytes()), "is a numpy array")


@row(89)
def bytes_that_are_not_there(folder):
    path = pkl(folder, b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.")
    bounded(folder, path, "from cryozoo.particles.pkl import read_poses as read", "damaged pickle")


@row(90)
def bombs(folder):
    code = "from cryozoo.particles.pkl import read_poses as read"
    doubled = b"\x80\x02})q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"K\x01s."
    bounded(folder, pkl(folder, doubled), code, "EMPTY_DICT")
    bounded(folder, pkl(folder, b"\x80\x02" + b"(" * 1_000_000), code, "more than 1000 pickle instructions")
    bounded(folder, pkl(folder, b"\x80\x02K\x01r\xff\xff\xff\x7f."), code, "LONG_BINPUT")
    with open(folder / "pose.pkl", "wb") as handle:
        handle.truncate(1 << 40)
    bounded(folder, folder / "pose.pkl", code, "expected at most 1073741824 bytes", memory=0)


@row(91)
def mirrored(folder):
    refused(load_pkl, pkl(folder, (ROTATION * [1, 1, -1], SHIFT)), "row 1", "mirror")


@row(92)
def not_orthogonal(folder):
    rotation = ROTATION.copy()
    rotation[2] *= 1.5
    refused(load_pkl, pkl(folder, (rotation, SHIFT)), "row 3", "not orthonormal")


@row(93, 7.0, -7.0, 1.01, -1.01)
def shifts_in_pixels(folder, pixels):
    shift = SHIFT.copy()
    shift[2, 1] = pixels
    refused(load_pkl, pkl(folder, (ROTATION, shift)), "row 3", "expected fractions of the box", "not pixels")


@row(94)
def wrong_shapes(folder):
    refused(load_pkl, pkl(folder, (ROTATION, SHIFT[:3])), "shape (3, 2)", "expected (4, 2)")
    refused(load_pkl, pkl(folder, (np.zeros((4, 4)), SHIFT)), "shape (4, 4)", "(N, 3, 3)")
    refused(load_pkl, pkl(folder, (ROTATION.round().astype(int), SHIFT)), "int64 of shape (4, 3, 3)")
    refused(load_pkl, pkl(folder, (ROTATION.tolist(), SHIFT.tolist())), "(list, list)")
    refused(load_pkl, pkl(folder, 5), "(int)")


@row(95)
def no_poses(folder):
    refused(load_pkl, pkl(folder, (ROTATION[:0], SHIFT[:0])), "0 poses")


@row(96)
def other_arrays(folder):
    for rotation in (ROTATION.astype("f4"), np.asfortranarray(ROTATION), ROTATION.astype(">f8")):
        assert np.array_equal(load_pkl(pkl(folder, (rotation, SHIFT))).rotation, rotation)
    content = pickle.dumps((ROTATION, SHIFT), 2)
    assert b"numpy._core" in content
    old = pkl(folder, content.replace(b"numpy._core", b"numpy.core"))
    assert np.array_equal(load_pkl(old).rotation, ROTATION)


def bounded(folder: Path, path: Path, code: str, *words: str, memory: int | None = None, seconds: float = 5) -> None:
    """Refuse ``path`` in a process that may take the size of the file (or ``memory``) and 500 MB more.

    ``code`` defines ``read``. The limit is on address space, which is more than what is used.
    """
    script = f"""
import resource, sys, time
{code}
import numpy
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]),) * 2)
started = time.process_time()
try:
    read(sys.argv[1])
except ValueError as error:
    print(error)
print(time.process_time() - started, file=sys.stderr)
"""
    limit = (path.stat().st_size if memory is None else memory) + 500 * MEGABYTE
    run = subprocess.run([sys.executable, "-c", script, path, str(limit)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert float(run.stderr) < seconds
    assert all(word in run.stdout for word in words), run.stdout
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


def test_every_row_is_here():
    numbers = {int(param.id.split("-")[0]) for param in ROWS}
    assert numbers == set(range(97)) - {29}
