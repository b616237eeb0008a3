"""Reconstruction against plain loops, analytic volumes, another library's insertion, the projector, and RELION."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch_fourier_slice import insert_central_slices_rfft_3d

from cryozoo.geometry.point_groups import point_group
from cryozoo.geometry.sampling import random_rotations
from cryozoo.imaging.back_projector import BackProjector
from cryozoo.imaging.fsc import fourier_shell_correlation, resolution_at
from cryozoo.imaging.projector import Projector
from cryozoo.imaging.reconstruct import Reconstruction, reconstruct
from cryozoo.imaging.simulate import Imaging, Simulator
from cryozoo.imaging.simulate_files import write_simulated_stack
from cryozoo.imaging.volumes import Volume
from cryozoo.particles.cryosparc import read_cryosparc
from cryozoo.particles.ctf import make_ctf
from cryozoo.particles.errors import BadInput, BadInputWarning
from cryozoo.particles.mrc_writer import write_stack
from cryozoo.particles.poses import PoseTable
from cryozoo.particles.relion import read_relion
from cryozoo.particles.stack import ParticleStack
from cryozoo.particles.table import ParticleTable

SIZE, PIXEL, COUNT = 32, 4.0, 2000


def rotations(n: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(Rotation.random(n, random_state=seed).as_matrix()).float()


def up_to(fraction: float, fsc: Tensor) -> Tensor:
    """The shells from 1 to a fraction of Nyquist."""
    return fsc[1 : int(fraction * (len(fsc) - 1)) + 1]


def relative_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def with_half_sets(stack: ParticleStack, number: np.ndarray) -> ParticleTable:
    """The stack's table with a column of half-sets, read again."""
    assert stack.star is not None
    return read_relion(stack.star.with_columns("particles", {"rlnRandomSubset": number}), stack.table)


