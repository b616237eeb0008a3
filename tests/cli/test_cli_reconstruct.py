"""``cryozoo reconstruct`` and the masks and files of ``cryozoo fsc``, on files, and what they refuse."""

import csv
import re

import mrcfile
import numpy as np
import pytest
import starfile
import torch
from scipy.spatial.transform import Rotation

from cryozoo.geometry.point_groups import point_group
from cryozoo.imaging.fsc import fourier_shell_correlation
from cryozoo.imaging.map_alignment import transform_map
from cryozoo.imaging.masks import spherical_mask
from cryozoo.imaging.reconstruct import reconstruct
from cryozoo.imaging.simulate import Imaging, Simulator
from cryozoo.imaging.simulate_files import write_simulated_stack
from cryozoo.imaging.volumes import Volume
from cryozoo.particles import mrc_writer
from cryozoo.particles.errors import BadInput
from cryozoo.particles.mrc import read_volume
from cryozoo.particles.mrc_writer import write_volume
from cryozoo.particles.poses import PoseTable
from cryozoo.particles.stack import ParticleStack
from cryozoo.particles.star import StarFile

SIZE, PIXEL_SIZE, COUNT = 24, 5.0, 300


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A STAR file of COUNT particles with little noise, and the volume they are of."""
    folder = tmp_path_factory.mktemp("many")
    volume = Volume.phantom(size=SIZE, pixel_size=PIXEL_SIZE)
    imaging = Imaging(snr=10.0, shift_sigma=5.0, defocus=(8000.0, 20000.0))
    write_simulated_stack(folder / "particles.mrcs", Simulator(volume, imaging), COUNT)
    return folder / "particles.star", volume


class TestReconstruct:
    def test_writes_the_map_and_its_halves(self, run, many, tmp_path):
        star, volume = many
        done = run("reconstruct", star, "-o", tmp_path / "map.mrc", "--halves", "--no-progress")
        assert (done.code, done.err) == (0, "")
        assert re.match(rf"300 images \(150 and 150\) in {SIZE}\^3 voxels of 5 A: ", done.out)
        assert re.search(r"the halves agree to 1[0-4]\.\d\d A", done.out)
        assert re.search(r"images reach (100\.0|9\d\.\d)% of Fourier space", done.out)
        expected = reconstruct(ParticleStack.open(star))
        for name, theirs in zip(("map", "map_half1", "map_half2"), (expected.map, *expected.half_maps), strict=True):
            data, pixel_size = read_volume(tmp_path / f"{name}.mrc")
            assert pixel_size == pytest.approx(PIXEL_SIZE)
            np.testing.assert_allclose(data, theirs.data, atol=1e-5)
        fsc = fourier_shell_correlation(torch.from_numpy(read_volume(tmp_path / "map.mrc")[0]), volume.data)
        assert fsc[1:8].min() > 0.98
        assert sorted(path.name for path in tmp_path.iterdir()) == ["map.mrc", "map_half1.mrc", "map_half2.mrc"]

    def test_not_over_the_images_of_a_table(self, run, many, tmp_path):
        images = (many[0].parent / "particles.mrcs").read_bytes()
        for name, out in (("a.mrc", "a.mrc"), ("b_half2.mrc", "b.mrc"), ("c.mrcs", "c.mrcs")):
            (tmp_path / name).write_bytes(images)
            (tmp_path / "in.star").write_text(many[0].read_text().replace("@particles.mrcs", f"@{name}"))
            line = ["reconstruct", tmp_path / "in.star", "--halves"]
            if out.endswith("s"):
                line = ["simulate", "--volume", "phantom:0", "--poses", tmp_path / "in.star"]
            done = run(*line, "-o", tmp_path / out, "--overwrite")
            assert done.code == 3
            assert f"{name}: is the input as well as the output" in done.err
            assert (tmp_path / name).read_bytes() == images

    def test_only_the_map_unless_asked(self, run, many, tmp_path):
        assert run("reconstruct", many[0], "-o", tmp_path / "map.mrc").code == 0
        assert [path.name for path in tmp_path.iterdir()] == ["map.mrc"]

    @pytest.mark.parametrize("suffix", [".star", ".cs", ".pkl", ".npz"])
    def test_poses_of_another_file(self, run, many, tmp_path, suffix):
        """Those of the table, by way of every format, give the same map; transposed ones do not."""
        stack = ParticleStack.open(many[0])
        right = reconstruct(stack).map.data
        for transposed in (False, True):
            rotation = stack.poses.rotation.transpose(0, 2, 1) if transposed else stack.poses.rotation
            poses = PoseTable(rotation, stack.poses.shift, image_size=SIZE, pixel_size=PIXEL_SIZE)
            poses.save(tmp_path / f"poses{suffix}", overwrite=True)
            words = ("--poses", tmp_path / f"poses{suffix}", "-o", tmp_path / "map.mrc", "--overwrite")
            assert run("reconstruct", many[0], *words).code == 0
            found = torch.from_numpy(read_volume(tmp_path / "map.mrc")[0])
            assert (float((found - right).norm() / right.norm()) < 1e-3) != transposed

    def test_says_whose_ctf_was_corrected(self, run, many, tmp_path):
        """That of the table of the particles, of the poses, or none."""
        star, _ = many
        without = star.with_name("without_ctf.star")
        without.write_text(star.read_text().replace("rlnDefocus", "rlnOther"))
        for words, line in (
            ((star,), f"CTF: corrected, with that of {star}\n"),
            ((without, "--poses", star), f"CTF: corrected, with that of {star}\n"),
            ((without,), "CTF: not corrected, as no table has a whole one\n"),
        ):
            assert line in run("reconstruct", *words, "-o", tmp_path / "map.mrc", "--overwrite").out

    def test_half_a_ctf_is_said(self, run, many, tmp_path):
        star = many[0].with_name("half_a_ctf.star")
        star.write_text(many[0].read_text().replace("rlnSphericalAberration", "rlnSphericalOberration"))
        done = run("reconstruct", star, "-o", tmp_path / "map.mrc")
        assert "rlnDefocusU and no rlnSphericalAberration" in done.err
        assert "CTF: not corrected" in done.out

    def test_symmetry_and_weights_reach_the_map(self, run, many, tmp_path):
        stack = ParticleStack.open(many[0])
        confidence = np.random.default_rng(0).uniform(size=COUNT)
        poses = stack.with_poses(stack.poses.rotation, stack.poses.shift, confidence)
        poses.save(tmp_path / "sure.star")
        words = ("--symmetry", "c2", "--fom-weighting", "--poses", tmp_path / "sure.star")
        assert run("reconstruct", many[0], *words, "-o", tmp_path / "map.mrc").code == 0
        expected = reconstruct(stack, poses, symmetry="C2", fom_weighting=True).map.data
        np.testing.assert_allclose(read_volume(tmp_path / "map.mrc")[0], expected, atol=1e-5)

    def test_a_seed_splits_otherwise(self, run, many, tmp_path):
        star = many[0].with_name("whole.star")
        star.write_text(many[0].read_text().replace("rlnRandomSubset", "rlnOther"))
        halves = []
        for name, words in (("a", ()), ("b", ("--seed", "0")), ("c", ("--seed", "1"))):
            assert run("reconstruct", star, "-o", tmp_path / f"{name}.mrc", "--halves", *words).code == 0
            halves.append(read_volume(tmp_path / f"{name}_half1.mrc")[0])
        assert np.array_equal(halves[0], halves[1])
        assert not np.allclose(halves[0], halves[2], atol=1e-3 * np.abs(halves[0]).max())

    def test_bad_rows_are_skipped_when_asked(self, run, many, tmp_path):
        star, _ = many
        data = bytearray(star.with_suffix(".mrcs").read_bytes())
        pixels = np.frombuffer(data, "<f4", offset=1024).reshape(COUNT, SIZE, SIZE)
        pixels[7, 3, 3] = np.nan
        (tmp_path / "particles.mrcs").write_bytes(data)
        (tmp_path / "particles.star").write_bytes(star.read_bytes())
        words = ("reconstruct", tmp_path / "particles.star", "-o", tmp_path / "map.mrc")
        stopped = run(*words)
        assert stopped.code == 3
        assert re.fullmatch(r"error: .*row 8 .*NaN.*--skip-bad.*\n", stopped.err)
        assert not (tmp_path / "map.mrc").exists()
        done = run(*words, "--skip-bad", "--poses", star)
        assert done.code == 0
        assert done.out.startswith("299 images (150 and 149)")

    @pytest.mark.parametrize(
        ("words", "code", "message"),
        [
            (("--symmetry", "X3"), 2, "point group 'X3', expected Cn"),
            (("--poses", "nosuch.star"), 3, "nosuch.star"),
            (("--poses", "poses.txt"), 3, "the suffix '.txt'"),
            (("--fom-weighting",), 3, "no confidence"),
            (("--pixel-size", "0"), 2, "--pixel-size"),
            (("--device", "nosuch"), 2, "--device"),
        ],
    )
    def test_what_it_refuses(self, run, many, tmp_path, words, code, message):
        done = run("reconstruct", many[0], "-o", tmp_path / "map.mrc", *words)
        assert done.code == code
        assert message in done.err
        assert "Traceback" not in done.err
        assert not list(tmp_path.iterdir())

    def test_a_table_without_angles(self, run, many, tmp_path):
        lines = many[0].read_text().replace("rlnAngleTilt", "rlnAngleTiltPrior")
        star = many[0].with_name("noangles.star")
        star.write_text(lines)
        done = run("reconstruct", star, "-o", tmp_path / "map.mrc")
        assert done.code == 3
        assert re.fullmatch(r"error: .*noangles\.star: no poses: rlnAngleTilt is missing.*--poses.*\n", done.err)

    def test_a_nan_angle_is_named(self, run, many, tmp_path):
        table = StarFile.read(many[0])
        angles = table["particles"].text("rlnAngleRot")
        angles[4] = "nan"
        star = many[0].with_name("nanangle.star")
        table.with_columns("particles", {"rlnAngleRot": angles}).write(star)
        done = run("reconstruct", star, "-o", tmp_path / "map.mrc")
        assert done.code == 3
        assert re.search(r"nanangle\.star.*row 5.*rlnAngleRot", done.err)

    def test_an_output_that_exists(self, run, many, tmp_path):
        (tmp_path / "map_half2.mrc").write_bytes(b"precious")
        done = run("reconstruct", many[0], "-o", tmp_path / "map.mrc", "--halves")
        assert done.code == 3
        assert "map_half2.mrc: exists already" in done.err
        assert [path.name for path in tmp_path.iterdir()] == ["map_half2.mrc"]
        assert run("reconstruct", many[0], "-o", tmp_path / "map.txt").code == 3

    def test_a_disk_that_is_full_leaves_nothing(self, run, many, tmp_path, monkeypatch):
        """The half maps are written and the map is not: the next try must not find them in its way."""
        real = mrc_writer.write_volume

        def full(path, *arguments, **options):
            if path.name == "map.mrc":
                raise BadInput(path, "cannot be written: No space left on device")
            real(path, *arguments, **options)

        words = ("reconstruct", many[0], "-o", tmp_path / "map.mrc", "--halves")
        with monkeypatch.context() as patch:
            patch.setattr(mrc_writer, "write_volume", full)
            done = run(*words)
        assert done.code == 3
        assert "No space left" in done.err
        assert not list(tmp_path.iterdir())
        assert run(*words).code == 0
        assert len(list(tmp_path.iterdir())) == 3
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        with monkeypatch.context() as patch:
            patch.setattr(mrc_writer, "write_volume", full)
            assert run(*words, "--overwrite").code == 3
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


class TestFscOfHalves:
    @pytest.fixture
    def maps(self, tmp_path):
        """Two noisy halves of a phantom, a mask around it, and things that are no masks."""
        volume = Volume.phantom(size=32, pixel_size=4.0)
        rng = np.random.default_rng(0)
        for k in (1, 2):
            noisy = volume.data.numpy() + rng.normal(size=(32, 32, 32)) * float(volume.data.std())
            write_volume(tmp_path / f"half{k}.mrc", noisy, 4.0)
        mask = spherical_mask(32, 10.0, 4.0).numpy()
        write_volume(tmp_path / "mask.mrc", mask, 4.0)
        write_volume(tmp_path / "density.mrc", 5 * mask, 4.0)
        write_volume(tmp_path / "empty.mrc", 0 * mask, 4.0)
        write_volume(tmp_path / "small.mrc", mask[:16, :16, :16], 4.0)
        return tmp_path

    @staticmethod
    def resolution(done) -> float:
        (found,) = re.findall(r"FSC 0\.143 \(between half maps\): at ([\d.]+) A", done.out)
        return float(found)

    @pytest.mark.parametrize("mask", ["mask.mrc", "auto"])
    def test_a_mask_keeps_noise_out(self, run, maps, mask):
        bare = run("fsc", maps / "half1.mrc", maps / "half2.mrc")
        masked = run("fsc", maps / "half1.mrc", maps / "half2.mrc", "--mask", mask if mask == "auto" else maps / mask)
        assert masked.code == 0
        assert masked.out.splitlines()[0].split() == ["1/A", "A", "corrected", "unmasked", "masked", "random", "phases"]
        assert self.resolution(masked) < self.resolution(bare) - 0.5

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("density.mrc", "values from 0 to 5; expected a mask"),
            ("empty.mrc", "values from 0 to 0; expected a mask"),
            ("small.mrc", "16 x 16 x 16 voxels"),
            ("nosuch.mrc", "cannot be read"),
        ],
    )
    def test_what_is_no_mask(self, run, maps, name, message):
        done = run("fsc", maps / "half1.mrc", maps / "half2.mrc", "--mask", maps / name)
        assert done.code == 3
        assert re.fullmatch(rf"error: .*{name}: {message}.*\n", done.err)

    def test_what_is_no_map(self, run, maps):
        done = run("fsc", maps / "half1.mrc", maps / "empty.mrc")
        assert done.code == 3
        assert "empty.mrc: all voxels are equal" in done.err
        with mrcfile.open(maps / "small.mrc", mode="r+") as file:
            file.header.cella.z *= 1.5
        done = run("fsc", maps / "small.mrc", maps / "small.mrc")
        assert done.code == 3
        assert "small.mrc: no voxel size in the header, or not the same along all axes" in done.err
        assert run("fsc", maps / "small.mrc", maps / "small.mrc", "--pixel-size", "4").code == 0

    def test_a_map_is_laid_over_another(self, run, tmp_path):
        truth = Volume.phantom(size=32, pixel_size=4.0)
        turn = Rotation.from_rotvec([0.4, -0.7, 0.5]).as_matrix()
        moved = transform_map(truth, torch.from_numpy(turn).float(), torch.tensor([3.0, -5.0, 2.0]), mirrored=True)
        write_volume(tmp_path / "moved.mrc", moved.data.numpy(), 4.0)
        write_volume(tmp_path / "truth.mrc", truth.data.numpy(), 4.0)
        words = ("fsc", tmp_path / "moved.mrc", tmp_path / "truth.mrc")
        done = run(*words, "--aligned", tmp_path / "laid.mrc")
        assert done.code == 0
        assert done.out.startswith("A was mirrored at z = 0, turned by")

        def tenth_shell(done) -> float:
            return float(next(line for line in done.out.splitlines() if line.startswith("0.0781")).split()[2])

        assert tenth_shell(done) > 0.95
        assert tenth_shell(run(*words)) < 0.5
        laid = read_volume(tmp_path / "laid.mrc")[0]
        assert np.corrcoef(laid.ravel(), truth.data.numpy().ravel())[0, 1] > 0.98
        write_volume(tmp_path / "small.mrc", np.ones((16, 16, 16)), 4.0)
        assert run(*words, "--mask", tmp_path / "small.mrc", "--aligned", tmp_path / "new.mrc").code == 3
        assert not (tmp_path / "new.mrc").exists()
        again = run(*words, "--aligned", tmp_path / "laid.mrc")
        assert again.code == 3
        assert "laid.mrc: exists already" in again.err
        assert "a map, .mrc" in run(*words, "--aligned", tmp_path / "laid.txt").err

    def test_symmetry_axes_are_laid_where_relion_has_them(self, run, tmp_path):
        chain = np.random.default_rng(0).normal(size=(40, 3)) * 12 + [40, 10, 20]
        turn = Rotation.from_rotvec([0.4, -0.7, 0.5]).as_matrix()
        atoms = np.concatenate([chain @ mate.T for mate in point_group("C3").numpy()]) @ turn.T
        off = Volume.from_atoms(atoms, np.ones(len(atoms)), size=48, pixel_size=5.0)
        write_volume(tmp_path / "off.mrc", off.data.numpy(), 5.0)
        words = ("align-symmetry", tmp_path / "off.mrc", "-o", tmp_path / "laid.mrc", "--symmetry")
        done = run(*words, "C3")
        assert done.code == 0
        assert "its mates correlate to 0.99" in done.out
        laid = Volume.load(tmp_path / "laid.mrc")
        mate = transform_map(laid, point_group("C3")[1], torch.zeros(3))
        assert np.corrcoef(laid.data.flatten(), mate.data.flatten())[0, 1] > 0.98
        assert "exists already" in run(*words, "C3").err
        assert "seems not to be C5" in run(*words, "C5", "--overwrite").err
        assert "C1 has no axes" in run(*words, "C1", "--overwrite").err
        assert "--size and --pixel-size" in run("align-symmetry", "x.pdb", *words[2:], "C3", "--overwrite").err

    def test_opposite_signs_are_said(self, run, maps):
        write_volume(maps / "negative.mrc", -read_volume(maps / "density.mrc")[0], 4.0)
        for words in ((), ("--mask", maps / "mask.mrc"), ("--aligned", maps / "laid.mrc")):
            assert "opposite signs" in run("fsc", maps / "density.mrc", maps / "negative.mrc", *words).out
        assert "opposite signs" not in run("fsc", maps / "density.mrc", maps / "density.mrc").out

    def test_curve_in_a_file(self, run, maps):
        """In RELION's columns or as CSV: what is printed."""
        words = ("fsc", maps / "half1.mrc", maps / "half2.mrc", "--mask", maps / "mask.mrc")
        printed = [line.split() for line in run(*words, "-o", maps / "fsc.star").out.splitlines()[1:17]]
        table = starfile.read(maps / "fsc.star")
        for column, name in enumerate(
            ("Resolution", "AngstromResolution", "FourierShellCorrelationCorrected",
             "FourierShellCorrelationUnmaskedMaps", "FourierShellCorrelationMaskedMaps",
             "CorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps")
        ):  # fmt: skip
            expected = [float(row[column]) for row in printed]
            np.testing.assert_allclose(table[f"rln{name}"], expected, atol=0.006)
        assert run(*words, "-o", maps / "fsc.csv").code == 0
        with open(maps / "fsc.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 16
        assert float(rows[3]["corrected"]) == pytest.approx(float(printed[3][2]), abs=1e-4)
        assert float(rows[3]["random_phases"]) == pytest.approx(float(printed[3][5]), abs=1e-4)

    def test_files_that_cannot_be_written(self, run, maps):
        words = ("fsc", maps / "half1.mrc", maps / "half2.mrc", "-o")
        assert "expected one of .star, .csv" in run(*words, maps / "fsc.txt").err
        assert run(*words, maps / "fsc.csv").code == 0
        assert "exists already" in run(*words, maps / "fsc.csv").err
        assert run(*words, maps / "fsc.csv", "--overwrite").code == 0

    def test_plot(self, run, maps):
        pyplot = pytest.importorskip("matplotlib.pyplot")
        words = ("fsc", maps / "half1.mrc", maps / "half2.mrc", "--mask", "auto", "--plot", maps / "fsc.png")
        assert run(*words).code == 0
        assert pyplot.imread(maps / "fsc.png").ndim == 3
