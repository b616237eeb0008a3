"""What a table says of its images reaches the map; RELION is the referee."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from torch import Tensor

from cryozoo.imaging.fsc import fourier_shell_correlation
from cryozoo.imaging.reconstruct import reconstruct
from cryozoo.imaging.simulate import Imaging, Simulator
from cryozoo.imaging.simulate_files import write_simulated_stack
from cryozoo.imaging.volumes import Volume
from cryozoo.particles.cs import read_cs, write_cs
from cryozoo.particles.errors import BadInput, BadInputWarning
from cryozoo.particles.mrc_writer import write_stack
from cryozoo.particles.poses import PoseTable
from cryozoo.particles.stack import ParticleStack
from cryozoo.particles.star import StarFile

SIZE, PIXEL, COUNT = 32, 4.0, 400
SIGN = np.where(np.arange(COUNT) % 2, -1.0, 1.0).astype("f4")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a.star and a.mrcs of the phantom, and d.cs with d.mrcs, of which every second image is dark."""
    folder = tmp_path_factory.mktemp("tables")
    imaging = Imaging(snr=5.0, shift_sigma=6.0, defocus=(8000.0, 20000.0))
    simulator = Simulator(Volume.phantom(size=SIZE, pixel_size=PIXEL), imaging)
    write_simulated_stack(folder / "a.mrcs", simulator, COUNT)
    images = mrcfile.read(folder / "a.mrcs")
    write_stack(folder / "d.mrcs", images * SIGN[:, None, None], PIXEL)
    PoseTable.load(folder / "a.star").save(folder / "d.cs")
    table = read_cs(folder / "d.cs")
    table["blob/path"], table["blob/sign"] = b"d.mrcs", SIGN
    write_cs(folder / "d.cs", table, overwrite=True)
    return folder


def star(source: Path, path: Path, images: str = "a.mrcs", **optics: float | str) -> Path:
    """The table beside ``source`` with columns of its optics group, and other images."""
    table = StarFile.read(source / "a.star")
    columns = {f"rln{k}": [v] if isinstance(v, str) else np.array([v]) for k, v in optics.items()}
    table.with_columns("optics", columns).write(path, overwrite=True)
    path.write_text(path.read_text().replace("@a.mrcs", f"@{images}"))
    return path


def map_of(particles: Path, poses: Path | None = None) -> Tensor:
    return reconstruct(ParticleStack.open(particles), None if poses is None else PoseTable.load(poses)).map.data


class TestImagesWithoutATable:
    """The table of their poses says what they are."""

    def test_their_sign(self, simulated: Path) -> None:
        expected, found = map_of(simulated / "d.cs"), map_of(simulated / "d.mrcs", simulated / "d.cs")
        torch.testing.assert_close(found, expected)

    def test_their_correction(self, simulated: Path) -> None:
        path = star(simulated, simulated / "flipped.star", CtfDataArePhaseFlipped=1)
        with pytest.raises(BadInput, match=r"flipped\.star: images that were corrected for the CTF \(phase_flipped\)"):
            map_of(simulated / "a.mrcs", path)
        # poses that were found with corrected images fit the images as they were
        torch.testing.assert_close(map_of(simulated / "a.star", path), map_of(simulated / "a.star"))

    def test_what_is_not_modelled(self, simulated: Path) -> None:
        path = star(simulated, simulated / "tilted.star", BeamTiltX=0.5)
        with pytest.warns(BadInputWarning, match=r"tilted\.star: rlnBeamTiltX: not modelled"):
            map_of(simulated / "a.mrcs", path)


def test_sums_that_are_not_finite(simulated: Path) -> None:
    stack = ParticleStack.open(simulated / "a.star")
    assert stack.ctf is not None
    stack.table = replace(stack.table, ctf=replace(stack.ctf, b_factor=torch.full((COUNT,), -30_000.0)))
    with pytest.raises(BadInput, match=r"a\.star: sums of images that leave the range .* look at the B-factors"):
        reconstruct(stack)


