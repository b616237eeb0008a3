"""Held against mrcfile and starfile."""

import os
import pickle
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import starfile
from scipy.spatial.transform import Rotation

from cryozoo.particles import image_files
from cryozoo.particles import stack as stack_module
from cryozoo.particles.cs import read_cs
from cryozoo.particles.errors import BadInput, BadInputWarning
from cryozoo.particles.mrc_writer import write_stack
from cryozoo.particles.poses import PoseTable
from cryozoo.particles.stack import ParticleStack
from cryozoo.particles.star import StarBlock, StarFile

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(12, 16, 16)).astype(np.float32)
EULER = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]


def write_star(path: Path, names: list[str], **columns) -> Path:
    """A small RELION 3.1 file."""
    optics: dict[str, Any] = {
        "rlnOpticsGroup": np.array([1]),
        "rlnOpticsGroupName": ["one"],
        "rlnVoltage": np.array([300.0]),
        "rlnSphericalAberration": np.array([2.7]),
        "rlnAmplitudeContrast": np.array([0.1]),
        "rlnImagePixelSize": np.array([1.5]),
        "rlnImageSize": np.array([16]),
    }
    particles: dict[str, Any] = {"rlnImageName": names, "rlnOpticsGroup": np.ones(len(names), dtype=int), **columns}
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = [StarBlock.from_columns("optics", optics), StarBlock.from_columns("particles", particles)]
    StarFile(blocks).write(path, overwrite=True)
    return path


@pytest.fixture
def folder(tmp_path):
    """A project: images in Extract/, a table in a job folder."""
    (tmp_path / "project/Extract").mkdir(parents=True)
    for k in range(3):
        write_stack(tmp_path / f"project/Extract/m{k}.mrcs", IMAGES[4 * k : 4 * k + 4], 1.5)
    return tmp_path / "project"


def names(rows):
    return [f"{row % 4 + 1:06d}@Extract/m{row // 4}.mrcs" for row in rows]


def test_rows_whose_file_is_missing_can_be_left_out(folder):
    """The other files keep their rows; where nothing is left, or nobody asked, it is an error."""
    (folder / "Extract/m1.mrcs").unlink()
    table = write_star(folder / "a.star", names([4, 0, 9, 5, 2]), rlnDefocusU=np.arange(5.0) + 10_000)
    with pytest.raises(BadInput, match=r"row 1 .*image file 'Extract/m1.mrcs' is missing"):
        ParticleStack.open(table)
    with pytest.warns(BadInputWarning, match=r"left out: an image whose file is missing \(2 times, first: .*row 1"):
        stack = ParticleStack.open(table, skip_bad=True)
    np.testing.assert_array_equal(stack.images(np.arange(3)), IMAGES[[0, 9, 2]])
    assert [path.name for path in stack.image_files] == ["m0.mrcs", "m2.mrcs"]
    assert stack.star is not None
    written = stack.with_poses(np.tile(np.eye(3), (3, 1, 1)))
    written.save(folder / "out.star")
    assert ParticleStack.open(folder / "out.star").image_files == stack.image_files
    with pytest.raises(BadInput, match=r"m1\.mrcs' is missing"):
        ParticleStack.open(write_star(folder / "b.star", names([4, 5])), skip_bad=True)


def test_a_negative_defocus_is_said(folder):
    table = write_star(folder / "a.star", names([0, 1]), rlnDefocusU=[-1e4, 1e4], rlnDefocusV=[-1e4, 1e4])
    with pytest.warns(BadInputWarning, match=r"a negative defocus, which is overfocus.*row 1.*-10000"):
        ParticleStack.open(table)


ROWS = [5, 0, 11, 4, 6, 7, 1]


