"""What tables of other programs say about their images and poses besides: kept, applied, or said to be lost."""

import os
import re
import warnings

import mrcfile
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryozoo.particles.cs import read_cs, write_cs
from cryozoo.particles.errors import BadInput, BadInputWarning
from cryozoo.particles.mrc import MrcStack, read_volume
from cryozoo.particles.mrc_writer import write_stack
from cryozoo.particles.poses import PoseTable, load_table
from cryozoo.particles.stack import ParticleStack
from cryozoo.particles.star import StarBlock, StarFile

N, L = 6, 8
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(N, L, L)).astype(np.float32)
ROTATION = Rotation.random(N, rng=RNG).as_matrix()
OPTICS = {"OpticsGroup": [1, 2], "Voltage": [300.0, 200.0], "SphericalAberration": 2.7, "AmplitudeContrast": 0.1}
OPTICS |= {"ImagePixelSize": 2.0, "ImageSize": L, "ImageDimensionality": 2}
EULER = {"AngleRot": np.arange(N) * 10.0, "AngleTilt": 30.0, "AnglePsi": 50.0}


def block(name, columns, n):
    columns = {f"rln{label}": np.broadcast_to(np.asarray(v), n) for label, v in columns.items()}
    return StarBlock.from_columns(
        name, {label: v.tolist() if v.dtype.kind == "U" else v for label, v in columns.items()}
    )


def star(folder, *, optics=None, name="a.star", **particles):
    write_stack(folder / "s.mrcs", IMAGES, 2.0, overwrite=True)
    names = np.array([f"{k + 1:06d}@s.mrcs" for k in range(N)])
    common = {"ImageName": names, "OpticsGroup": np.arange(N) % 2 + 1, **EULER, "DefocusU": 12000.0}
    blocks = [block("optics", OPTICS | (optics or {}), 2), block("particles", common | particles, N)]
    StarFile(blocks).write(folder / name, overwrite=True)
    return folder / name


def cs(folder, name="a.cs", **fields):
    write_stack(folder / "s.mrcs", IMAGES, 2.0, overwrite=True)
    columns = {
        "uid": np.arange(100, 100 + N, dtype="u8"),
        "blob/path": np.array([b"s.mrcs"] * N),
        "blob/idx": np.arange(N, dtype="u4"),
        "blob/shape": np.full((N, 2), L, dtype="u4"),
        "blob/psize_A": np.full(N, 2, dtype="f4"),
        "alignments3D/pose": Rotation.from_matrix(ROTATION).as_rotvec().astype("f4"),
        "alignments3D/shift": RNG.normal(size=(N, 2)).astype("f4"),
        "alignments3D/psize_A": np.full(N, 2, dtype="f4"),
    } | {label.replace("__", "/"): np.asarray(values) for label, values in fields.items()}
    table = np.empty(N, dtype=[(label, v.dtype, v.shape[1:]) for label, v in columns.items()])
    for label, values in columns.items():
        table[label] = values
    write_cs(folder / name, table, overwrite=True)
    return folder / name


def quietly(function, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BadInputWarning)
        return function(*arguments, **options)


