"""Held against poses that RELION, cryoDRGN and cryoSPARC wrote themselves, scipy, starfile, pickle and numpy."""

import json
import os
import pickle
import shutil
import subprocess
import zipfile
from contextlib import nullcontext
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
from scipy.spatial.transform import Rotation

from cryozoo.particles.cs import read_cs, write_cs
from cryozoo.particles.errors import BadInput, BadInputWarning
from cryozoo.particles.poses import PoseTable, load_table
from cryozoo.particles.star import StarBlock, StarFile

ROTATION = Rotation.random(8, rng=np.random.default_rng(0)).as_matrix()
SHIFT = np.random.default_rng(1).uniform(-20, 20, (8, 2))
CONFIDENCE = np.linspace(0, 1, 8)
EULER = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]


def angle(a, b):
    """Degrees between rotations."""
    return np.rad2deg(Rotation.from_matrix(np.swapaxes(a, -1, -2) @ b).magnitude())


def from_euler(euler):
    """The relation between RELION's angles and our matrix, by scipy."""
    return Rotation.from_euler("ZYZ", euler, degrees=True).as_matrix().swapaxes(-1, -2)


def read_star(path):
    return starfile.read(path, always_dict=True)


@pytest.fixture(scope="module")
def golden():
    folders = os.environ.get("CRYOZOO_DATA", "").split(os.pathsep)
    for folder in folders:
        path = Path(folder).parent / "golden_poses.json"
        if folder and path.exists():
            return json.loads(path.read_text())
    pytest.skip("no golden_poses.json beside CRYOZOO_DATA")


def expected(golden):
    cases = golden["cases"]
    assert len(cases) == 14
    rotation = np.array([case["relion_matrix_A"] for case in cases])
    origin = np.array([[case["relion"][f"rlnOrigin{axis}Angst"] for axis in "XY"] for case in cases])
    return cases, rotation, -origin