def test_half_sets_that_do_not_exist_can_be_left(simulated: Path) -> None:
    stack = ParticleStack.open(simulated / "a.star")
    stack.table = replace(stack.table, half_set=np.arange(COUNT) % 3)
    with pytest.raises(BadInput, match=r"half-set 0; expected 1 or 2; random_halves \(--random-halves\) splits"):
        reconstruct(stack)
    assert reconstruct(stack, random_halves=True).counts == (COUNT // 2, COUNT // 2)


@pytest.mark.referee
@pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="RELION is not installed (make referee)")
class TestAgainstRelion:
    @staticmethod
    def relion(path: Path, *flags: str) -> Tensor:
        command = ["relion_reconstruct", "--i", path.name, "--o", "theirs.mrc", "--ctf", *flags]
        subprocess.run(command, cwd=path.parent, check=True, capture_output=True, text=True)
        return torch.from_numpy(mrcfile.read(path.parent / "theirs.mrc").copy())

    @staticmethod
    def agree(ours: Tensor, theirs: Tensor) -> None:
        assert fourier_shell_correlation(ours, theirs)[1 : SIZE // 4].min() > 0.99

    def test_signs(self, simulated: Path) -> None:
        """RELION has the images with their signs applied."""
        self.agree(map_of(simulated / "d.cs"), self.relion(simulated / "a.star"))

    def test_bytes(self, simulated: Path) -> None:
        """RELION 3.1 takes all bytes for signed ones; it has the same values as floats."""
        images = mrcfile.read(simulated / "a.mrcs")
        low, high = images.min(), images.max()
        values = np.round((images - low) / (high - low) * 255).astype(np.uint8)
        write_stack(simulated / "floats.mrcs", values.astype(np.float32), PIXEL)
        with mrcfile.new(simulated / "bytes.mrcs") as file:
            file.set_data(values.view(np.int8))
            file.set_image_stack()
            file.voxel_size = PIXEL
            file.header.dmin, file.header.dmax = 0, 255
        ours = map_of(star(simulated, simulated / "bytes.star", "bytes.mrcs"))
        self.agree(ours, self.relion(star(simulated, simulated / "floats.star", "floats.mrcs")))

    @pytest.mark.parametrize("contrast", [-0.01, 1.01, 10.0])
    def test_an_amplitude_contrast_that_cannot_be(self, simulated: Path, contrast: float) -> None:
        path = star(simulated, simulated / "contrast.star", AmplitudeContrast=contrast)
        with pytest.raises(subprocess.CalledProcessError) as refused:
            self.relion(path)
        assert "AmplitudeContrast" in refused.value.stderr
        with pytest.raises(BadInput, match="rlnAmplitudeContrast"):
            map_of(path)

    @pytest.mark.parametrize("background", [0.0, 30.0])
    def test_noise_on_a_background(self, simulated: Path, background: float) -> None:
        noise = torch.randn(COUNT, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) + background
        write_stack(simulated / "noise.mrcs", noise.numpy(), PIXEL, overwrite=True)
        path = star(simulated, simulated / "noise.star", "noise.mrcs")
        theirs = [self.relion(path, "--subset", str(half)) for half in (1, 2)]
        for fsc in (fourier_shell_correlation(*theirs), reconstruct(ParticleStack.open(path)).fsc):
            assert fsc[4:].abs().mean() < 0.1

    @pytest.mark.parametrize(
        ("label", "value"), [("OddZernike", "[0,0,0,0,4000,0]"), ("EvenZernike", "[0,0,0,0,0,0,0,0,3e6]")]
    )
    def test_aberrations_change_their_map_and_are_named_in_ours(self, simulated: Path, label: str, value: str) -> None:
        path = star(simulated, simulated / "aberrated.star", **{label: value})
        change = (self.relion(path) - (plain := self.relion(simulated / "a.star"))).norm() / plain.norm()
        assert change > 0.3
        with pytest.warns(BadInputWarning, match=rf"rln{label}: not modelled"):
            map_of(path)