def test_rows_find_their_images(folder):
    stack = ParticleStack.open(write_star(folder / "Refine3D/job007/run_data.star", names(ROWS)))
    assert len(stack) == 7
    assert (stack.image_size, stack.pixel_size) == (16, 1.5)
    for indices in ([0], range(7), [6, 0, 3, 3, 2], np.array([4], dtype=np.uint8), []):
        images = stack.images(indices)
        assert images.dtype == np.float32
        assert np.array_equal(images, IMAGES[np.array(ROWS)[list(indices)]].reshape(-1, 16, 16))
    assert stack.poses is None
    assert stack.ctf is None
    assert stack.star["particles"].text("rlnImageName") == names(ROWS)


def test_columns(folder):
    n = len(ROWS)
    columns = {label: RNG.uniform(0, 180, n) for label in EULER}
    columns |= {"rlnOriginXAngst": RNG.normal(size=n), "rlnOriginYAngst": RNG.normal(size=n)}
    columns |= {"rlnDefocusU": RNG.uniform(1e4, 2e4, n), "rlnDefocusV": RNG.uniform(1e4, 2e4, n)}
    columns |= {"rlnDefocusAngle": RNG.uniform(-90, 90, n), "rlnParticleFigureOfMerit": RNG.uniform(0, 1, n)}
    stack = ParticleStack.open(write_star(folder / "a.star", names(ROWS), **columns))
    written = starfile.read(folder / "a.star")["particles"]
    euler = written[EULER].to_numpy()
    rotation = Rotation.from_euler("ZYZ", euler, degrees=True).as_matrix().transpose(0, 2, 1)
    assert np.abs(stack.poses.rotation - rotation).max() < 1e-12
    assert np.array_equal(stack.poses.shift, -written[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy())
    assert np.array_equal(stack.poses.confidence, written["rlnParticleFigureOfMerit"])
    assert np.array_equal(stack.ctf.defocus_u, written["rlnDefocusU"])
    assert np.array_equal(stack.ctf.defocus_v, written["rlnDefocusV"])
    assert np.array_equal(stack.ctf.defocus_angle, written["rlnDefocusAngle"])
    for name, value in {
        "voltage": 300,
        "spherical_aberration": 2.7,
        "amplitude_contrast": 0.1,
        "phase_shift": 0,
    }.items():
        assert getattr(stack.ctf, name).tolist() == [value] * n
    assert len(stack.ctf) == n
    assert np.array_equal(stack.ctf[[2, 1]].defocus_u, written["rlnDefocusU"][[2, 1]])


def test_chosen_particles(folder):
    columns = dict.fromkeys(EULER, np.arange(7.0))
    stack = ParticleStack.open(write_star(folder / "a.star", names(ROWS), **columns))
    chosen = stack.subset([6, 2]).subset([1, 0])
    assert len(chosen) == 2
    assert np.array_equal(chosen.images([0, 1]), IMAGES[[ROWS[2], ROWS[6]]])
    assert chosen.star["particles"].numbers("rlnAngleRot")[:, 0].tolist() == [2, 6]
    assert np.array_equal(chosen.poses.rotation, stack.poses.rotation[[2, 6]])


@pytest.mark.parametrize("indices", [[-1], [7], [0.5], [True]])
def test_rows_that_are_not_there(folder, indices):
    stack = ParticleStack.open(write_star(folder / "a.star", names(ROWS)))
    for method in (stack.images, stack.subset):
        with pytest.raises(IndexError):
            method(indices)


def test_a_copy_in_another_process_works_and_no_file_stays_open(folder):
    before = os.listdir("/proc/self/fd")
    stack = ParticleStack.open(write_star(folder / "a.star", names(ROWS)))
    stack.images(range(7))
    assert len(os.listdir("/proc/self/fd")) == len(before)
    copy = pickle.loads(pickle.dumps(stack))
    assert np.array_equal(copy.images(range(7)), stack.images(range(7)))


def test_predicted_poses_keep_the_table(folder):
    columns = {"rlnMicrographName": [f"mic {k}" for k in range(7)]}
    stack = ParticleStack.open(write_star(folder / "a.star", names(ROWS), **columns))
    rotation = Rotation.random(7, rng=np.random.default_rng(1)).as_matrix()
    poses = stack.with_poses(rotation, np.ones((7, 2)), np.linspace(0, 1, 7))
    assert (poses.image_size, poses.pixel_size) == (16, 1.5)
    (folder / "out/job").mkdir(parents=True)
    poses.save(folder / "out/job/b.star")
    again = ParticleStack.open(folder / "out/job/b.star")  # the names are still found
    assert np.array_equal(again.images(range(7)), stack.images(range(7)))
    assert np.abs(again.poses.rotation - rotation).max() < 1e-7
    assert again.star["particles"].text("rlnMicrographName") == columns["rlnMicrographName"]
    assert again.star["optics"].labels == stack.star["optics"].labels


def test_bare_stack(folder, monkeypatch):
    monkeypatch.chdir(folder)
    stack = ParticleStack.open("Extract/m1.mrcs")
    assert (len(stack), stack.image_size, stack.pixel_size) == (4, 16, 1.5)
    assert np.array_equal(stack.images([3, 0]), IMAGES[[7, 4]])
    assert stack.star is None
    assert stack.poses is None
    Path("job").mkdir()
    stack.subset([2, 0]).with_poses(np.stack([np.eye(3)] * 2)).save("job/a.star")
    written = starfile.read("job/a.star")
    assert written["particles"]["rlnImageName"].tolist() == ["000003@Extract/m1.mrcs", "000001@Extract/m1.mrcs"]
    assert written["optics"]["rlnImagePixelSize"].tolist() == [1.5]
    assert written["optics"]["rlnImageSize"].tolist() == [16]
    assert np.array_equal(ParticleStack.open("job/a.star").images([0, 1]), IMAGES[[6, 4]])


def test_where_images_are_looked_for(folder, tmp_path):
    table = write_star(tmp_path / "elsewhere/a.star", names(ROWS))
    with pytest.raises(BadInput, match=r"row 1 \(line 23\): image file 'Extract/m1.mrcs' is missing; looked in"):
        ParticleStack.open(table)
    stack = ParticleStack.open(table, datadir=folder)
    assert np.array_equal(stack.images([0]), IMAGES[[ROWS[0]]])
    with pytest.raises(BadInput, match="nowhere: is not a folder"):
        ParticleStack.open(table, datadir=tmp_path / "nowhere")
    # The table's own folder comes first.
    (tmp_path / "elsewhere/Extract").mkdir()
    for k in range(3):
        write_stack(tmp_path / f"elsewhere/Extract/m{k}.mrcs", -IMAGES[4 * k : 4 * k + 4], 1.5)
    assert np.array_equal(ParticleStack.open(table, datadir=folder).images([0]), -IMAGES[[ROWS[0]]])


@pytest.mark.parametrize("kind", ["dots", "absolute", "link", "linked folder"])
def test_names_that_lead_out(folder, tmp_path, kind):
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    target = folder / "Extract/m0.mrcs"
    if kind == "link":
        (jobs / "m0.mrcs").symlink_to(target)
    if kind == "linked folder":
        (jobs / "Extract").symlink_to(folder / "Extract")
    name = {
        "dots": "../project/Extract/m0.mrcs",
        "absolute": str(target),
        "link": "m0.mrcs",
        "linked folder": "Extract/m0.mrcs",
    }[kind]
    table = write_star(jobs / "a.star", [f"1@{name}"])
    with pytest.raises(BadInput, match=r"a\.star, data_particles, row 1 .* leads out to .*m0\.mrcs; .* datadir"):
        ParticleStack.open(table)
    for allowed in ({"allow_outside": True}, {"datadir": folder}):
        assert np.array_equal(ParticleStack.open(table, **allowed).images([0]), IMAGES[:1])


def test_dots_and_links_that_stay_inside(folder):
    (folder / "link.mrcs").symlink_to(folder / "Extract/m0.mrcs")
    (folder / "linked").symlink_to(folder / "Extract")
    rows = ["1@./Extract/../Extract/m0.mrcs", "2@link.mrcs", "3@linked/m0.mrcs", f"4@{folder}/Extract/m0.mrcs"]
    assert np.array_equal(ParticleStack.open(write_star(folder / "a.star", rows)).images(range(4)), IMAGES[:4])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (np.nan, "an image with NaN or infinite pixels"),
        (-np.inf, "an image with NaN or infinite pixels"),
        (1e30, r"an image with values beyond 1e\+15"),
        ("constant", "a constant image"),
        ("zero", "a constant image"),
    ],
)
def test_bad_images(folder, fault, message):
    images = IMAGES[4:8].copy()
    if isinstance(fault, str):
        images[1] = 7 if fault == "constant" else 0
    else:
        images[1, 3, 2] = fault
    with warnings.catch_warnings(), mrcfile.new(folder / "Extract/m1.mrcs", overwrite=True) as file:
        warnings.simplefilter("ignore")  # about what is not finite
        file.set_data(images)
        file.set_image_stack()
        file.voxel_size = 1.5
    table = write_star(folder / "a.star", names(ROWS), rlnTag=np.arange(7))
    stack = ParticleStack.open(table)
    stack.images([1, 2, 3])
    expected = rf"a\.star, data_particles, row 1 \(line 24\), image 2 of .*m1\.mrcs: {message}; skip_bad"
    with pytest.raises(BadInput, match=expected):
        stack.images(range(7))
    with pytest.warns(BadInputWarning, match=rf"a\.star: left out: {message} \(data_particles, row 1") as seen:
        stack = ParticleStack.open(table, skip_bad=True)
    assert len(seen) == 1
    assert stack.star["particles"].integers("rlnTag").tolist() == [1, 2, 3, 4, 5, 6]
    assert np.array_equal(stack.images(range(6)), IMAGES[ROWS[1:]])