def test_golden_star(golden, tmp_path):
    cases, rotation, shift = expected(golden)
    columns = {label: np.array([case["relion"][label] for case in cases], dtype=float) for label in cases[0]["relion"]}
    StarFile([StarBlock.from_columns("particles", columns)]).write(tmp_path / "relion.star")
    poses = PoseTable.load(tmp_path / "relion.star")
    assert angle(poses.rotation, rotation).max() < 1e-4
    assert np.abs(poses.shift - shift).max() < 1e-5

    poses.save(tmp_path / "ours.star")
    written = read_star(tmp_path / "ours.star")["particles"]
    assert angle(from_euler(written[EULER].to_numpy()), rotation).max() < 1e-4
    assert np.abs(written[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy() + shift).max() < 1e-5
    assert written["rlnAngleTilt"].between(0, 180).all()


def test_golden_cs(golden, tmp_path):
    cases, rotation, shift = expected(golden)
    table = np.zeros(
        14, dtype=[("alignments3D/pose", "f4", 3), ("alignments3D/shift", "f4", 2), ("blob/psize_A", "f4")]
    )
    table["alignments3D/pose"] = [case["cryosparc"]["pose_rotvec"] for case in cases]
    table["alignments3D/shift"] = [case["cryosparc"]["shift_px"] for case in cases]
    table["blob/psize_A"] = golden["apix"]
    np.save(tmp_path / "cryosparc.npy", table)
    (tmp_path / "cryosparc.npy").rename(tmp_path / "cryosparc.cs")
    poses = PoseTable.load(tmp_path / "cryosparc.cs")
    assert angle(poses.rotation, rotation).max() < 1e-4
    assert np.abs(poses.shift - shift).max() < 1e-5

    poses.save(tmp_path / "ours.cs")
    PoseTable(rotation, shift, pixel_size=golden["apix"]).save(tmp_path / "new.cs")
    near_identity = np.array([case["name"] in ("identity", "small") for case in cases])
    for name in ("ours.cs", "new.cs"):
        written = np.load(tmp_path / name)
        error = angle(Rotation.from_rotvec(written["alignments3D/pose"]).as_matrix().swapaxes(1, 2), rotation)
        assert error[~near_identity].max() < 1e-4
        assert error[near_identity].max() < 3e-3
        assert np.abs(written["alignments3D/shift"] * golden["apix"] + shift).max() < 1e-5
        assert np.linalg.norm(written["alignments3D/pose"], axis=1).min() > 0  # cryoDRGN would make NaN of it
        assert np.allclose(written["alignments3D/psize_A"], golden["apix"])


def test_golden_pkl(golden, tmp_path):
    cases, rotation, shift = expected(golden)
    rots = np.array([case["cryodrgn"]["rot"] for case in cases])
    trans = np.array([case["cryodrgn"]["trans_frac"] for case in cases])
    box = {"image_size": golden["D"], "pixel_size": golden["apix"]}
    (tmp_path / "cryodrgn.pkl").write_bytes(pickle.dumps((rots, trans)))
    poses = PoseTable.load(tmp_path / "cryodrgn.pkl", **box)
    assert angle(poses.rotation, rotation).max() < 1e-4
    assert np.abs(poses.shift - shift).max() < 1e-5

    PoseTable(rotation, shift, **box).save(tmp_path / "ours.pkl")
    rots, trans = pickle.loads((tmp_path / "ours.pkl").read_bytes())
    for case, rot, tran in zip(cases, rots, trans, strict=True):
        assert angle(rot, np.array(case["cryodrgn"]["rot"])) < 1e-4
        assert np.abs(tran - case["cryodrgn"]["trans_frac"]).max() < 1e-9


def test_what_cryodrgn_made_of_a_real_cs_table(data):
    folder = data("particles") / "cryodrgn_cryosparc_table2019"
    poses = PoseTable.load(folder / "cryosparc_P12_J24_001_particles.cs")
    rots, _ = pickle.loads((folder / "pose.cs.pkl").read_bytes())
    assert angle(poses.rotation, rots).max() < 1e-3  # both went through float32
    theirs = PoseTable.load(folder / "pose.cs.pkl", image_size=180, pixel_size=poses.pixel_size)
    assert np.abs(theirs.shift - poses.shift).max() < 1e-3


def test_rotations_of_real_tilts(data):
    folder = data("particles") / "cryodrgn_ribosome_tilt220"
    rots, _ = pickle.loads((folder / "sta_pose.pkl").read_bytes())
    assert angle(PoseTable.load(folder / "sta_testing_bin8.star").rotation, rots).max() < 1e-5


STARS_WITH_POSES = [
    "aspire_relion_project/rln_proj_64.star",
    "aspire_relion_project/rln_proj_64_centered.star",
    "aspire_relion_project/rln_proj_64_shifted.star",
    "aspire_relion_project/rln_proj_65.star",
    "aspire_sample17/sample_particles_relion30.star",
    "aspire_sample17/sample_particles_relion31.star",
    "cryodrgn_relion31_5/relion31.star",
    "cryodrgn_ribosome_tilt220/sta_testing_bin8.star",
    "drgnai_ribosome_tilts10/M_particles_sub10.star",
    "simplecryoem_relion_project24/pyem.star",
    "simplecryoem_relion_project24/relion_proj_batch.star",
    "simplecryoem_relion_project24/relion_proj_batch_pfac2.star",
    "simplecryoem_relion_project24/relion_proj_batch_pfac3.star",
]


OF_OLD_POSES = ["rlnLogLikeliContribution", "rlnMaxValueProbDistribution", "rlnNrOfSignificantSamples"]


@pytest.mark.parametrize("name", STARS_WITH_POSES)
def test_real_star_keeps_everything_else(data, tmp_path, name):
    path = data("particles") / name
    poses = PoseTable.load(path)
    before = read_star(path)
    block = "particles" if "particles" in before else next(iter(before))
    assert angle(poses.rotation, from_euler(before[block][EULER].to_numpy())).max() < 1e-5

    n = len(poses)
    rng = np.random.default_rng(0)
    rotation = Rotation.random(n, rng=rng).as_matrix()
    shift = rng.uniform(-20, 20, (n, 2))
    new = PoseTable(rotation, shift, np.arange(n) / n, pixel_size=poses.pixel_size, particles=poses.particles)
    old = [label for label in OF_OLD_POSES if label in before[block]]
    with pytest.warns(BadInputWarning, match=", ".join(old)) if old else nullcontext():
        new.save(tmp_path / "new.star")
    after = read_star(tmp_path / "new.star")
    assert list(after) == list(before)
    before[block] = before[block].drop(columns=old)
    new_columns = [*EULER, "rlnParticleFigureOfMerit"]
    new_columns += [label for label in after[block] if label.startswith("rlnOrigin") and label[9] in "XY"]
    assert list(after[block])[: len(list(before[block]))] == list(before[block])
    assert set(after[block]) - set(before[block]) <= set(new_columns)
    for other in before:
        if other == block:
            same = [label for label in before[block] if label not in new_columns]
            assert after[block][same].equals(before[block][same])
        else:
            assert after[other].equals(before[other])

    assert angle(from_euler(after[block][EULER].to_numpy()), rotation).max() < 1e-4
    assert np.allclose(after[block]["rlnParticleFigureOfMerit"], np.arange(n) / n, atol=1e-6)
    again = PoseTable.load(tmp_path / "new.star", pixel_size=poses.pixel_size)
    assert np.abs(again.shift - shift).max() < 1e-5 * (poses.pixel_size or 1)
    # A file must not say two things: pixels and Angstrom agree.
    if {"rlnOriginX", "rlnOriginXAngst"} <= set(after[block]):
        assert np.allclose(after[block]["rlnOriginX"] * poses.pixel_size, after[block]["rlnOriginXAngst"], atol=1e-5)


def test_dialect_stays(data, tmp_path):
    folder = data("particles") / "aspire_sample17"
    for name, has, has_not in (
        ("sample_particles_relion30.star", "rlnOriginX", "rlnOriginXAngst"),
        ("sample_particles_relion31.star", "rlnOriginXAngst", "rlnOriginX"),
    ):
        poses = PoseTable.load(folder / name)
        poses.save(tmp_path / name)
        (block,) = [block for key, block in read_star(tmp_path / name).items() if key != "optics"]
        assert has in block
        assert has_not not in block
        assert np.abs(PoseTable.load(tmp_path / name).shift - poses.shift).max() < 1e-5


def test_real_cs_keeps_everything_else(data, tmp_path):
    path = data("particles") / "t20s_empiar10025_cryosparc/cryosparc_P9_J209_000_particles.cs"
    poses = PoseTable.load(path)
    before = read_cs(path)
    assert np.allclose(poses.shift, -before["alignments3D/shift"] * 1.02734375, atol=1e-5)
    rotation = ROTATION[np.arange(len(poses)) % 8]
    new = PoseTable(rotation, poses.shift, np.full(len(poses), 0.5), particles=poses.particles)
    kept = ("shift", "pose", "psize_A", "split", "class")
    old = [name for name in before.dtype.names if name.startswith("alignments3D/") and name[13:] not in kept]
    assert len(old) == 13
    with pytest.warns(BadInputWarning, match=", ".join(old)):
        new.save(tmp_path / "new.cs")
    after = np.load(tmp_path / "new.cs", max_header_size=100_000)
    assert after.dtype.names == (*(name for name in before.dtype.names if name not in old), "cryozoo/confidence")
    for name in set(before.dtype.names) - set(old):
        assert after.dtype[name] == before.dtype[name]
        if name != "alignments3D/pose":
            assert np.array_equal(after[name], before[name]), name
    again = PoseTable.load(tmp_path / "new.cs")
    assert angle(again.rotation, rotation).max() < 1e-4
    assert np.array_equal(again.confidence, new.confidence)


def test_unit_of_the_shifts_in_a_cs_table(tmp_path):
    """alignments3D/psize_A is the unit, also where images were binned afterwards."""
    table = np.zeros(2, dtype=[("alignments3D/pose", "f4", 3), ("alignments3D/shift", "f4", 2)])
    table["alignments3D/shift"] = [[1, 2], [3, -4]]
    write_cs(tmp_path / "a.cs", table)
    with pytest.raises(BadInput, match="shifts in pixels and no pixel size; give pixel_size"):
        PoseTable.load(tmp_path / "a.cs")
    assert PoseTable.load(tmp_path / "a.cs", pixel_size=2.0).shift.tolist() == [[-2, -4], [-6, 8]]
    with_unit = np.zeros(2, dtype=[*table.dtype.descr, ("alignments3D/psize_A", "f4"), ("blob/psize_A", "f4")])
    with_unit["alignments3D/shift"] = table["alignments3D/shift"]
    with_unit["alignments3D/psize_A"] = [0.5, 0.25]
    with_unit["blob/psize_A"] = 2
    write_cs(tmp_path / "b.cs", with_unit)
    poses = PoseTable.load(tmp_path / "b.cs")
    assert poses.pixel_size == 2
    assert poses.shift.tolist() == [[-0.5, -1], [-0.75, 1]]
    poses.save(tmp_path / "c.cs")
    assert np.array_equal(np.load(tmp_path / "c.cs")["alignments3D/shift"], table["alignments3D/shift"])


@pytest.mark.parametrize("suffix", ["star", "cs", "pkl", "npz"])
def test_round_trip(tmp_path, suffix):
    poses = PoseTable(ROTATION, SHIFT, CONFIDENCE, image_size=64, pixel_size=1.5)
    path = tmp_path / f"a.{suffix}"
    poses.save(path)
    with pytest.raises(BadInput, match="exists already"):
        poses.save(path)
    poses.save(path, overwrite=True)
    again = PoseTable.load(path, image_size=64, pixel_size=1.5)
    tolerance = {"star": 1e-6, "cs": 2e-6, "pkl": 1e-12, "npz": 0}[suffix]
    assert len(again) == 8
    assert np.abs(again.rotation - ROTATION).max() <= max(tolerance, 1e-15)
    assert np.abs(again.shift - SHIFT).max() <= tolerance
    assert (again.image_size, again.pixel_size) == (64, 1.5)
    if suffix == "pkl":
        assert again.confidence is None
    else:
        assert np.abs(again.confidence - CONFIDENCE).max() <= tolerance


def test_npz_says_everything_itself(tmp_path):
    PoseTable(ROTATION, SHIFT, image_size=64, pixel_size=1.5).save(tmp_path / "a.npz")
    again = PoseTable.load(tmp_path / "a.npz")
    assert (again.image_size, again.pixel_size, again.confidence) == (64, 1.5, None)
    with np.load(tmp_path / "a.npz") as stored:
        assert sorted(stored) == ["image_size", "pixel_size", "rotation", "shift"]


def test_fractions_need_the_box(tmp_path):
    for box in ({}, {"image_size": 64}, {"pixel_size": 1.5}):
        with pytest.raises(BadInput, match=r"a\.pkl: shifts in Angstrom and no (image_size|pixel_size)"):
            PoseTable(ROTATION, SHIFT, **box).save(tmp_path / "a.pkl")
    assert os.listdir(tmp_path) == []
    PoseTable(ROTATION, SHIFT, image_size=64, pixel_size=1.5).save(tmp_path / "a.pkl")
    with pytest.raises(BadInput, match=r"shifts in fractions of the box; .* give image_size and pixel_size"):
        PoseTable.load(tmp_path / "a.pkl")
    # Nothing to convert: no box is needed.
    PoseTable(ROTATION).save(tmp_path / "zero.pkl")
    assert not PoseTable.load(tmp_path / "zero.pkl").shift.any()


def test_pixels_need_their_size(data, tmp_path):
    with pytest.raises(BadInput, match=r"a\.cs: shifts in Angstrom and no pixel_size"):
        PoseTable(ROTATION, SHIFT).save(tmp_path / "a.cs")
    columns = {**dict.fromkeys(EULER, np.zeros(8)), "rlnOriginX": np.arange(8.0), "rlnOriginY": np.zeros(8)}
    StarFile([StarBlock.from_columns("", columns)]).write(tmp_path / "a.star")
    with pytest.raises(BadInput, match=r"a\.star: shifts in pixels and no pixel size"):
        PoseTable.load(tmp_path / "a.star")
    poses = PoseTable.load(tmp_path / "a.star", pixel_size=2.0)
    assert poses.shift[:, 0].tolist() == (-2 * np.arange(8)).tolist()
    poses.pixel_size = None
    with pytest.raises(BadInput, match=r"a\.star: no pixel size"):
        poses.save(tmp_path / "b.star")


def test_new_star_from_a_cs_table_has_what_relion_needs(data, tmp_path):
    """Settings of the microscope become optics groups."""
    path = data("particles") / "cryodrgn_cryosparc_table2019/cryosparc_P12_J24_001_particles.cs"
    table = read_cs(path)
    table["ctf/accel_kv"][1000:] = 300
    write_cs(tmp_path / "in.cs", table)
    with pytest.warns(BadInputWarning) as seen:
        PoseTable.load(tmp_path / "in.cs").save(tmp_path / "out.star")
    assert ["blob/sign" in str(warning.message) for warning in seen] == [True, False]
    assert "RELION reads stacks of images from .mrcs, not .mrc" in str(seen[1].message)
    star = read_star(tmp_path / "out.star")
    optics, particles = star["optics"], star["particles"]
    assert optics["rlnVoltage"].tolist() == [200, 300]
    assert optics["rlnImageSize"].tolist() == [180, 180]
    assert np.allclose(optics["rlnImagePixelSize"], 2.95)
    assert set(optics) >= {"rlnOpticsGroupName", "rlnSphericalAberration", "rlnAmplitudeContrast"}
    assert particles["rlnOpticsGroup"].tolist() == [1] * 1000 + [2] * 1019
    name = table["blob/path"][7].decode()
    assert particles["rlnImageName"][7] == f"{table['blob/idx'][7] + 1:06d}@{name}"
    assert np.allclose(particles["rlnDefocusU"], table["ctf/df1_A"])
    assert np.allclose(particles["rlnDefocusAngle"], np.rad2deg(table["ctf/df_angle_rad"]), atol=1e-5)
    rotation = Rotation.from_rotvec(table["alignments3D/pose"]).as_matrix().swapaxes(1, 2)
    assert angle(from_euler(particles[EULER].to_numpy()), rotation).max() < 1e-4
    assert np.allclose(particles["rlnOriginXAngst"], table["alignments3D/shift"][:, 0] * 2.95, atol=1e-4)


def test_new_cs_table_from_a_star_file(data, tmp_path):
    path = data("particles") / "simplecryoem_relion_project24/relion_proj_batch.star"
    poses = PoseTable.load(path)
    poses.save(tmp_path / "a.cs")
    table = np.load(tmp_path / "a.cs")
    particles = read_star(path)["particles"]
    assert table["blob/path"].tolist() == [b"relion_proj_batch.mrcs"] * 24
    assert table["blob/idx"].tolist() == list(range(24))
    assert table["blob/shape"].tolist() == [[64, 64]] * 24
    assert len(set(table["uid"])) == 24
    assert np.allclose(table["ctf/df1_A"], particles["rlnDefocusU"])
    assert np.allclose(table["ctf/df_angle_rad"], np.deg2rad(particles["rlnDefocusAngle"]))
    assert np.allclose(table["ctf/accel_kv"], 200)
    assert np.allclose(table["alignments3D/shift"][:, 0] * 3.54, particles["rlnOriginXAngst"], atol=1e-5)


def test_half_sets_and_envelopes_go_both_ways(data, tmp_path):
    """RELION counts half-sets from 1, cryoSPARC from 0; B-factors are in Angstrom^2 in both."""
    path = data("particles") / "aspire_sample17/sample_particles_relion31.star"
    half_set, b_factor = np.arange(17) // 5 % 2 + 1, np.linspace(0, 80, 17)
    columns = {"rlnRandomSubset": half_set, "rlnCtfBfactor": b_factor}
    StarFile.read(path).with_columns("particles", columns).write(tmp_path / "a.star")
    PoseTable.load(tmp_path / "a.star", pixel_size=2.0).save(tmp_path / "b.cs")
    table = np.load(tmp_path / "b.cs")
    assert table["alignments3D/split"].dtype == np.uint32
    assert table["alignments3D/split"].tolist() == (half_set - 1).tolist()
    assert np.allclose(table["ctf/bfactor"], b_factor)
    PoseTable.load(tmp_path / "b.cs").save(tmp_path / "c.star")
    particles = read_star(tmp_path / "c.star")["particles"]
    assert particles["rlnRandomSubset"].tolist() == half_set.tolist()
    assert np.allclose(particles["rlnCtfBfactor"], b_factor)


def test_half_sets_of_tables(tmp_path):
    """Whole numbers are read and follow their rows; they have to be 1 or 2 where they are used."""
    columns = {**dict.fromkeys(EULER, np.arange(4.0)), "rlnRandomSubset": np.array([1, 2, 7, 2])}
    StarFile([StarBlock.from_columns("particles", columns)]).write(tmp_path / "a.star")
    table = load_table(tmp_path / "a.star")
    assert table.half_set.tolist() == [1, 2, 7, 2]
    with pytest.raises(
        BadInput, match=r"a\.star, data_particles, row 3 .*, rlnRandomSubset: half-set 7; expected 1 or 2"
    ):
        table.checked_half_set()
    assert table.subset(np.array([3, 0])).checked_half_set().tolist() == [2, 1]
    fields = np.zeros(3, dtype=[("alignments3D/split", "u4")])
    fields["alignments3D/split"] = [0, 1, 2]
    write_cs(tmp_path / "a.cs", fields)
    table = load_table(tmp_path / "a.cs")
    assert table.half_set.tolist() == [1, 2, 3]
    with pytest.raises(BadInput, match=r"a\.cs, row 3, alignments3D/split: half-set 2; expected 0 or 1"):
        table.checked_half_set()
    columns["rlnRandomSubset"] = ["1", "2", "1.5", "2"]
    StarFile([StarBlock.from_columns("particles", columns)]).write(tmp_path / "b.star")
    with pytest.raises(BadInput, match=r"row 3 .*, rlnRandomSubset: 1\.5; expected a whole number"):
        load_table(tmp_path / "b.star")


def test_tables_without_half_sets_get_none(tmp_path):
    PoseTable(ROTATION).save(tmp_path / "a.cs")
    assert "alignments3D/split" not in np.load(tmp_path / "a.cs").dtype.names
    PoseTable.load(tmp_path / "a.cs").save(tmp_path / "b.star")
    assert "rlnRandomSubset" not in (tmp_path / "b.star").read_text()


def test_unknown_microscope(tmp_path):
    """RELION opens no data_optics without these columns; the file says that they mean nothing."""
    PoseTable(ROTATION, SHIFT, pixel_size=1.5).save(tmp_path / "a.star")
    assert {"rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"} <= set(
        read_star(tmp_path / "a.star")["optics"]
    )
    assert "# the microscope is not known" in (tmp_path / "a.star").read_text()
    poses = PoseTable.load(tmp_path / "a.star")
    assert poses.particles.ctf is None
    assert poses.pixel_size == 1.5


def test_star_without_names_or_box(tmp_path):
    PoseTable(ROTATION).save(tmp_path / "a.star")
    star = read_star(tmp_path / "a.star")
    assert list(star) == ["particles"]
    assert list(star["particles"]) == [*EULER, "rlnOriginXAngst", "rlnOriginYAngst"]


def test_chosen_rows(data, tmp_path):
    poses = PoseTable(ROTATION, SHIFT, CONFIDENCE, image_size=64, pixel_size=1.5).subset([3, 0])
    assert np.array_equal(poses.rotation, ROTATION[[3, 0]])
    assert np.array_equal(poses.shift, SHIFT[[3, 0]])
    assert np.array_equal(poses.confidence, CONFIDENCE[[3, 0]])
    assert (poses.image_size, poses.pixel_size) == (64, 1.5)

    path = data("particles") / "simplecryoem_relion_project24/relion_proj_batch.star"
    PoseTable.load(path).subset([23, 5]).save(tmp_path / "a.star")
    before, after = read_star(path)["particles"], read_star(tmp_path / "a.star")["particles"]
    assert after["rlnImageName"].tolist() == before["rlnImageName"][[23, 5]].tolist()
    assert np.allclose(after["rlnAngleRot"], before["rlnAngleRot"][[23, 5]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rotation": np.zeros((8, 4))}, r"poses: rotations of shape \(8, 4\); expected \(N, 3, 3\)"),
        ({"rotation": np.eye(3)}, r"rotations of shape \(3, 3\)"),
        ({"rotation": ROTATION[:0], "shift": SHIFT[:0], "confidence": None}, "poses: 0 poses"),
        ({"shift": SHIFT[:7]}, r"shifts of shape \(7, 2\); expected \(8, 2\)"),
        ({"confidence": CONFIDENCE[:7]}, r"confidences of shape \(7,\)"),
        ({"rotation": 1.5 * ROTATION}, "row 1: a matrix whose rows are not orthonormal"),
        ({"rotation": ROTATION * [1, 1, -1]}, r"row 1: a mirror \(determinant -1\) in 8 rows"),
        ({"rotation": np.where(np.arange(8)[:, None, None] == 3, np.nan, ROTATION)}, "row 4: rotation .*nan"),
        ({"shift": np.where(np.arange(8)[:, None] == 5, np.inf, SHIFT)}, "row 6: shift .*inf"),
        ({"confidence": np.where(np.arange(8) == 7, np.nan, 1)}, "row 8: confidence nan"),
        ({"pixel_size": 0.0}, "pixel_size 0; expected 0.01 to 1000"),
        ({"pixel_size": 1e300}, "expected 0.01 to 1000"),
        ({"image_size": 2**64}, "expected 1 to 65536"),
        ({"image_size": -64}, "image_size -64"),
    ],
)
def test_what_is_no_pose(arguments, message):
    with pytest.raises(BadInput, match=message):
        PoseTable(**({"rotation": ROTATION, "shift": SHIFT, "confidence": CONFIDENCE} | arguments))


def test_number_of_poses_is_that_of_the_particles(data):
    poses = PoseTable.load(data("particles") / "cryodrgn_relion31_5/relion31.star")
    with pytest.raises(BadInput, match=r"relion31\.star: 8 poses; expected 5, one per particle"):
        PoseTable(ROTATION, particles=poses.particles)


@pytest.mark.parametrize("name", ["a.txt", "a", "a.mrcs"])
def test_other_suffixes(tmp_path, name):
    with pytest.raises(BadInput, match=r"expected one of \.star, \.cs, \.pkl, \.npz"):
        PoseTable(ROTATION).save(tmp_path / name)
    with pytest.raises(BadInput, match=r"expected one of \.star, \.cs, \.pkl, \.npz"):
        PoseTable.load(tmp_path / name)


def test_files_without_poses(data):
    folder = data("particles")
    with pytest.raises(BadInput, match="no poses: rlnAngleRot, rlnAngleTilt, rlnAnglePsi is missing"):
        PoseTable.load(folder / "cryodrgn_empiar10076_7/empiar_10076_7.star")
    with pytest.raises(BadInput, match="no poses: alignments3D/pose is missing"):
        PoseTable.load(folder / "cryodrgn_empiar10076_7/empiar_10076_7.cs")


@pytest.mark.parametrize("name", ["hand_rot.pkl", "hand_rot_trans.pkl"])
def test_real_pose_pickles(data, name):
    poses = PoseTable.load(data("particles") / "cryodrgn_hand100" / name, image_size=64, pixel_size=1.0)
    assert len(poses) == 100


def test_hostile_npz(tmp_path):
    class Attack:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "canary"),))

    path = tmp_path / "a.npz"
    np.save(tmp_path / "one.npy", ROTATION)
    np.savez(path, rotation=np.array([Attack()], dtype=object))
    with pytest.raises(BadInput, match=r"a\.npz, rotation, header: cannot use"):
        PoseTable.load(path)
    assert not (tmp_path / "canary").exists()
    np.savez_compressed(path, rotation=np.zeros((100_000, 3, 3)))
    with pytest.raises(BadInput, match=r"a\.npz: 'rotation\.npy'; expected poses saved by cryozoo"):
        PoseTable.load(path)
    np.savez(path, rotation=ROTATION, other=SHIFT)
    with pytest.raises(BadInput, match=r"a\.npz: 'other\.npy'"):
        PoseTable.load(path)
    np.savez(path, shift=SHIFT)
    with pytest.raises(BadInput, match="no rotation"):
        PoseTable.load(path)
    np.savez(path, rotation=np.array(["x"]))
    with pytest.raises(BadInput, match="rotation: <U1; expected numbers"):
        PoseTable.load(path)
    np.savez(path, rotation=ROTATION, pixel_size=[1.0, 2.0])
    with pytest.raises(BadInput, match="pixel_size: 2 values; expected one"):
        PoseTable.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(tmp_path / "one.npy", "rotation.npy")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.write(tmp_path / "one.npy", "rotation.npy")
    with pytest.raises(BadInput, match=r"'rotation\.npy'"):
        PoseTable.load(path)


