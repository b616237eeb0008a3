"""Held against pickle itself, which reads everything."""

import os
import pickle
import struct
import time
from itertools import count

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryozoo.particles import pkl
from cryozoo.particles.errors import BadInput
from cryozoo.particles.pkl import read_arrays, read_poses, write_poses

ROTATIONS = Rotation.random(6, rng=np.random.default_rng(0)).as_matrix()
SHIFTS = np.random.default_rng(1).uniform(-0.3, 0.3, (6, 2))


def dump(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["<f8", "<f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F", "K"])
def test_what_cryodrgn_writes(tmp_path, protocol, dtype, order):
    rotations = ROTATIONS.astype(dtype)
    rotations = rotations.transpose(0, 2, 1) if order == "K" else np.array(rotations, order=order)
    read, shifts = read_poses(dump(tmp_path / "pose.pkl", (rotations, SHIFTS.astype("f4")), protocol))
    assert read.dtype == np.dtype("f8")
    assert np.array_equal(read, rotations)
    assert np.array_equal(shifts, SHIFTS.astype("f4"))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("content", [ROTATIONS, (ROTATIONS,)])
def test_rotations_alone(tmp_path, protocol, content):
    read, shifts = read_poses(dump(tmp_path / "pose.pkl", content, protocol))
    assert np.array_equal(read, ROTATIONS)
    assert shifts is None


def test_numpy_1_names(tmp_path):
    path = dump(tmp_path / "pose.pkl", (ROTATIONS, SHIFTS), 2)
    content = path.read_bytes()
    assert b"numpy._core.multiarray" in content
    path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert np.array_equal(read_poses(path)[0], ROTATIONS)


def test_written_file_is_what_pickle_reads(tmp_path):
    write_poses(tmp_path / "pose.pkl", ROTATIONS, SHIFTS)
    content = pickle.loads((tmp_path / "pose.pkl").read_bytes())
    assert type(content) is tuple
    rotations, shifts = content
    assert rotations.dtype == shifts.dtype == np.float64
    assert np.array_equal(rotations, ROTATIONS)
    assert np.array_equal(shifts, SHIFTS)
    assert np.array_equal(read_poses(tmp_path / "pose.pkl")[1], SHIFTS)
    with pytest.raises(BadInput, match="exists already"):
        write_poses(tmp_path / "pose.pkl", ROTATIONS, SHIFTS)