class TestInsertion:
    @pytest.mark.parametrize("size", [6, 5])
    def test_agrees_with_loops(self, size: int) -> None:
        """Over all samples of the full plane, into the full grid, one voxel at a time, with shift, CTF and weight."""
        rng = np.random.default_rng(0)
        images, pixel = rng.normal(size=(3, size, size)), 3.0
        rotation, shift, weight = rotations(3), rng.normal(size=(3, 2)) * 4, np.array([1.0, 0.5, 2.0])
        ctf = make_ctf(3, defocus_u=torch.tensor([9000.0, 15000.0, 20000.0]), defocus_v=8000.0, defocus_angle=30.0)
        numerator = np.zeros((2 * size + 1,) * 3, dtype=complex)
        total = np.zeros((2 * size + 1,) * 3)
        axis = np.arange(size) - size // 2
        for n in range(3):
            for ky in axis:
                for kx in axis:
                    if np.hypot(kx, ky) >= size / 2:
                        continue
                    value = 0j
                    for i, y in enumerate(axis * pixel):
                        for j, x in enumerate(axis * pixel):
                            # the content at (x, y) was at (x, y) - shift
                            at = x - shift[n, 0], y - shift[n, 1]
                            value += images[n, i, j] * np.exp(-2j * np.pi * (kx * at[0] + ky * at[1]) / (size * pixel))
                    k = torch.tensor([kx, ky]) / (size * pixel)
                    transfer = float(ctf(k)[n])
                    point = 2 * (torch.tensor([kx, ky]).double() @ rotation[n, :2].double()).numpy()  # x, y, z
                    low = np.floor(point).astype(int)
                    for step in np.ndindex(2, 2, 2):
                        voxel = low + step
                        near = np.prod(1 - np.abs(point - voxel)) * weight[n]
                        place = tuple(voxel[::-1] + size)
                        numerator[place] += near * transfer * value
                        total[place] += near * transfer**2
        ours = BackProjector(size, pixel)
        ours.insert(torch.from_numpy(images), rotation, torch.from_numpy(shift), ctf, torch.from_numpy(weight))
        np.testing.assert_allclose(ours.numerator.numpy(), numerator[:, :, size:], atol=2e-4)
        np.testing.assert_allclose(ours.weight.numpy(), total[:, :, size:], atol=1e-5)
        assert ours.count == 3

    @pytest.mark.parametrize("size", [24, 25])
    def test_agrees_with_another_librarys_insertion(self, size: int) -> None:
        """torch-fourier-slice inserts into a grid of the images' own step.

        It is as exact as ours when the images are padded to twice their box, which makes four times as many samples of
        them, into a grid that it makes anew at every call; without padding it is not, and in odd boxes wrong.
        """
        volume = Volume.phantom(size=size, pixel_size=PIXEL)
        rotation = rotations(500)
        images = Projector(volume)(rotation)
        ours = BackProjector(size, PIXEL)
        ours.insert(images, rotation)

        def theirs(padding: int) -> Tensor:
            padded = padding * size
            before = padded // 2 - size // 2
            wide = F.pad(images, (before, padded - size - before) * 2)
            spectrum = torch.fft.fftshift(torch.fft.rfft2(torch.fft.ifftshift(wide, dim=(-2, -1))), dim=-2)
            numerator, weight = insert_central_slices_rfft_3d(spectrum, (padded,) * 3, rotation.mT, fftfreq_max=0.5)
            estimate = torch.fft.ifftshift(numerator / weight.clamp_min(1e-3), dim=(0, 1))
            inside = slice(before, before + size)
            data = torch.fft.fftshift(torch.fft.irfftn(estimate, s=(padded,) * 3))[inside, inside, inside]
            kernel = torch.sinc((torch.arange(size) - size // 2) / padded) ** 2
            return data / (kernel[:, None, None] * kernel[:, None] * kernel)

        data = ours.volume().data
        assert up_to(0.8, fourier_shell_correlation(data, theirs(2))).min() > 0.999
        assert relative_error(data, volume.data) < 0.03
        assert relative_error(theirs(1), volume.data) > (0.3 if size % 2 else 0.1)

    @pytest.mark.parametrize("size", [32, 33])
    def test_gives_an_analytic_volume_back(self, size: int) -> None:
        """Three Gaussian balls, whose projections are Gaussian discs: values, not only correlation."""
        sigma = 2.0 * PIXEL
        centres = torch.tensor([[20.0, 4.0, -12.0], [-16.0, 12.0, 8.0], [0.0, -20.0, 10.0]])
        heights = torch.tensor([1.0, 0.7, 0.4])
        axis = (torch.arange(size) - size // 2) * PIXEL
        rotation, shift = rotations(1000), torch.from_numpy(np.random.default_rng(1).normal(size=(1000, 2))).float() * 5
        seen = rotation @ centres.T  # (N, 3, balls)

        def profile(at: Tensor) -> Tensor:
            return torch.exp(-((axis[:, None] - at[..., None, :]) ** 2) / (2 * sigma**2))

        along_x, along_y = (profile(seen[:, i] + shift[:, i, None]) for i in (0, 1))
        # the sum over voxels along z, as in a projection of the sampled volume, is the integral over the voxel's edge
        images = torch.einsum("b,nyb,nxb->nyx", heights, along_y, along_x) * sigma * (2 * torch.pi) ** 0.5 / PIXEL
        x, y, z = (profile(centres[:, i]) for i in range(3))
        expected = torch.einsum("b,zb,yb,xb->zyx", heights, z, y, x)
        ours = BackProjector(size, PIXEL)
        ours.insert(images, rotation, shift)
        assert relative_error(ours.volume().data, expected) < 0.03
        ours.insert(images, rotation, -shift)
        assert relative_error(ours.volume().data, expected) > 0.2

    def test_a_group_is_every_image_at_every_mate(self) -> None:
        images, rotation, group = torch.randn(4, 8, 8), rotations(4), point_group("D3")
        mates = (rotation[:, None] @ group.float()).flatten(0, 1)
        ours, expected = BackProjector(8, PIXEL, group=group), BackProjector(8, PIXEL)
        ours.insert(images, rotation)
        expected.insert(images.repeat_interleave(6, 0), mates)
        assert relative_error(torch.view_as_real(ours.numerator), torch.view_as_real(expected.numerator)) < 1e-5
        assert relative_error(ours.weight, expected.weight) < 1e-5

    def test_matrices_that_are_barely_rotations_stay_on_the_grid(self) -> None:
        along_z = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
        ours = BackProjector(64, PIXEL)
        ours.insert(torch.ones(1, 64, 64), 1.0005 * along_z[None])
        assert ours.weight.sum() > 0

    def test_a_weight_is_a_number_of_copies(self) -> None:
        images, rotation = torch.randn(3, 9, 9), rotations(3)
        ours, expected = BackProjector(9, PIXEL), BackProjector(9, PIXEL)
        ours.insert(images, rotation, weights=torch.tensor([2.0, 0.0, 1.0]))
        expected.insert(images[[0, 0, 2]], rotation[[0, 0, 2]])
        assert relative_error(torch.view_as_real(ours.numerator), torch.view_as_real(expected.numerator)) < 1e-5
        assert relative_error(ours.weight, expected.weight) < 1e-5


@pytest.fixture(scope="module")
def volume() -> Volume:
    return Volume.phantom(size=SIZE, pixel_size=PIXEL)


@pytest.fixture(scope="module")
def clean(volume: Volume, tmp_path_factory: pytest.TempPathFactory) -> ParticleStack:
    """2,000 noiseless images with shifts and astigmatic CTF."""
    path = tmp_path_factory.mktemp("clean") / "particles.mrcs"
    imaging = Imaging(shift_sigma=6.0, defocus=(8000.0, 20000.0), astigmatism=1000.0)
    write_simulated_stack(path, Simulator(volume, imaging), COUNT)
    return ParticleStack.open(path.with_suffix(".star"))


class TestReconstruct:
    def test_gives_the_volume_back(self, volume: Volume, clean: ParticleStack) -> None:
        result = reconstruct(clean)
        assert result.counts == (COUNT // 2, COUNT // 2)
        assert result.map.pixel_size == PIXEL
        assert relative_error(result.map.data, volume.data) < 0.03
        for found in (result.map, *result.half_maps):
            assert up_to(0.9, fourier_shell_correlation(found.data, volume.data)).min() > 0.99
        assert result.resolution == pytest.approx(2 * PIXEL)
        assert result.coverage[: SIZE // 2].min() > 0.99
        assert torch.equal(result.fsc, fourier_shell_correlation(*(half.data for half in result.half_maps)))

    @pytest.mark.parametrize("wrong", ["transposed", "negated", "swapped", "without CTF"])
    def test_wrong_conventions_do_not(self, volume: Volume, clean: ParticleStack, wrong: str) -> None:
        assert clean.poses is not None
        rotation, shift = clean.poses.rotation, clean.poses.shift
        stack = clean.subset(np.arange(500))
        if wrong == "transposed":
            rotation = rotation.transpose(0, 2, 1)
        elif wrong == "negated":
            shift = -shift
        elif wrong == "swapped":
            shift = shift[:, ::-1]
        else:
            stack.table = replace(stack.table, ctf=None)
        result = reconstruct(stack, PoseTable(rotation[:500], shift[:500]))
        right = reconstruct(clean.subset(np.arange(500)))
        assert up_to(0.8, fourier_shell_correlation(right.map.data, volume.data)).min() > 0.98
        assert up_to(0.8, fourier_shell_correlation(result.half_maps[0].data, volume.data)).min() < 0.7

    def test_resolution_of_noisy_half_maps_is_that_against_the_truth(self, volume: Volume, tmp_path: Path) -> None:
        """0.143 between half maps is 0.5 of the whole map against the truth; the filter brings the map nearer to it."""
        simulator = Simulator(volume, Imaging(snr=0.02, defocus=(8000.0, 20000.0)))
        write_simulated_stack(tmp_path / "noisy.mrcs", simulator, 1000)
        result = reconstruct(ParticleStack.open(tmp_path / "noisy.star"))
        truth = resolution_at(fourier_shell_correlation(result.map.data, volume.data), 0.5, PIXEL)
        assert 2.2 * PIXEL < result.resolution < 10 * PIXEL
        assert result.resolution == pytest.approx(truth, rel=0.15)
        unfiltered = (result.half_maps[0].data + result.half_maps[1].data) / 2
        assert relative_error(result.map.data, volume.data) < 0.6 * relative_error(unfiltered, volume.data)

    def test_the_envelope_of_the_ctf_is_undone(self, volume: Volume, tmp_path: Path) -> None:
        imaging = Imaging(defocus=(8000.0, 20000.0), b_factor=400.0)
        write_simulated_stack(tmp_path / "blurred.mrcs", Simulator(volume, imaging), 500)
        result = reconstruct(ParticleStack.open(tmp_path / "blurred.star"))
        assert relative_error(result.map.data, volume.data) < 0.05

    def test_symmetry_makes_up_for_images(self, tmp_path: Path) -> None:
        group = point_group("D2").float()
        one = Volume.phantom(size=SIZE, pixel_size=PIXEL)
        turned = BackProjector(SIZE, PIXEL, group=group)  # makes a volume with the symmetry
        views = rotations(800, seed=1)
        turned.insert(Projector(one)(views), views)
        volume = turned.volume()
        write_simulated_stack(tmp_path / "few.mrcs", Simulator(volume, Imaging()), 60)
        stack = ParticleStack.open(tmp_path / "few.star")

        def worst(symmetry: str) -> float:
            found = reconstruct(stack, symmetry=symmetry).half_maps[0].data
            return float(up_to(0.7, fourier_shell_correlation(found, volume.data)).min())

        assert worst("D2") > 0.97
        assert worst("C1") < worst("D2") - 0.05
        assert worst("C3") < 0.9

    def test_missing_orientations_show(self, volume: Volume, tmp_path: Path) -> None:
        """Views along one axis are one plane of Fourier space."""
        angle = np.linspace(0, 2 * np.pi, 100, endpoint=False)
        rotation = Rotation.from_rotvec(np.outer(angle, [0, 0, 1])).as_matrix()
        poses = torch.from_numpy(rotation), torch.zeros(100, 2)
        write_simulated_stack(tmp_path / "top.mrcs", Simulator(volume, Imaging()), 100, poses=poses)
        result = reconstruct(ParticleStack.open(tmp_path / "top.star"))
        assert result.coverage[8] < 0.2
        outside = result.weight[: SIZE - 1].sum() + result.weight[SIZE + 2 :].sum()
        assert outside < 1e-4 * result.weight.sum()  # z = 0 is plane SIZE
        assert result.map.data.isfinite().all()

    def test_half_sets_are_those_of_the_table(self, clean: ParticleStack) -> None:
        assert clean.star is not None
        few = clean.subset(np.arange(20))
        number = np.array([1] * 7 + [2] * 13)
        few.table = with_half_sets(few, number)
        result = reconstruct(few)
        assert result.counts == (7, 13)
        expected = BackProjector(SIZE, PIXEL)
        poses, ctf = few.poses, few.ctf
        assert poses is not None
        assert ctf is not None
        first = range(7)
        images = few.images(first)
        y, x = np.indices(images.shape[1:]) - SIZE // 2
        images -= images[:, np.hypot(x, y) > SIZE / 2].mean(1)[:, None, None]
        expected.insert(
            torch.from_numpy(images), torch.from_numpy(poses.rotation[:7]), torch.from_numpy(poses.shift[:7]), ctf[:7]
        )
        assert relative_error(result.half_maps[0].data, expected.volume().data) < 1e-5

    def test_half_sets_of_cryosparc_count_from_zero(self, clean: ParticleStack) -> None:
        few, poses = clean.subset(np.arange(9)), clean.poses
        assert poses is not None
        given = PoseTable(poses.rotation[:9], poses.shift[:9])
        table = np.zeros(9, dtype=[("alignments3D/split", "u4")])
        table["alignments3D/split"][:4] = 1
        few.table = read_cryosparc(table, few.table)
        assert reconstruct(few, given).counts == (5, 4)
        table["alignments3D/split"][6] = 2
        few.table = read_cryosparc(table, few.table)
        with pytest.raises(BadInput, match=r"row 7, alignments3D/split: half-set 2; expected 0 or 1"):
            reconstruct(few, given)

    def test_one_half_set_for_all_is_none_and_those_of_the_table_can_be_left(self, clean: ParticleStack) -> None:
        few = clean.subset(np.arange(20))
        few.table = with_half_sets(few, np.full(20, 1))
        alone = reconstruct(few)
        assert alone.counts == (10, 10)
        assert alone.half_sets_source is None
        few.table = with_half_sets(few, np.array([1] * 7 + [2] * 13))
        assert reconstruct(few).half_sets_source == few.path
        other = reconstruct(few, random_halves=True)
        assert other.counts == (10, 10)
        assert other.half_sets_source is None

    @pytest.mark.parametrize("background", [0.0, 30.0, 300.0])
    def test_noise_on_a_background_has_no_resolution(self, tmp_path: Path, background: float) -> None:
        """A background is in both halves, and would correlate through the mask; RELION's halves do not show it."""
        generator = torch.Generator().manual_seed(0)
        rotation = random_rotations(200, generator=generator).numpy()
        noise = torch.randn(200, 32, 32, generator=generator) + background
        write_stack(tmp_path / "noise.mrcs", noise.numpy(), 2.0)
        fsc = reconstruct(ParticleStack.open(tmp_path / "noise.mrcs"), PoseTable(rotation)).fsc
        assert fsc[1:].abs().mean() < 0.1
        assert resolution_at(fsc, 0.5, 2.0) == 64.0

    def test_without_half_sets_the_split_is_random_and_repeatable(self, clean: ParticleStack) -> None:
        few = clean.subset(np.arange(21))
        few.table = replace(few.table, half_set=None)
        poses = PoseTable(clean.poses.rotation[:21], clean.poses.shift[:21])  # type: ignore[union-attr]
        first, again, other = (reconstruct(few, poses, seed=seed) for seed in (0, 0, 1))
        assert sorted(first.counts) == [10, 11]
        assert torch.equal(first.half_maps[0].data, again.half_maps[0].data)
        assert not torch.equal(first.half_maps[0].data, other.half_maps[0].data)

    def test_an_image_in_two_rows_is_in_one_half_set(self, clean: ParticleStack) -> None:
        """Then every half has its images twice, which changes no half map."""
        assert clean.poses is not None
        halves = []
        for rows in (np.arange(40), np.tile(np.arange(40), 2)):
            stack = clean.subset(rows)
            stack.table = replace(stack.table, half_set=None)
            poses = PoseTable(clean.poses.rotation[rows], clean.poses.shift[rows])
            halves.append(reconstruct(stack, poses).half_maps)
        for once, twice in zip(*halves, strict=True):
            assert relative_error(twice.data, once.data) < 1e-4
        assert relative_error(halves[0][1].data, halves[0][0].data) > 0.1

    def test_a_table_whose_half_sets_share_images(self, clean: ParticleStack) -> None:
        def halved(number: np.ndarray) -> ParticleStack:
            stack = clean.subset(np.tile(np.arange(20), 2))
            stack.table = with_half_sets(stack, number)
            return stack

        with pytest.warns(BadInputWarning, match=r"an image in both half-sets .* \(20 times, first: .*row 1\b"):
            reconstruct(halved(np.repeat([1, 2], 20)))
        reconstruct(halved(np.tile([1, 2], 20)))  # without a warning

    def test_a_confidence_of_zero_leaves_a_particle_out(self, clean: ParticleStack) -> None:
        few, poses = clean.subset(np.arange(40)), clean.poses
        assert poses is not None
        weighted = PoseTable(poses.rotation[:40], poses.shift[:40], (np.arange(40) < 30).astype(float))
        result, expected = reconstruct(few, weighted, fom_weighting=True), reconstruct(clean.subset(np.arange(30)))
        assert result.counts == expected.counts == (15, 15)
        assert relative_error(result.map.data, expected.map.data) < 1e-5

    def test_poses_are_matched_by_the_names_of_images(self, clean: ParticleStack, tmp_path: Path) -> None:
        assert clean.poses is not None
        order = np.random.default_rng(0).permutation(COUNT)
        clean.poses.subset(order).save(tmp_path / "shuffled.star")
        few = clean.subset(np.arange(30))
        shuffled = reconstruct(few, PoseTable.load(tmp_path / "shuffled.star"))
        assert relative_error(shuffled.map.data, reconstruct(few).map.data) < 1e-4


class TestBadInput:
    def refused(self, stack: ParticleStack, *words: str, **arguments: object) -> None:
        with pytest.raises(BadInput) as caught:
            reconstruct(stack, **arguments)  # type: ignore[arg-type]
        for word in words:
            assert word in str(caught.value)

    def test_no_poses(self, clean: ParticleStack) -> None:
        stack = clean.subset(np.arange(10))
        stack.table = replace(stack.table, rotation=None)
        self.refused(stack, "particles.star", "no poses", "--poses")

    @pytest.mark.parametrize("count", [9, 11])
    def test_another_number_of_poses(self, clean: ParticleStack, count: int) -> None:
        poses = PoseTable(np.tile(np.eye(3), (count, 1, 1)), source="poses.pkl")
        self.refused(clean.subset(np.arange(10)), "poses.pkl", f"{count} poses", "expected 10", poses=poses)

    def test_no_pose_for_an_image(self, clean: ParticleStack) -> None:
        poses = clean.subset(np.arange(5)).poses
        with pytest.warns(BadInputWarning, match=r"no pose, by the names .*: left out \(5 times, first: row 6 of"):
            assert reconstruct(clean.subset(np.arange(10)), poses).counts == (3, 2)

    def test_poses_of_another_box(self, clean: ParticleStack) -> None:
        poses = PoseTable(np.tile(np.eye(3), (10, 1, 1)), image_size=SIZE, pixel_size=5.0, source="poses.npz")
        self.refused(clean.subset(np.arange(10)), "poses.npz", "160 A", "128 A", poses=poses)

    def test_a_half_set_that_is_too_small(self, clean: ParticleStack) -> None:
        self.refused(clean.subset([0, 2, 4, 6, 7]), "1 images in half-set 2", "at least 2")
        poses = PoseTable(np.tile(np.eye(3), (10, 1, 1)), None, np.arange(10) % 2)
        stack = clean.subset(np.arange(10))
        self.refused(stack, "0 images in half-set 1", poses=poses, fom_weighting=True)

    def test_a_half_set_that_does_not_exist(self, clean: ParticleStack) -> None:
        stack = clean.subset(np.arange(4))
        stack.table = with_half_sets(stack, np.array([1, 2, 3, 1]))
        self.refused(stack, "row 3", "rlnRandomSubset", "half-set 3", "1 or 2")

    def test_a_confidence_that_is_no_weight(self, clean: ParticleStack) -> None:
        few = clean.subset(np.arange(3))
        self.refused(few, "particles.star", "no confidence", "rlnParticleFigureOfMerit", fom_weighting=True)
        poses = few.with_poses(np.tile(np.eye(3), (3, 1, 1)), None, [1, -0.5, 1])
        self.refused(few, "particles.star", "row 2", "a confidence of -0.5", poses=poses, fom_weighting=True)

    def test_what_the_ctf_leaves_out_is_said(self, clean: ParticleStack) -> None:
        stack = clean.subset(np.arange(20))
        stack.table = replace(stack.table, unmodelled=("rlnMagMat00", "rlnBeamTiltX"))
        with pytest.warns(BadInputWarning, match=r"rlnMagMat00, rlnBeamTiltX: not modelled") as said:
            reconstruct(stack)
        assert len(said) == 1

    def test_what_the_ctf_beside_the_poses_leaves_out_is_said(self, clean: ParticleStack) -> None:
        stack = clean.subset(np.arange(20))
        poses = stack.poses
        assert poses is not None
        assert poses.particles is not None
        poses.particles = replace(poses.particles, unmodelled=("rlnMagMat00",))
        stack.table = replace(stack.table, ctf=None)
        with pytest.warns(BadInputWarning, match=r"rlnMagMat00: not modelled"):
            reconstruct(stack, poses)

    def test_images_that_were_corrected_for_the_ctf(self, clean: ParticleStack) -> None:
        stack = clean.subset(np.arange(4))
        assert stack.star is not None
        for block in ("optics", "particles"):
            flipped = np.ones(len(stack.star[block]), dtype=np.int64)
            star = stack.star.with_columns(block, {"rlnCtfDataArePhaseFlipped": flipped})
            stack.table = read_relion(star, stack.table)
            self.refused(stack, "corrected for the CTF (phase_flipped)")

    def test_an_unknown_point_group(self, clean: ParticleStack) -> None:
        with pytest.raises(ValueError, match="point group 'X3', expected Cn"):
            reconstruct(clean, symmetry="X3")


@pytest.mark.referee
@pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="RELION is not installed (make referee)")
class TestAgainstRelion:
    @staticmethod
    def both(folder: Path, imaging: Imaging, size: int, *flags: str) -> tuple[Tensor, Reconstruction, Volume]:
        volume = Volume.phantom(size=size, pixel_size=PIXEL)
        write_simulated_stack(folder / "particles.mrcs", Simulator(volume, imaging), COUNT)
        command = ["relion_reconstruct", "--i", "particles.star", "--o", "theirs.mrc", "--ctf", *flags]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        theirs = torch.from_numpy(mrcfile.read(folder / "theirs.mrc").copy())
        return theirs, reconstruct(ParticleStack.open(folder / "particles.star")), volume

    def test_the_maps_are_the_same(self, tmp_path: Path) -> None:
        imaging = Imaging(snr=20.0, shift_sigma=8.0, defocus=(8000.0, 20000.0), astigmatism=1000.0)
        theirs, ours, _ = self.both(tmp_path, imaging, 64)
        assert up_to(0.8, fourier_shell_correlation(ours.map.data, theirs)).min() > 0.99

    def test_noisy_maps_are_as_near_to_the_truth(self, tmp_path: Path) -> None:
        imaging = Imaging(snr=0.05, shift_sigma=8.0, defocus=(8000.0, 20000.0), b_factor=100.0)
        theirs, ours, volume = self.both(tmp_path, imaging, 48)
        truth = [resolution_at(fourier_shell_correlation(x, volume.data), 0.5, PIXEL) for x in (ours.map.data, theirs)]
        assert truth[0] <= 1.02 * truth[1]

    def test_the_confidence_weighs_as_much(self, tmp_path: Path) -> None:
        """Particles with wrong poses and a confidence of nearly 0."""
        volume = Volume.phantom(size=48, pixel_size=PIXEL)
        write_simulated_stack(tmp_path / "right.mrcs", Simulator(volume, Imaging()), COUNT)
        stack = ParticleStack.open(tmp_path / "right.star")
        assert stack.poses is not None
        wrong = np.arange(COUNT) % 3 > 0
        rotation = np.where(wrong[:, None, None], stack.poses.rotation.transpose(0, 2, 1), stack.poses.rotation)
        stack.with_poses(rotation, None, np.where(wrong, 0.01, 1.0)).save(tmp_path / "half.star")
        command = ["relion_reconstruct", "--i", "half.star", "--o", "theirs.mrc", "--fom_weighting"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        theirs = torch.from_numpy(mrcfile.read(tmp_path / "theirs.mrc").copy())
        half = ParticleStack.open(tmp_path / "half.star")
        ours, unweighted = (reconstruct(half, fom_weighting=flag).map.data for flag in (True, False))
        assert up_to(0.8, fourier_shell_correlation(ours, theirs)).min() > 0.99
        assert up_to(0.8, fourier_shell_correlation(unweighted, theirs)).min() < 0.95