def test_damaged_npz(tmp_path):
    path = tmp_path / "a.npz"
    PoseTable(ROTATION[:1], SHIFT[:1]).save(path)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(500):
        broken = bytearray(content[: rng.integers(len(content))] if rng.random() < 0.2 else content)
        if broken:
            broken[rng.integers(len(broken))] = rng.integers(256)
        path.write_bytes(broken)
        try:
            assert len(PoseTable.load(path)) == 1
        except BadInput as error:
            assert str(error).startswith(str(path))  # noqa: PT017 either outcome is right


@pytest.mark.referee
@pytest.mark.skipif(shutil.which("relion_project") is None, reason="RELION is not installed")
@pytest.mark.parametrize("way", ["star", "new star", "cs", "pkl", "npz"])
def test_relion_projects_the_same_after_any_way_through(data, tmp_path, way):
    """Angles and origins that went through our files give RELION's own projections again."""
    folder = data("particles")
    path = folder / "simplecryoem_relion_project24/relion_proj_batch.star"
    poses = PoseTable.load(path)
    if way != "star":
        suffix = way.split()[-1]
        PoseTable(poses.rotation, poses.shift, image_size=64, pixel_size=3.54).save(tmp_path / f"way.{suffix}")
        poses = PoseTable.load(tmp_path / f"way.{suffix}", image_size=64, pixel_size=3.54)
        poses = PoseTable(poses.rotation, poses.shift, pixel_size=3.54)
    poses.save(tmp_path / "ours.star")
    images = []
    for name, table in (("theirs", path), ("ours", tmp_path / "ours.star")):
        command = ["relion_project", "--i", folder / "cryodrgn_hand100/hand-vol.mrc", "--o", tmp_path / name]
        subprocess.run([*command, "--ang", table, "--angpix", "3.54"], check=True, capture_output=True, cwd=tmp_path)
        images.append(mrcfile.read(tmp_path / f"{name}.mrcs"))
    assert images[0].shape == (24, 64, 64)
    assert images[0].std() > 0.01
    # Float32 in a .cs table moves voxels across the edge of the sphere that RELION projects: 3e-4.
    assert np.abs(images[0] - images[1]).max() < 1e-3 * np.abs(images[0]).max()