class TestColumnsOfOldPoses:
    PRIORS = ("AngleRotPrior", "AngleTiltPrior", "AnglePsiPrior", "OriginXPriorAngst", "OriginYPrior", "OriginZPrior")
    OTHERS = ("AnglePsiFlipRatio", "MaxValueProbDistribution", "LogLikeliContribution", "ParticleFigureOfMerit")

    def test_go_with_the_poses_that_they_belong_to(self, tmp_path):
        labels = [*self.PRIORS, *self.OTHERS]
        path = star(tmp_path, ClassNumber=3, **dict.fromkeys(labels, 45.0))
        table = PoseTable.load(path)
        new = PoseTable(ROTATION, particles=table.particles)
        with pytest.warns(BadInputWarning, match=r"a\.star: .*left out, as they belong to the poses") as seen:
            new.save(tmp_path / "new.star")
        assert all(f"rln{label}" in str(seen[0].message) for label in labels)
        written = StarFile.read(tmp_path / "new.star")["particles"]
        assert not [label for label in labels if f"rln{label}" in written]
        assert written.numbers("rlnClassNumber").tolist() == [[3.0]] * N

    def test_stay_with_poses_that_stay(self, tmp_path):
        path = star(tmp_path, AngleRotPrior=45.0)
        PoseTable.load(path).save(tmp_path / "same.star")
        assert "rlnAngleRotPrior" in StarFile.read(tmp_path / "same.star")["particles"]

    def test_a_shift_that_moved_is_another_pose(self, tmp_path):
        table = PoseTable.load(star(tmp_path, OriginXAngst=1.0, OriginYAngst=2.0, OriginXPriorAngst=1.0))
        with pytest.warns(BadInputWarning, match="rlnOriginXPriorAngst"):
            PoseTable(table.rotation, table.shift + 1, particles=table.particles).save(tmp_path / "new.star")

    def test_in_a_cs_table(self, tmp_path):
        path = cs(
            tmp_path, alignments3D__error=np.ones(N), alignments3D__class=np.ones(N), cryozoo__confidence=np.ones(N)
        )
        table = PoseTable.load(path)
        with pytest.warns(BadInputWarning, match="alignments3D/error, cryozoo/confidence: left out"):
            PoseTable(ROTATION.swapaxes(1, 2), particles=table.particles).save(tmp_path / "new.cs")
        names = read_cs(tmp_path / "new.cs").dtype.names
        assert "alignments3D/class" in names
        assert not {"alignments3D/error", "cryozoo/confidence"} & set(names)
        table.save(tmp_path / "same.cs")
        assert "alignments3D/error" in read_cs(tmp_path / "same.cs").dtype.names


class TestPixelSizeOfShifts:
    def test_that_of_the_images_where_it_was_never_assigned(self, tmp_path):
        expected = PoseTable.load(cs(tmp_path)).shift
        path = cs(tmp_path, "b.cs", alignments3D__psize_A=np.zeros(N), alignments3D__shift=-expected / 2)
        table = PoseTable.load(path)
        np.testing.assert_allclose(table.shift, expected, rtol=1e-6)
        PoseTable(table.rotation, table.shift, particles=table.particles).save(tmp_path / "again.cs")
        assert np.isfinite(read_cs(tmp_path / "again.cs")["alignments3D/shift"]).all()
        np.testing.assert_allclose(PoseTable.load(tmp_path / "again.cs").shift, expected, rtol=1e-6)

    @pytest.mark.parametrize("value", [-2.0, 1e-40, 1e30, 0.0])
    @pytest.mark.parametrize("field", ["alignments3D/psize_A", "blob/psize_A"])
    def test_one_that_cannot_be(self, tmp_path, field, value):
        values = np.full(N, 2.0)
        values[2] = value
        with pytest.raises(BadInput, match=rf"row 3, {field}: .*; expected 0\.01 to 1000 Angstrom"):
            load_table(cs(tmp_path, **{field: values}))


@pytest.mark.parametrize(("shift", "confidence"), [(1e39, 1), (0, 1e300)])
def test_a_number_that_a_cs_table_cannot_hold(tmp_path, shift, confidence):
    poses = PoseTable(ROTATION, np.full((N, 2), shift), np.full(N, confidence), pixel_size=1.0, image_size=L)
    with (
        np.errstate(over="ignore"),
        pytest.raises(BadInput, match=r"a\.cs, .*: a number that is not finite in 32 bits"),
    ):
        poses.save(tmp_path / "a.cs")
    assert os.listdir(tmp_path) == []