def test_bad_images_are_found_in_every_piece_of_the_scan(folder, monkeypatch):
    images = IMAGES.copy()
    images[[0, 4, 5, 11]] = 0
    write_stack(folder / "all.mrcs", images, 1.5)
    monkeypatch.setattr(stack_module, "_SCAN_BYTES", 5 * 16 * 16 * 4)
    with pytest.warns(BadInputWarning, match=r"left out: a constant image \(4 times, first: image 1 of .*all\.mrcs"):
        stack = ParticleStack.open(folder / "all.mrcs", skip_bad=True)
    assert np.array_equal(stack.images(range(8)), images[[1, 2, 3, 6, 7, 8, 9, 10]])
    write_stack(folder / "none.mrcs", images * 0, 1.5)
    with pytest.raises(BadInput, match=r"none\.mrcs: no good image"):
        ParticleStack.open(folder / "none.mrcs", skip_bad=True)


def test_images_beyond_the_end_of_their_file(folder):
    table = write_star(folder / "a.star", ["1@Extract/m0.mrcs", "5@Extract/m0.mrcs", "2@Extract/m0.mrcs"])
    expected = r"row 2 \(line 24\): image 5; expected 1 to 4, as .*m0\.mrcs holds; skip_bad"
    with pytest.raises(BadInput, match=expected):
        ParticleStack.open(table)
    with pytest.warns(BadInputWarning, match=r"left out: an image beyond the end of its file \(data_particles, row 2"):
        stack = ParticleStack.open(table, skip_bad=True)
    assert np.array_equal(stack.images([0, 1]), IMAGES[:2])
    with pytest.raises(BadInput, match="no row whose image exists; the first is image 9"):
        ParticleStack.open(write_star(folder / "a.star", ["9@Extract/m0.mrcs"]), skip_bad=True)