OPTICS = "data_optics\n\nloop_\n" + "".join(
    f"_rln{name} #{k}\n"
    for k, name in enumerate(
        ["OpticsGroup", "Voltage", "SphericalAberration", "AmplitudeContrast", "ImagePixelSize"], 1
    )
)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["OriginXAngst"], "rlnOriginXAngst and no rlnOriginYAngst; expected rlnOriginYAngst beside it"),
        (["OriginYAngst"], "rlnOriginYAngst and no rlnOriginXAngst"),
        (["OriginY"], "rlnOriginY and no rlnOriginX;"),
        (["DefocusV", "DefocusAngle"], "rlnDefocusV and no rlnDefocusU.* take rlnDefocusV and rlnDefocusAngle out"),
        (["DefocusAngle"], "rlnDefocusAngle and no rlnDefocusU"),
        (["DefocusU"], None),
        (["OriginX", "OriginY"], None),
        (["PhaseShift"], None),
    ],
)
def test_half_a_set_of_columns(tmp_path, columns, message):
    """It would be taken for none at all: shifts of 0, and images without a CTF."""
    names = [*EULER, "rlnOpticsGroup", *(f"rln{column}" for column in columns)]
    header = "".join(f"_{name} #{k}\n" for k, name in enumerate(names, 1))
    row = " ".join(["10", "20", "30", "1", *["500"] * len(columns)])
    path = tmp_path / "half.star"
    path.write_text(f"{OPTICS}1 300 2.7 0.1 2\n\ndata_particles\n\nloop_\n{header}{row}\n{row}\n")
    if message is None:
        assert len(PoseTable.load(path)) == 2
    else:
        with pytest.raises(BadInput, match=rf"half\.star: .*{message}"):
            PoseTable.load(path)