class Call:
    """Pickles as a call of ``function``."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


# Nested pairs: a few bytes, but 2^40 values for whoever walks through them, as a dictionary does with its keys.
BOMB = b"\x80\x02})q\x00" + b"h\x00h\x00\x86q\x00" * 40 + b"K\x01s."


def array_pickle(shape: bytes, data: bytes, kind: bytes = b"f8") -> bytes:
    """A hand-made pickle of an array whose claims need not fit."""
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85c_codecs\nencode\nX\x01\x00\x00\x00b"
        b"X\x06\x00\x00\x00latin1\x86R\x87R(K\x01"
        + shape
        + b"cnumpy\ndtype\nX"
        + struct.pack("<I", len(kind))
        + kind
        + b"K\x00K\x01\x87R(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89B"
        + struct.pack("<I", len(data))
        + data
        + b"tb."
    )


def test_hand_made_pickle_works(tmp_path):
    """So that the refusals below are not for its form."""
    path = tmp_path / "a.pkl"
    path.write_bytes(array_pickle(b"K\x02K\x03\x86", np.arange(6.0).tobytes()))
    assert read_arrays(path)[0].tolist() == pickle.loads(path.read_bytes()).tolist() == [[0, 1, 2], [3, 4, 5]]


HUGE = struct.pack("<i", 2**31 - 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Call(os.mkdir, "canary"), "posix.mkdir; expected arrays of numbers and nothing else"),
        (Call(eval, "__import__('os').mkdir('canary')"), "builtins.eval"),
        (np.array([Call(os.mkdir, "canary")], dtype=object), "array of type O8"),
        ((ROTATIONS, np.array([Call(os.mkdir, "canary")], dtype=object)), "array of type O8"),
        (np.array([1, "x"], dtype=object), "array of type O8"),
        ({"rotations": ROTATIONS}, "pickle instruction EMPTY_DICT"),
        ({1}, "pickle instruction EMPTY_SET"),
        (list(range(2000)), "more than 1000 pickle instructions"),
        (np.zeros(2, dtype=[("a", "f8")]), "pickle instruction EMPTY_DICT"),
        (np.array(["x"]), "array of type U1"),
        (np.ma.masked_array([1.0]), "numpy.ma.core._mareconstruct"),
        (Call(np.zeros, (10**9,)), "numpy.zeros"),
        (Call(np.ndarray, (10**9,)), "damaged pickle"),
    ],
    ids=count(),
)
def test_attacks_are_refused_and_no_code_runs(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    started = time.perf_counter()
    for protocol in (4, 5):
        path = dump(tmp_path / "pose.pkl", content, protocol)
        with pytest.raises(BadInput, match=message) as caught:
            read_poses(path)
        assert str(caught.value).startswith(str(path))
    assert os.listdir(tmp_path) == ["pose.pkl"]
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (array_pickle(b"J" + HUGE + b"K\x02\x86", bytes(48)), "damaged pickle .*buffer is too small"),
        (array_pickle(b"K\x02K\x02\x86", bytes(48)), "48 bytes for an array of shape"),
        (array_pickle(b"J\xff\xff\xff\xffK\x02\x86", bytes(48)), "damaged pickle"),
        (array_pickle(b"K\x02K\x03\x86", bytes(48), b"O8"), "array of type O8"),
        (array_pickle(b"K\x02K\x03\x86", bytes(48), b"f8,f8"), "array of type f8,f8"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"abc.", "damaged pickle"),
        (b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"K\x01.", "damaged pickle"),
        (b"\x80\x02K\x01r\xff\xff\xff\x7f.", "pickle instruction LONG_BINPUT"),
        (b"\x80\x02" + b"(" * 900 + b"t" * 900 + b".", "more than 1000 pickle instructions"),
        (BOMB, "pickle instruction EMPTY_DICT"),
        (BOMB.replace(b"}", b"").replace(b"K\x01s", b""), r"\(tuple, tuple\)|\(\(\)"),
        (b"\x80\x05\x97.", "pickle instruction NEXT_BUFFER"),
        (b"\x80\x02Pid\n.", "pickle instruction PERSID"),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00bz2\x86R.", "encoding of its own"),
        (b"\x80\x02cnumpy\nndarray\nK\x01\x85b.", "damaged pickle"),
        (b"\x80\x02cnumpy\nndarray\n.", "expected an array"),
        (b"\x80\x02cnumpy\nndarray\n)R.", "damaged pickle"),
        (b"\x80\x04", "damaged pickle"),
        (b"", "is an empty file; expected a pickle"),
        (b"\x93NUMPY", "is a numpy array"),
        (b"cos\nsystem\n", "is something else"),
    ],
    ids=count(),
)
def test_damaged_files(tmp_path, content, message):
    path = tmp_path / "pose.pkl"
    path.write_bytes(content)
    started = time.perf_counter()
    with pytest.raises(BadInput, match=message) as caught:
        read_poses(path)
    assert str(caught.value).startswith(str(path))
    assert time.perf_counter() - started < 5


def test_cut_anywhere(tmp_path):
    path = dump(tmp_path / "pose.pkl", (ROTATIONS, SHIFTS))
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(BadInput):
            read_poses(path)


def test_flipped_bytes_are_read_or_refused(tmp_path):
    content = bytearray(pickle.dumps((ROTATIONS[:1], SHIFTS[:1]), 4))
    rng = np.random.default_rng(0)
    for _ in range(500):
        broken = bytearray(content)
        broken[rng.integers(len(content))] = rng.integers(256)
        path = tmp_path / "pose.pkl"
        path.write_bytes(broken)
        try:
            rotations, _ = read_poses(path)
        except BadInput:
            continue
        assert rotations.shape[1:] == (3, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ROTATIONS.tolist()[:1], r"\(list\)"),
        ((ROTATIONS, SHIFTS, SHIFTS), r"\(\(6, 3, 3\), \(6, 2\), \(6, 2\)\)"),
        (np.zeros((6, 4)), r"rotations: float64 of shape \(6, 4\); expected matrices"),
        (np.zeros((6, 3, 3), dtype=int), "rotations: int64 of shape"),
        ((ROTATIONS, SHIFTS[:5]), r"translations: float64 of shape \(5, 2\); expected \(6, 2\)"),
        ((ROTATIONS, np.zeros((6, 2), dtype=int)), "translations: int64"),
        ((ROTATIONS, SHIFTS + [0, 5]), "row 1: 6 rows like .*expected fractions of the box, -1 to 1, not pixels"),
        ((ROTATIONS, SHIFTS - [5, 0]), "expected fractions of the box"),
        ((ROTATIONS, SHIFTS * np.nan), "expected fractions of the box"),
    ],
)
def test_arrays_that_are_no_poses(tmp_path, content, message):
    with pytest.raises(BadInput, match=message):
        read_poses(dump(tmp_path / "pose.pkl", content))


def test_empty(tmp_path):
    rotations, shifts = read_poses(dump(tmp_path / "pose.pkl", (ROTATIONS[:0], SHIFTS[:0])))
    assert rotations.shape == (0, 3, 3)
    assert shifts.shape == (0, 2)


def test_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(pkl, "_MAX_BYTES", 100)
    with pytest.raises(BadInput, match="expected at most 100 bytes"):
        read_poses(dump(tmp_path / "pose.pkl", ROTATIONS))


def test_real_pickles(data):
    """Poses and CTF tables that cryoDRGN and others wrote over the years."""
    paths = sorted(data("particles").glob("*/*.pkl"))
    assert len(paths) == 20
    for path in paths:
        expected = pickle.loads(path.read_bytes())
        expected = expected if isinstance(expected, tuple) else (expected,)
        arrays = read_arrays(path)
        assert len(arrays) == len(expected)
        for array, other in zip(arrays, expected, strict=True):
            assert array.dtype == other.dtype
            assert np.array_equal(array, other)


@pytest.mark.parametrize("shift", [1.01, -3.0])
def test_what_the_reader_would_refuse_is_not_written(tmp_path, shift):
    shifts = SHIFTS.copy()
    shifts[4, 1] = shift
    with pytest.raises(BadInput, match=rf"pose\.pkl, particle 5: a shift of .*{shift:g} boxes; expected -1 to 1"):
        write_poses(tmp_path / "pose.pkl", ROTATIONS, shifts)
    assert not list(tmp_path.iterdir())
    shifts[4, 1] = np.sign(shift)
    write_poses(tmp_path / "pose.pkl", ROTATIONS, shifts)
    assert np.array_equal(read_poses(tmp_path / "pose.pkl")[1], shifts)
