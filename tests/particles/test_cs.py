"""Held against numpy.load, which reads the same format and trusts the header more."""

from itertools import count

import numpy as np
import pytest

from cryozoo.particles.cs import read_cs, write_cs
from cryozoo.particles.errors import BadInput

FIELDS = [
    ("uid", "<u8"),
    ("blob/path", "S12"),
    ("blob/idx", "<u4"),
    ("alignments3D/pose", "<f4", (3,)),
    ("ctf/tetra_A", "<f4", (2, 2)),
]


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    table = np.zeros(5, dtype=FIELDS)
    for name in table.dtype.names:
        field = table[name]
        table[name] = b"J1/a.mrc" if field.dtype.kind == "S" else rng.integers(0, 1000, field.shape)
    return table


def test_written_table_is_what_numpy_reads(tmp_path, table):
    write_cs(tmp_path / "a.cs", table)
    read = np.load(tmp_path / "a.cs", allow_pickle=False)
    assert read.dtype == table.dtype
    assert np.array_equal(read, table)
    with pytest.raises(BadInput, match="exists already"):
        write_cs(tmp_path / "a.cs", table)


def test_names_in_utf8(tmp_path):
    """Which is what version 3 of the format is for."""
    table = np.zeros(2, dtype=[("größe", "<f4"), ("a", "S3")])
    with open(tmp_path / "a.cs", "wb") as handle:
        np.lib.format.write_array(handle, table, version=(3, 0))
    assert read_cs(tmp_path / "a.cs").dtype == table.dtype


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_table_that_numpy_wrote(tmp_path, table, version, order):
    table = table.astype(table.dtype.newbyteorder(order))
    with open(tmp_path / "a.cs", "wb") as handle:
        np.lib.format.write_array(handle, table, version=version)
    read = read_cs(tmp_path / "a.cs")
    assert read.dtype == table.dtype
    assert np.array_equal(read, table)
    assert read.flags.writeable


def test_long_header(tmp_path):
    table = np.zeros(3, dtype=[(f"alignments_class_{k}/a_long_name", "<f4") for k in range(400)])
    table["alignments_class_7/a_long_name"] = [1, 2, 3]
    np.save(tmp_path / "a.npy", table)
    with pytest.raises(ValueError, match="max_header_size"):
        np.load(tmp_path / "a.npy")
    assert np.array_equal(read_cs(tmp_path / "a.npy"), table)


def header(descr: str, shape: str = "(2,)", data: bytes = b"") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + data


PLAIN = "[('a', '<f8')]"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header(PLAIN, "(2,)", bytes(15)), "15 bytes of data; expected 16"),
        (header(PLAIN, "(2,)", bytes(17)), "17 bytes of data; expected 16"),
        (header(PLAIN, "(10**12,)"), "cannot use"),
        (header(PLAIN, "(1000000000000,)"), "0 bytes of data; expected 8000000000000"),
        (header("[('a', '<f8', (999, 999, 999, 999, 999, 999, 999))]", "(1,)"), "cannot use"),
        (header("[('a', 'S999999')]", "(9999999999999999999999,)"), "0 bytes of data; expected 9999"),
        (header("[('a', 'S0')]", "(9999999999,)"), "cannot use"),
        (header("[('a', '<f8', (0,))]", "(9999999999,)"), "cannot use"),
        (header(PLAIN, "(-1,)"), "cannot use"),
        (header(PLAIN, "2"), "cannot use"),
        (header(PLAIN, "(True,)"), "cannot use"),
        (header("[('a', '|O')]", data=bytes(16)), "cannot use"),
        (header("[('a', '|V8')]", data=bytes(16)), "cannot use"),
        (header("[('a', '<f8'), ('a', '<f8')]"), "cannot use"),
        (header("[('a', [('b', '<f8')])]"), "cannot use"),
        (header("'<f8'", data=bytes(16)), r"a plain array of shape \(2,\); expected a table with named fields"),
        (header(PLAIN, "(2, 1)", data=bytes(16)), r"a plain array of shape \(2, 1\)"),
        (header("__import__('os').system('true')"), "cannot use"),
        (header("[" * 3000 + "]" * 3000), "cannot use"),
        (header("-" * 60000 + "1"), "cannot use"),
        (header("'unclosed"), "cannot use"),
        (b"\x93NUMPY\x01\x00\xff\xff{}", "a header of 65535 bytes in a file of 12"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}", "a header of 4294967295 bytes"),
        (b"\x93NUMPY\x09\x00\x02\x00{}", "version 9"),
        (b"\x93NUMPY\x01", "no numpy array"),
        (b"", "is an empty file; expected a cryoSPARC .cs table"),
        (b"data_\nloop_\n", "is something else; expected a cryoSPARC .cs table"),
        (b"\x95CSDAT\x01", "CSDAT format; expected the numpy format; with cryosparc-tools"),
    ],
    ids=count(),
)
def test_refused(tmp_path, content, message):
    (tmp_path / "a.cs").write_bytes(content)
    with pytest.raises(BadInput, match=message) as caught:
        read_cs(tmp_path / "a.cs")
    assert str(caught.value).startswith(f"{tmp_path}/a.cs")
    assert len(str(caught.value)) < 500


def test_objects_are_refused_and_no_code_runs(tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "canary"), "w"))

    table = np.zeros(2, dtype=[("a", "O")])
    table["a"] = Attack()
    np.save(tmp_path / "a.npy", table)
    (tmp_path / "canary").unlink(missing_ok=True)
    with pytest.raises(BadInput, match="expected an array of numbers or text"):
        read_cs(tmp_path / "a.npy")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "name",
    [
        "cryodrgn_cryosparc_table2019/cryosparc_P12_J24_001_particles.cs",
        "cryodrgn_empiar10076_7/empiar_10076_7.cs",
        "t20s_empiar10025_cryosparc/cryosparc_P9_J209_000_particles.cs",
    ],
)
def test_real_tables(data, tmp_path, name):
    path = data("particles") / name
    table = read_cs(path)
    assert np.array_equal(table, np.load(path, max_header_size=100_000))
    write_cs(tmp_path / "b.cs", table)
    assert np.array_equal(np.load(tmp_path / "b.cs", max_header_size=100_000), table)