class TestWhatImagesNeed:
    """Said when another format cannot say it."""

    def test_from_relion_to_cryosparc(self, tmp_path):
        optics = {"CtfDataAreCtfPremultiplied": 1, "MagMat00": 1.02, "BeamTiltX": 0.1}
        table = PoseTable.load(star(tmp_path, optics=optics))
        with pytest.warns(
            BadInputWarning, match="rlnBeamTiltX, rlnMagMat00, premultiplied of .*a.star cannot be written"
        ):
            table.save(tmp_path / "new.cs")
        fields = read_cs(tmp_path / "new.cs")
        assert fields["ctf/exp_group_id"].tolist() == [1, 2] * 3
        assert load_table(tmp_path / "new.cs").corrected == ("premultiplied",)  # so that nobody corrects them again
        quietly(PoseTable.load(tmp_path / "new.cs").save, tmp_path / "back.star")
        assert load_table(tmp_path / "back.star").corrected == ("premultiplied",)

    def test_from_cryosparc_to_relion(self, tmp_path):
        constants = {
            "df1_A": 12000,
            "df2_A": 11000,
            "df_angle_rad": 0,
            "accel_kv": 300,
            "cs_mm": 2.7,
            "amp_contrast": 0.1,
        }
        ctf = {f"ctf/{name}": np.full(N, value, dtype="f4") for name, value in constants.items()}
        groups = np.array([7, 7, 9, 9, 7, 9], dtype="u4")
        path = cs(tmp_path, **ctf, ctf__tilt_A=np.ones((N, 2), dtype="f4"), ctf__exp_group_id=groups)
        with pytest.warns(BadInputWarning, match=r"ctf/tilt_A of .*a\.cs cannot be written"):
            PoseTable.load(path).save(tmp_path / "new.star")
        again = StarFile.read(tmp_path / "new.star")
        assert again["particles"].integers("rlnOpticsGroup").tolist() == [1, 1, 2, 2, 1, 2]
        assert len(again["optics"]) == 2

    def test_nothing_is_said_of_images_that_need_nothing(self, tmp_path):
        table = PoseTable.load(star(tmp_path, optics={"MagMat00": 1.0, "CtfDataArePhaseFlipped": 0}))
        table.save(tmp_path / "new.cs")
        PoseTable.load(tmp_path / "new.cs").save(tmp_path / "back.star")

    def test_stacks_that_relion_takes_for_volumes(self, tmp_path):
        write_stack(tmp_path / "s.mrc", IMAGES, 2.0)
        stack = ParticleStack.open(tmp_path / "s.mrc")
        with pytest.warns(BadInputWarning, match=r"RELION reads stacks of images from \.mrcs"):
            PoseTable(ROTATION, particles=stack.table).save(tmp_path / "new.star")


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        ({"OddZernike": "[0,0,0,0,4000,0]"}, ("rlnOddZernike",)),
        ({"EvenZernike": "[0,0,0,0,0,0,0,0,3e6]"}, ("rlnEvenZernike",)),
        ({"EvenZernike": "[0,0.0,-0]", "OddZernike": "[]"}, ()),
        ({"BeamTiltX": 0.2, "OddZernike": "[0,1e-9]"}, ("rlnBeamTiltX", "rlnOddZernike")),
    ],
)
def test_aberrations_are_named(tmp_path, labels, named):
    assert load_table(star(tmp_path, optics=labels)).unmodelled == named


class TestHalfSets:
    def test_one_value_everywhere_is_none(self, tmp_path):
        assert load_table(star(tmp_path, RandomSubset=1)).half_set is None
        table = load_table(cs(tmp_path, alignments3D__split=np.zeros(N, dtype="u4")))
        assert table.half_set is None
        PoseTable.load(tmp_path / "a.cs").save(tmp_path / "new.star")
        assert "rlnRandomSubset" not in StarFile.read(tmp_path / "new.star")["particles"]

    def test_two_values_are_half_sets(self, tmp_path):
        assert load_table(star(tmp_path, RandomSubset=np.arange(N) % 2 + 1)).half_set.tolist() == [1, 2] * 3
        assert load_table(cs(tmp_path, alignments3D__split=np.arange(N) % 2)).half_set.tolist() == [1, 2] * 3