def test_truncated_file(folder):
    path = folder / "Extract/m1.mrcs"
    path.write_bytes(path.read_bytes()[: 1024 + 2 * 1024 + 100])
    table = write_star(folder / "a.star", names(ROWS))
    with pytest.raises(BadInput, match=r"m1\.mrcs, little-endian header: 2 complete images .*; expected 4"):
        ParticleStack.open(table)
    with pytest.warns(BadInputWarning) as seen:
        stack = ParticleStack.open(table, skip_bad=True)
    assert [str(w.message).split(" (")[0].split(": ", 1)[1] for w in seen] == [
        "the file holds fewer images than its header claims",
        "left out: an image beyond the end of its file",
    ]
    assert np.array_equal(stack.images(range(5)), IMAGES[[5, 0, 11, 4, 1]])


def test_same_image_twice(folder):
    with pytest.warns(
        BadInputWarning, match=r"an image that another row has too \(2 times, first: .*row 3 \(line 25\)"
    ):
        stack = ParticleStack.open(write_star(folder / "a.star", names([0, 1, 0, 5, 0])))
    assert np.array_equal(stack.images(range(5)), IMAGES[[0, 1, 0, 5, 0]])


@pytest.mark.parametrize(("defocus", "odd"), [(5e5, True), (1500, True), (0, False), (1e4, False)])
def test_defocus_in_other_units(folder, defocus, odd):
    columns = {"rlnDefocusU": np.array([15000.0, defocus]), "rlnDefocusV": np.array([15000.0, defocus])}
    table = write_star(folder / "a.star", names([0, 1]), **columns)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        ParticleStack.open(table)
    assert len(seen) == odd
    if odd:
        assert "a defocus that is not plausible in Angstrom (data_particles, row 2" in str(seen[0].message)


