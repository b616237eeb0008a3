"""Held against starfile, which has a parser of its own."""

import linecache
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import starfile
from hypothesis import given
from hypothesis import strategies as st

from cryozoo.particles import star_text
from cryozoo.particles.errors import BadInput
from cryozoo.particles.star import StarBlock, StarFile

RELION_31 = """
# version 30001

data_optics

loop_ 
_rlnOpticsGroupName #1 
_rlnOpticsGroup #2 
_rlnImagePixelSize #3 
opticsGroup1            1     1.500000 
 

# version 30001

data_particles

loop_ 
_rlnImageName #1 
_rlnAngleRot #2 
_rlnOpticsGroup #3 
000001@a.mrcs    10.000000            1 
000002@a.mrcs   -20.500000            1 
 
"""  # noqa: W291, W293 RELION ends its lines with a space


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def oracle(path: Path) -> dict:
    """Blocks as starfile reads them, every cell as text."""
    linecache.clearcache()  # starfile serves a changed file from memory
    read = starfile.read(path, always_dict=True, parse_as_string=["x"])
    labels = {label for block in read.values() for label in block}
    return starfile.read(path, always_dict=True, parse_as_string=sorted(labels))


def assert_same_cells(path: Path, star: StarFile) -> None:
    expected = oracle(path)
    assert list(star.blocks) == list(expected)
    for name, block in expected.items():
        assert star[name].labels == tuple(block)
        for label in star[name].labels:
            column = [str(block[label])] if isinstance(block, dict) else block[label].tolist()
            assert star[name].text(label) == column


def test_reads_what_is_there(tmp_path):
    star = StarFile.read(write(tmp_path / "a.star", RELION_31))
    assert list(star.blocks) == ["optics", "particles"]
    block = star["particles"]
    assert len(block) == 2
    assert block.is_loop
    assert block.labels == ("rlnImageName", "rlnAngleRot", "rlnOpticsGroup")
    assert "rlnAngleRot" in block
    assert block.text("rlnImageName") == ["000001@a.mrcs", "000002@a.mrcs"]
    assert block.numbers("rlnOpticsGroup", "rlnAngleRot").tolist() == [[1, 10], [1, -20.5]]
    assert block.integers("rlnOpticsGroup").tolist() == [1, 1]
    assert block.where(1, "rlnAngleRot") == "data_particles, row 2 (line 22), rlnAngleRot"


@pytest.mark.parametrize(
    "text",
    [
        RELION_31,
        RELION_31.rstrip(),
        RELION_31.replace("30001", "50001"),
        "data_\nloop_\n_a\n_b\n1 2\n",
        "data_general\n_a 1\n_b 'two words'\n\ndata_x\nloop_\n_c\n1\n# the end\n",
        "data_empty\ndata_loop\nloop_\n_a #1\n",
    ],
)
def test_untouched_file_comes_out_byte_for_byte(tmp_path, text):
    StarFile.read(write(tmp_path / "a.star", text)).write(tmp_path / "b.star")
    assert (tmp_path / "b.star").read_text() == text + ("" if text.endswith("\n") else "\n")


def test_change_keeps_every_other_cell_block_and_comment(tmp_path):
    star = StarFile.read(write(tmp_path / "a.star", RELION_31))
    changed = star.with_columns(
        "particles",
        {"rlnAngleRot": np.array([1.5, -1e-7]), "rlnClassNumber": np.array([3, 4]), "rlnComment": ["a b", ""]},
    )
    changed.write(tmp_path / "b.star")
    before, rows = (tmp_path / "b.star").read_text().split("_rlnComment #5\n")
    assert before == RELION_31[: RELION_31.index("loop_ \n_rlnImageName")] + (
        "loop_\n_rlnImageName #1\n_rlnAngleRot #2\n_rlnOpticsGroup #3\n_rlnClassNumber #4\n"
    )
    assert rows == '000001@a.mrcs 1.500000 1 3 "a b"\n000002@a.mrcs -1.000000e-07 1 4 ""\n \n'
    assert star["particles"].numbers("rlnAngleRot")[0] == 10  # the original stays
    assert_same_cells(tmp_path / "b.star", StarFile.read(tmp_path / "b.star"))