def test_half_a_defocus_in_a_cs_table(tmp_path):
    fields = np.zeros(2, dtype=[("alignments3D/pose", "f4", (3,)), ("ctf/df1_A", "f4"), ("ctf/df_angle_rad", "f4")])
    np.save(tmp_path / "half.npy", fields)
    (tmp_path / "half.npy").rename(tmp_path / "half.cs")
    with pytest.raises(
        BadInput, match=r"half\.cs: ctf/df1_A and ctf/df_angle_rad and no ctf/df2_A; expected all three"
    ):
        PoseTable.load(tmp_path / "half.cs")


@pytest.mark.parametrize(
    ("changed", "values", "named"),
    [
        ("CtfScalefactor", "1 1", ()),
        ("CtfScalefactor", "0.5 0.5", ()),
        ("CtfScalefactor", "0.5 0.6", ("rlnCtfScalefactor",)),
        ("BeamTiltY", "0 0.1", ("rlnBeamTiltY",)),
        ("MagMat00", "1.01 1.01", ("rlnMagMat00",)),
    ],
)
def test_what_is_not_modelled_of_the_microscope(tmp_path, changed, values, named):
    microscope = ["DefocusU", "CtfScalefactor", "BeamTiltX", "BeamTiltY", "MagMat00", "MagMat01"]
    names = [*EULER, "rlnOpticsGroup", *(f"rln{column}" for column in microscope)]
    idle = dict(zip(names, [10, 20, 30, 1, 9000, 1, 0, 0, 1, 0], strict=True))
    rows = [" ".join(map(str, {**idle, f"rln{changed}": value}.values())) for value in values.split()]
    header = "".join(f"_{name} #{k}\n" for k, name in enumerate(names, 1))
    path = tmp_path / "tilted.star"
    path.write_text(f"{OPTICS}1 300 2.7 0.1 2\n\ndata_particles\n\nloop_\n{header}" + "\n".join(rows) + "\n")
    assert load_table(path).unmodelled == named


def test_what_is_not_modelled_in_a_cs_table(tmp_path):
    numbers = ["df1_A", "df2_A", "df_angle_rad", "accel_kv", "cs_mm", "amp_contrast", "scale"]
    kinds = {"alignments3D/pose": (3,), **{f"ctf/{name}": () for name in numbers}, "ctf/tilt_A": (2,)}
    fields = np.zeros(2, dtype=[(name, "f4", shape) for name, shape in kinds.items()])
    fields["ctf/accel_kv"] = 300
    fields["ctf/tilt_A"][1] = 0.2
    with open(tmp_path / "tilted.cs", "wb") as file:
        np.save(file, fields)
    assert load_table(tmp_path / "tilted.cs").unmodelled == ("ctf/tilt_A",)