def test_pixel_size_from_the_table_the_header_or_the_caller(folder):
    table = write_star(folder / "a.star", names(ROWS))
    for k in range(3):
        write_stack(folder / f"Extract/m{k}.mrcs", IMAGES[4 * k : 4 * k + 4], 3.0, overwrite=True)
    with pytest.warns(BadInputWarning, match=r"have 3 Angstrom; 1\.5 are used \(3 times, first: .*m\d\.mrcs"):
        assert ParticleStack.open(table).pixel_size == 1.5
    assert ParticleStack.open(table, pixel_size=3.0).pixel_size == 3.0
    assert ParticleStack.open(folder / "Extract/m0.mrcs").pixel_size == 3.0
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(BadInput, match="expected a positive number of Angstrom"):
            ParticleStack.open(table, pixel_size=wrong)

    bare = StarFile([StarBlock.from_columns("", {"rlnImageName": names(ROWS)})])
    bare.write(folder / "bare.star")
    assert ParticleStack.open(folder / "bare.star").pixel_size == 3.0
    write_stack(folder / "Extract/m2.mrcs", IMAGES[8:], 4.0, overwrite=True)
    with pytest.raises(BadInput, match=r"bare\.star, .*: pixels of \d Angstrom and of \d Angstrom"):
        ParticleStack.open(folder / "bare.star")


def test_shifts_in_pixels_take_the_pixel_size_of_the_images(folder):
    columns = {"rlnImageName": names([0, 1]), **dict.fromkeys(EULER, np.zeros(2))}
    columns |= {"rlnOriginX": np.array([1.0, 2.0]), "rlnOriginY": np.array([0.0, -4.0])}
    StarFile([StarBlock.from_columns("", columns)]).write(folder / "a.star")
    stack = ParticleStack.open(folder / "a.star")
    assert stack.poses.shift.tolist() == [[-1.5, 0], [-3, 6]]
    assert ParticleStack.open(folder / "a.star").subset([1]).poses.shift.tolist() == [[-3, 6]]
    with pytest.warns(BadInputWarning, match="2 are used"):
        stack = ParticleStack.open(folder / "a.star", pixel_size=2.0)
    assert stack.poses.shift.tolist() == [[-2, 0], [-4, 8]]
    stack.poses.save(folder / "b.star")
    assert PoseTable.load(folder / "b.star", pixel_size=1.0).shift.tolist() == [[-1, 0], [-2, 4]]