def test_chosen_rows(tmp_path):
    text = "data_\nloop_\n_a\n_b\n1 x\n\n2 y # comment\n# comment\n3 'z z'"
    star = StarFile.read(write(tmp_path / "a.star", text))
    block = star[""].with_rows([2, 0, 2])
    assert block.text("b") == ["z z", "x", "z z"]
    star.with_block(block).write(tmp_path / "b.star")
    assert (tmp_path / "b.star").read_text() == "data_\nloop_\n_a\n_b\n3 'z z'\n1 x\n3 'z z'\n"
    assert len(star[""].with_rows([])) == 0


def test_new_table(tmp_path):
    optics = StarBlock.from_columns("optics", {"rlnOpticsGroup": np.array([1]), "rlnName": ["two words"]})
    particles = StarBlock.from_columns("particles", {"rlnAngleRot": np.array([1.25, 2.0])})
    StarFile([optics, particles]).write(tmp_path / "a.star")
    read = oracle(tmp_path / "a.star")
    assert read["optics"]["rlnName"].tolist() == ["two words"]
    assert read["particles"]["rlnAngleRot"].tolist() == ["1.250000", "2.000000"]
    assert (tmp_path / "a.star").read_text().count("# version 30001") == 2
    assert_same_cells(tmp_path / "a.star", StarFile.read(tmp_path / "a.star"))


@pytest.mark.parametrize(
    "text",
    [
        RELION_31.replace("\n", "\r\n"),
        RELION_31.replace("\n", "\r"),
        "\ufeff" + RELION_31,
    ],
)
def test_line_ends_and_byte_order_mark(tmp_path, text):
    star = StarFile.read(write(tmp_path / "a.star", text))
    star.write(tmp_path / "b.star")
    assert (tmp_path / "b.star").read_text() == RELION_31


def test_comments_blank_lines_and_quotes(tmp_path):
    text = """# top
data_a # comment
# comment
loop_ # comment
_x #1 # comment
  _y
1 'it isn't over'

# between the rows
2 "a 'b' c"  # comment
3 #4
 4
"""
    with pytest.raises(BadInput, match=r"a\.star, line 11: 1 values; expected 2"):
        StarFile.read(write(tmp_path / "a.star", text))
    text = text.replace("3 #4\n 4\n", "3 a#b\n\n \t\n4 ''\n5 5'\n# end")
    block = StarFile.read(write(tmp_path / "a.star", text))["a"]
    assert block.text("x") == ["1", "2", "3", "4", "5"]
    assert block.text("y") == ["it isn't over", "a 'b' c", "a#b", "", "5'"]
    assert block.where(4) == "data_a, row 5 (line 15)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data_a\nloop_\n_x\n'1 2\n", 'line 4: "\'1 2"; expected every quote to be closed'),
        ("data_a\nloop_\n_x\n1\nloop_\n_y\n2\n", "line 5: 'loop_'; expected one loop in data_a"),
        ("data_a\n_x 1\nloop_\n_y\n2\n", "line 3: 'loop_'; expected one loop in data_a"),
        ("data_a\nloop_\n_x\n1\n_y\n2\n", "line 5: '_y'; expected a row"),
        ("data_a\nloop_\n_x 5\n1\n", "line 3: '_x 5'; expected a label"),
        ("data_a\n_x\n", "line 2: '_x'; expected a label and a value"),
        ("data_a\n_x 1 2\n", "line 2: '_x 1 2'; expected a label and a value"),
        ("data_a\n1 2\n", "line 2: '1 2'; expected a label"),
        ("data_a\nloop_\n1 2\n", "line 3: 2 values; expected 0"),
        ("data_a\nloop_\ndata_b\n", "data_a: a loop without columns"),
        ("hello\ndata_a\n_x 1\n", "line 1: 'hello'; expected data_ before anything else"),
    ],
)
def test_broken_syntax(tmp_path, text, message):
    with pytest.raises(BadInput) as caught:
        StarFile.read(write(tmp_path / "a.star", text))
    assert str(caught.value).startswith(f"{tmp_path}/a.star, {message}")