class TestImpossibleConstants:
    def test_are_found_where_they_stand(self, tmp_path):
        with pytest.raises(BadInput, match=r"a\.star, data_optics, rlnAmplitudeContrast: 10; expected 0 to 1"):
            load_table(star(tmp_path, optics={"AmplitudeContrast": 10.0}))
        with pytest.raises(BadInput, match=r"data_particles, row 1 \(line \d+\), rlnPhaseShift: 900; expected -720 to"):
            load_table(star(tmp_path, PhaseShift=900.0))

    def test_are_named_in_the_unit_that_is_expected(self, tmp_path):
        constants = {"df1_A": 12000, "df2_A": 11000, "df_angle_rad": 0, "accel_kv": 300, "cs_mm": 2.7}
        constants |= {"amp_contrast": 0.1, "phase_shift_rad": 90}
        path = cs(tmp_path, **{f"ctf/{name}": np.full(N, value, dtype="f4") for name, value in constants.items()})
        with pytest.raises(BadInput, match=r"ctf/phase_shift_rad: 5156\.62 degrees; expected -720 to 720 degrees"):
            load_table(path)


def test_a_file_is_the_same_however_it_is_spelled(tmp_path):
    star(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.mrcs").symlink_to("s.mrcs")
    (tmp_path / "hard.mrcs").touch()
    names = np.array(
        [f"1@{name}" for name in ("s.mrcs", "link.mrcs", "hard.mrcs", "sub/../s.mrcs", f"{tmp_path}/s.mrcs")]
    )
    path = star(tmp_path, name="b.star", ImageName=np.append(names, "2@s.mrcs"))
    (tmp_path / "hard.mrcs").unlink()
    os.link(tmp_path / "s.mrcs", tmp_path / "hard.mrcs")
    with pytest.warns(BadInputWarning, match=r"an image that another row has too \(4 times, first: .*row 2"):
        stack = ParticleStack.open(path)
    assert len(set(stack.image_ids[:5].tolist())) == 1
    assert stack.image_ids[5] != stack.image_ids[0]


class TestSign:
    def test_is_applied(self, tmp_path):
        sign = np.array([1, -1, 1, 1, -1, -1], dtype="f4")
        stack = ParticleStack.open(cs(tmp_path, blob__sign=sign))
        np.testing.assert_array_equal(stack.images([4, 0, 1]), (IMAGES * sign[:, None, None])[[4, 0, 1]])
        np.testing.assert_array_equal(stack.subset([5, 2]).images([0]), -IMAGES[5:6])

    def test_never_assigned(self, tmp_path):
        stack = ParticleStack.open(cs(tmp_path, blob__sign=np.zeros(N, dtype="f4")))
        np.testing.assert_array_equal(stack.images(range(N)), IMAGES)

    def test_something_else(self, tmp_path):
        with pytest.raises(BadInput, match=r"row 1, blob/sign: 0\.5; expected 1 or -1"):
            load_table(cs(tmp_path, blob__sign=np.full(N, 0.5)))

    def test_that_a_star_file_cannot_say(self, tmp_path):
        table = PoseTable.load(cs(tmp_path, blob__sign=np.full(N, -1.0)))
        with pytest.warns(BadInputWarning, match="blob/sign -1 of .* cannot be written, and the images need it"):
            table.save(tmp_path / "new.star")


def test_padding_between_the_fields_of_a_cs_table(tmp_path):
    """As numpy writes a table that was aligned, or of which some fields were taken."""
    plain = read_cs(cs(tmp_path))
    kinds = [(name, plain.dtype[name].base, plain.dtype[name].shape) for name in plain.dtype.names]
    aligned = np.zeros(N, dtype=np.dtype(kinds, align=True))
    for name in plain.dtype.names:
        aligned[name] = plain[name]
    assert aligned.dtype.itemsize > plain.dtype.itemsize
    for name, table in (("aligned", aligned), ("taken", plain[["uid", "blob/idx", "alignments3D/pose"]])):
        with open(tmp_path / f"{name}.cs", "wb") as file:
            np.lib.format.write_array(file, table)
        np.testing.assert_allclose(PoseTable.load(tmp_path / f"{name}.cs").rotation, ROTATION.swapaxes(1, 2), atol=1e-6)


@pytest.mark.parametrize(
    ("labels", "optics"),
    [
        ({"TomoSubtomogramRot": 40.0, "TomoSubtomogramTilt": 50.0, "TomoSubtomogramPsi": 60.0}, {}),
        ({"OriginZAngst": 7.0}, {}),
        ({"OriginZ": -1.0}, {}),
        ({}, {"ImageDimensionality": 3}),
    ],
)
def test_subtomograms_are_refused(tmp_path, labels, optics):
    named = next(iter(labels or optics))
    with pytest.raises(BadInput, match=rf"a\.star: subtomograms: rln{named}.*; expected particles in 2D"):
        load_table(star(tmp_path, optics=optics, **labels))


class TestBytes:
    """Mode 0, whose bytes are signed in MRC2014 and were not in older programs."""

    VALUES = np.arange(0, 256, 2, dtype=np.uint8).reshape(2, 8, 8)

    def write(self, path, values, **header):
        with warnings.catch_warnings(), mrcfile.new(path) as file:
            warnings.simplefilter("ignore")
            file.set_data(values.view(np.int8))
            file.set_image_stack()
            for name, value in header.items():
                file.header[name] = value
        return path

    def imod(self, path, flags):
        content = bytearray(path.read_bytes())
        content[152:160] = np.array([1146047817, flags], dtype="<i4").tobytes()
        path.write_bytes(content)
        return path

    def test_imod_says_which(self, tmp_path):
        path = self.imod(self.write(tmp_path / "a.mrcs", self.VALUES), 0)
        np.testing.assert_array_equal(MrcStack(path).read(range(2)), self.VALUES)
        path = self.imod(self.write(tmp_path / "b.mrcs", self.VALUES, dmin=0, dmax=254), 1)
        np.testing.assert_array_equal(MrcStack(path).read(range(2)), self.VALUES.view(np.int8))

    def test_the_largest_value_says_which(self, tmp_path):
        path = self.write(tmp_path / "a.mrcs", self.VALUES, dmin=0, dmax=254)
        np.testing.assert_array_equal(MrcStack(path).read(range(2)), self.VALUES)
        np.testing.assert_array_equal(read_volume(path)[0], self.VALUES)
        for low, high in ((-128, 127), (0, 100), (0, -1), (0, 1000)):
            path = self.write(tmp_path / f"{low}_{high}.mrcs", self.VALUES, dmin=low, dmax=high)
            np.testing.assert_array_equal(MrcStack(path).read(range(2)), self.VALUES.view(np.int8))


def test_a_table_of_one_particle_without_a_loop(tmp_path):
    rows = "\n".join(f"_rln{name} {value}" for name, value in {"AngleRot": 10, "AngleTilt": 20, "AnglePsi": 30}.items())
    (tmp_path / "one.star").write_text(f"data_particles\n\n{rows}\n_rlnImageName 1@s.mrcs\n")
    poses = PoseTable.load(tmp_path / "one.star")
    expected = Rotation.from_euler("ZYZ", [10, 20, 30], degrees=True).as_matrix().T
    np.testing.assert_allclose(poses.rotation, expected[None], atol=1e-12)
    PoseTable(ROTATION[:1], particles=poses.particles).save(tmp_path / "new.star")
    np.testing.assert_allclose(PoseTable.load(tmp_path / "new.star").rotation, ROTATION[:1], atol=1e-7)


def test_a_byte_that_is_not_utf_8_is_found_by_its_line(tmp_path):
    path = star(tmp_path)
    lines = path.read_bytes().split(b"\n")
    lines[4] = b"# \xe9chantillon"
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(BadInput, match=re.compile(r"a\.star, line 5: .*UTF-8")):
        load_table(path)