class TestWhereImagesAre:
    """A table in one folder, its images in another, a shell in a third."""

    @pytest.fixture
    def places(self, tmp_path, monkeypatch):
        for name in ("images", "out", "here"):
            (tmp_path / "a" / name).mkdir(parents=True)
        write_stack(tmp_path / "a/images/s.mrcs", IMAGES, 1.5)
        monkeypatch.chdir(tmp_path / "a/here")
        return tmp_path / "a"

    def test_below_the_working_directory(self, places, monkeypatch):
        table = write_star(places / "out/t.star", ["1@images/s.mrcs"])
        monkeypatch.setattr(image_files, "_PARENTS", 0)
        with pytest.raises(BadInput, match=r"row 1 .* is missing; looked in .*/out, .* and here; .*\(--datadir\)"):
            ParticleStack.open(table)
        monkeypatch.chdir(places)
        assert np.array_equal(ParticleStack.open(table).images([0]), IMAGES[:1])

    def test_the_project_of_the_table_goes_before_that_of_the_shell(self, places, monkeypatch):
        """Extract/job003/mic1.mrcs is a name in every project."""
        (places / "here/images").mkdir()
        write_stack(places / "here/images/s.mrcs", -IMAGES, 1.5)
        table = write_star(places / "out/t.star", ["1@images/s.mrcs"])
        assert np.array_equal(ParticleStack.open(table).images([0]), IMAGES[:1])

    @pytest.mark.parametrize("absolute", [False, True])
    def test_not_by_a_name_that_climbs_or_is_absolute(self, places, monkeypatch, absolute):
        """The file is there from the working directory, and below it, yet it was not named plainly."""
        monkeypatch.chdir(places / "images")
        name = str(places / "images/s.mrcs") if absolute else "../images/s.mrcs"
        with pytest.raises(BadInput, match=r"leads out|is missing"):
            ParticleStack.open(write_star(places.parent / "b/deep/t.star", [f"1@{name}"]))

    def test_not_over_a_link_that_leads_out_of_it(self, places):
        (places / "here/link.mrcs").symlink_to(places / "images/s.mrcs")
        with pytest.raises(BadInput, match="leads out"):
            ParticleStack.open(write_star(places.parent / "b/t.star", ["1@link.mrcs"]))

    def test_not_from_the_root_of_all_files(self, places, monkeypatch):
        monkeypatch.chdir("/")
        name = str(places / "images/s.mrcs").lstrip("/")
        monkeypatch.setattr(image_files, "_PARENTS", 0)
        with pytest.raises(BadInput, match="is missing"):
            ParticleStack.open(write_star(places / "out/t.star", [f"1@{name}"]))

    @pytest.mark.parametrize(
        ("names", "files", "needed"),
        [
            (["s.mrcs"], ["images/s.mrcs"], "images"),
            (["images/s.mrcs"], ["images/s.mrcs"], None),  # found above the table
            (["s.mrcs"], ["out/s.mrcs"], None),
            (["deep/s.mrcs"], ["images/deep/s.mrcs"], "images"),
            (["t.mrcs", "s.mrcs"], ["out/t.mrcs", "images/s.mrcs"], "images"),
            (["/images/s.mrcs"], ["images/s.mrcs"], "images"),  # made absolute below
        ],
    )
    def test_the_datadir_that_a_table_elsewhere_needs(self, places, names, files, needed):
        for file in files:
            (places / file).parent.mkdir(exist_ok=True)
            (places / file).touch()
        names = [str(places) + name if name.startswith("/") else name for name in names]
        found = image_files.needed_datadir(places / "out/t.star", names, [places / file for file in files])
        assert found == (None if needed is None else places / needed)