@pytest.mark.parametrize("cell", ["abc", "nan", "inf", "-inf", "<NA>", "1_0", "1,5", "''", "0x10"])
def test_what_is_not_a_number(tmp_path, cell):
    rows = "".join(f"{k} 1.5\n" for k in range(3)) + f"3 {cell}\n" + "4 1.5\n"
    block = StarFile.read(write(tmp_path / "a.star", f"data_a\nloop_\n_x\n_y\n\n{rows}"))["a"]
    with pytest.raises(BadInput) as caught:
        block.numbers("x", "y")
    expected = f"{tmp_path}/a.star, data_a, row 4 (line 9), y: {cell!r}; expected a finite number"
    assert str(caught.value) == expected
    assert block.numbers("x")[:, 0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("cell", "value"), [("3", 3), ("3.000000", 3), ("1e3", 1000), ("3.5", None), ("1e300", None)])
def test_whole_numbers(tmp_path, cell, value):
    block = StarFile.read(write(tmp_path / "a.star", f"data_a\nloop_\n_x\n{cell}\n"))["a"]
    if value is None:
        with pytest.raises(BadInput, match=r"row 1 .line 4., x: .* expected a whole number"):
            block.integers("x")
    else:
        assert block.integers("x").tolist() == [value]


def test_what_is_not_there(tmp_path):
    star = StarFile.read(write(tmp_path / "a.star", RELION_31))
    with pytest.raises(BadInput, match=r"a\.star: no block data_general; expected one of \['optics', 'particles'\]"):
        star["general"]
    with pytest.raises(BadInput, match=r"a\.star, data_particles: no column rlnAngleTilt"):
        star["particles"].text("rlnAngleTilt")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": np.array([1.0])}, "1 values of x for 2 rows"),
        ({"x": np.array([1.0, np.nan])}, "x is not finite in row 2"),
        ({"x": np.zeros((2, 2))}, "one dimension"),
        ({"x": ["a", "two\nlines"]}, "cannot be written"),
        ({"x": ["a", "'both' \"kinds\""]}, "cannot be written"),
    ],
)
def test_columns_that_cannot_be_written(tmp_path, columns, message):
    star = StarFile.read(write(tmp_path / "a.star", RELION_31))
    with pytest.raises(ValueError, match=message):
        star.with_columns("particles", columns)


def test_many_chunks(tmp_path, monkeypatch):
    """Rows cross the edges of the pieces in which the text is read."""
    monkeypatch.setattr(star_text, "_CHUNK", 1000)
    n = 3000
    rows = [f"{k:06d}@a.mrcs {k / 7:.6f} {k}" + " # comment" * (k % 1000 == 0) for k in range(n)]
    text = "data_\nloop_\n_name\n_x\n_k\n" + "\n".join(rows)
    star = StarFile.read(write(tmp_path / "a.star", text))
    assert len(star[""]) == n
    assert star[""].integers("k").tolist() == list(range(n))
    assert star[""].numbers("x", "k")[-1].tolist() == [float(f"{(n - 1) / 7:.6f}"), n - 1]
    assert star[""].where(n - 1) == f"data_, row {n} (line {n + 5})"
    changed = star.with_columns("", {"k": np.arange(n)[::-1]})
    assert changed[""].integers("k").tolist() == list(range(n))[::-1]
    assert changed[""].text("name") == star[""].text("name")


CELLS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12)