def test_contrast(tmp_path):
    y, x = np.indices((32, 32)) - 16
    blob = 0.3 * np.exp(-(x**2 + y**2) / 40)
    noise = RNG.normal(size=(50, 32, 32))
    write_stack(tmp_path / "bright.mrcs", noise + blob, 1.5)
    write_stack(tmp_path / "dark.mrcs", noise - blob, 1.5)
    write_stack(tmp_path / "noise.mrcs", noise, 1.5)
    ParticleStack.open(tmp_path / "bright.mrcs")
    ParticleStack.open(tmp_path / "noise.mrcs")
    with pytest.warns(BadInputWarning, match=r"dark\.mrcs: .* darker .*--invert.* invert the images \(by 0\.\d\d st"):
        dark = ParticleStack.open(tmp_path / "dark.mrcs")
    inverted = ParticleStack.open(tmp_path / "dark.mrcs", invert=True)
    assert np.array_equal(inverted.subset([3, 1]).images([0, 1]), -dark.images([3, 1]))


@pytest.mark.parametrize(
    ("name", "size", "pixel_size"),
    [
        ("aspire_relion_project/rln_proj_64_centered.star", 64, 1.0),
        ("aspire_relion_project/rln_proj_64_shifted.star", 64, 1.0),
        ("aspire_sample17/sample_particles_relion30.star", 200, 1.338),
        ("aspire_sample17/sample_particles_relion31.star", 200, 1.4),
        ("cryodrgn_empiar10076_7/empiar_10076_7.star", 320, 1.31),
        ("cryodrgn_empiar10076_7/empiar_10076_7.cs", 320, 1.31),
        ("cryodrgn_relion31_5/relion31.star", 256, 2.806),
        ("cryodrgn_ribosome_tilt220/sta_testing_bin8.star", 64, 1.96),
        ("cryodrgn_toy1000/toy_projections.star", 30, 1.0),
        ("simplecryoem_relion_project24/relion_proj_batch.star", 64, 3.54),
        ("simplecryoem_relion_project24/relion_proj_batch_pfac2.star", 64, 3.54),
        ("simplecryoem_relion_project24/relion_proj_batch_pfac3.star", 64, 3.54),
    ],
)
def test_real_tables_with_images(data, name, size, pixel_size):
    path = data("particles") / name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BadInputWarning)
        stack = ParticleStack.open(path)
    assert stack.image_size == size
    assert stack.pixel_size == pytest.approx(pixel_size, rel=1e-5)
    if path.suffix == ".cs":
        rows = [(entry["blob/path"].decode(), entry["blob/idx"]) for entry in read_cs(path)]
    else:
        (block,) = [b for key, b in starfile.read(path, always_dict=True).items() if key != "optics"]
        rows = [(file, int(number) - 1) for number, file in (entry.split("@") for entry in block["rlnImageName"])]
        if "rlnAngleRot" in block:
            euler = block[EULER].to_numpy()
            rotation = Rotation.from_euler("ZYZ", euler, degrees=True).as_matrix().transpose(0, 2, 1)
            assert np.abs(stack.poses.rotation - rotation).max() < 1e-12
        if stack.ctf is not None:
            assert np.array_equal(stack.ctf.defocus_u, block["rlnDefocusU"])
    assert len(stack) == len(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (content,) = [mrcfile.read(path.parent / file) for file in {file for file, _ in rows}]
    content = content.reshape(-1, size, size) * (-1 if path.suffix == ".cs" else 1)  # blob/sign
    assert np.array_equal(stack.images(range(len(rows))), content[[index for _, index in rows]])


def test_real_files_that_hold_one_of_11029_images(data):
    path = data("particles") / "drgnai_ribosome_tilts10/M_particles_sub10.star"
    with pytest.raises(BadInput, match="1 complete images"):
        ParticleStack.open(path)
    with pytest.warns(BadInputWarning) as seen:
        stack = ParticleStack.open(path, skip_bad=True)
    assert [str(w.message).split(": ", 1)[1].split(", first")[0] for w in seen] == [
        "the file holds fewer images than its header claims (9 times",
        "the image header says that pixels have 1 Angstrom; 3.9 are used (9 times",
        "an image that another row has too (data_, row 7 (line 32))",
    ]
    assert stack.images(range(10)).shape == (10, 128, 128)
    assert (stack.pixel_size, stack.ctf.defocus_u[0], len(stack.poses)) == (3.9, 25874.9, 10)


def test_real_tables_without_a_pixel_size(data):
    """RELION's own projections: groups but no data_optics, and nothing in the header."""
    path = data("particles") / "aspire_relion_project/rln_proj_65.star"
    with pytest.raises(BadInput, match="optics groups and no data_optics to define them; give pixel_size"):
        ParticleStack.open(path)
    with pytest.warns(BadInputWarning, match="says that this is a volume"):
        stack = ParticleStack.open(path, pixel_size=1.0)
    assert stack.images([4]).shape == (1, 65, 65)
    assert len(stack.poses) == 5
    with pytest.raises(BadInput, match=r"rln_proj_65\.mrcs: no pixel size in the table or the images; give pixel_size"):
        ParticleStack.open(path.with_suffix(".mrcs"))


@pytest.mark.parametrize(
    "name",
    [
        "cryodrgn_cryosparc_table2019/cryosparc_P12_J24_001_particles.cs",
        "t20s_empiar10025_cryosparc/cryosparc_P9_J209_000_particles.cs",
        "simplecryoem_relion_project24/pyem.star",
    ],
)
def test_real_tables_without_images(data, name):
    with pytest.raises(BadInput, match=r"row 1.*: image file '.*' is missing"):
        ParticleStack.open(data("particles") / name)


def test_every_real_table_is_tested_here(data):
    folder = data("particles")
    tables = {str(path.relative_to(folder)) for pattern in ("*/*.star", "*/*.cs") for path in folder.glob(pattern)}
    source = Path(__file__).read_text()
    # The last two are in test_star.py: one is broken, one is a twin of rln_proj_65.star.
    elsewhere = {"aspire_sample17/sample.star", "aspire_relion_project/rln_proj_64.star"}
    assert {name for name in tables if name not in source} <= elsewhere


def test_large_table_is_quick(tmp_path):
    """50,000 rows in a thousand files: nothing in it may cost time per row times file."""
    n, files = 50_000, 1000
    (tmp_path / "Extract").mkdir()
    write_stack(tmp_path / "Extract/0.mrcs", RNG.normal(size=(100, 4, 4)), 1.5)
    for k in range(1, files):
        shutil.copy(tmp_path / "Extract/0.mrcs", tmp_path / f"Extract/{k}.mrcs")
    rows = [f"{k // files + 1:06d}@Extract/{k % files}.mrcs" for k in range(n)]
    columns = {label: np.linspace(0, 170, n) for label in [*EULER, "rlnOriginX", "rlnOriginY"]}
    columns |= {label: np.full(n, 1e4) for label in ("rlnDefocusU", "rlnDefocusV")}
    constants = {"rlnVoltage": 300.0, "rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.1}
    columns |= {label: np.full(n, value) for label, value in constants.items()}
    StarFile([StarBlock.from_columns("", {"rlnImageName": rows, **columns})]).write(tmp_path / "a.star")
    started = time.process_time()
    stack = ParticleStack.open(tmp_path / "a.star")
    assert len(stack.poses) == n
    assert time.process_time() - started < 10  # measured 0.7
    assert stack.images(RNG.integers(0, n, 1000)).shape == (1000, 4, 4)