@given(st.lists(st.tuples(CELLS, st.floats(-1e12, 1e12), st.integers(-(2**53), 2**53)), max_size=5))
def test_what_goes_in_comes_out(tmp_path_factory, rows):
    texts, floats, integers = ([row[k] for row in rows] for k in range(3))
    path = tmp_path_factory.mktemp("star") / "a.star"
    columns = {"t": texts, "f": np.array(floats, dtype=float), "i": np.array(integers, dtype=np.int64)}
    try:
        StarFile([StarBlock.from_columns("x", columns)]).write(path)
    except ValueError as error:
        assert "cannot be written" in str(error)  # noqa: PT017 which of the texts can be quoted is tested elsewhere
        assert any("'" in text and '"' in text for text in texts)
        return
    block = StarFile.read(path)["x"]
    assert block.text("t") == texts
    assert block.integers("i").tolist() == integers
    assert np.allclose(block.numbers("f")[:, 0], floats, rtol=1e-6, atol=5.1e-7)


PIECES = [
    "data_a",
    "data_",
    "loop_",
    "_x",
    "_y",
    "1",
    "a",
    " ",
    " ",
    "\n",
    "\n",
    "\r\n",
    "\t",
    "'",
    '"',
    "#",
    "é",
    "\0",
]


@given(
    st.sampled_from(["", "data_a\n_x 1\n", "data_b\nloop_\n_x\n_y\n"]), st.lists(st.sampled_from(PIECES), max_size=30)
)
def test_any_text_is_read_or_refused(tmp_path_factory, start, pieces):
    path = write(tmp_path_factory.mktemp("star") / "a.star", start + "".join(pieces))
    try:
        star = StarFile.read(path)
    except BadInput:
        return
    for block in star.blocks.values():
        for label in block.labels:
            assert len(block.text(label)) == len(block)
    star.write(path, overwrite=True)
    again = StarFile.read(path)
    assert {n: [b.text(x) for x in b.labels] for n, b in again.blocks.items()} == {
        n: [b.text(x) for x in b.labels] for n, b in star.blocks.items()
    }


STARS = [
    "aspire_relion_project/rln_proj_64.star",
    "aspire_relion_project/rln_proj_64_centered.star",
    "aspire_relion_project/rln_proj_64_shifted.star",
    "aspire_relion_project/rln_proj_65.star",
    "aspire_sample17/sample_particles_relion30.star",
    "aspire_sample17/sample_particles_relion31.star",
    "cryodrgn_empiar10076_7/empiar_10076_7.star",
    "cryodrgn_relion31_5/relion31.star",
    "cryodrgn_ribosome_tilt220/sta_testing_bin8.star",
    "cryodrgn_toy1000/toy_projections.star",
    "drgnai_ribosome_tilts10/M_particles_sub10.star",
    "simplecryoem_relion_project24/pyem.star",
    "simplecryoem_relion_project24/relion_proj_batch.star",
    "simplecryoem_relion_project24/relion_proj_batch_pfac2.star",
    "simplecryoem_relion_project24/relion_proj_batch_pfac3.star",
]


@pytest.mark.parametrize("name", STARS)
def test_real_files_agree_with_starfile_before_and_after_a_change(data, tmp_path, name):
    path = data("particles") / name
    star = StarFile.read(path)
    assert_same_cells(path, star)
    star.write(tmp_path / "same.star")
    assert (tmp_path / "same.star").read_bytes() == path.read_bytes()

    block = max(star.blocks.values(), key=len)
    new = np.arange(len(block)) / 8
    star.with_columns(block.name, {"rlnParticleFigureOfMerit": new}).write(tmp_path / "new.star")
    before, after = oracle(path), oracle(tmp_path / "new.star")
    figures = after[block.name].pop("rlnParticleFigureOfMerit")
    assert list(map(float, figures)) == new.tolist()
    assert list(before) == list(after)
    for name in before:
        assert before[name].equals(after[name])


def test_the_one_broken_file(data):
    path = data("particles") / "aspire_sample17/sample.star"
    with pytest.raises(BadInput) as caught:
        StarFile.read(path)
    assert str(caught.value) == f"{path}, line 20: 5 values; expected 4, one per column"


def test_reading_a_table_does_not_load_torch():
    code = "import sys, cryozoo.particles.star; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
