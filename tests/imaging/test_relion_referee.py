"""RELION as referee: its projections of our map at our poses, and its map from our particles. Run with -m referee."""

import shutil
import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from cryozoo.imaging.fsc import fourier_shell_correlation
from cryozoo.imaging.simulate import Imaging, Simulator
from cryozoo.imaging.simulate_files import write_simulated_stack
from cryozoo.imaging.volumes import Volume

pytestmark = [
    pytest.mark.referee,
    pytest.mark.skipif(shutil.which("relion_project") is None, reason="RELION is not installed (make referee)"),
]

SIZE, PIXEL, COUNT = 64, 4.0, 2000


def run(*command: str | Path, cwd: Path) -> None:
    subprocess.run([str(word) for word in command], cwd=cwd, check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def volume() -> Volume:
    return Volume.phantom(size=SIZE, pixel_size=PIXEL)


def write_map(volume: Volume, path: Path) -> None:
    with mrcfile.new(path) as file:
        file.set_data(volume.data.numpy())
        file.voxel_size = volume.pixel_size


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    return (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))


@pytest.mark.parametrize("with_ctf", [False, True])
def test_relion_project_makes_the_same_images(tmp_path: Path, volume: Volume, with_ctf: bool) -> None:
    """2,000 noiseless projections with shifts (and astigmatic CTF) each correlate above 0.999 with RELION's."""
    imaging = Imaging(shift_sigma=8.0)
    if with_ctf:
        imaging = Imaging(shift_sigma=8.0, defocus=(8000.0, 20000.0), astigmatism=1000.0)
    write_simulated_stack(tmp_path / "ours.mrcs", Simulator(volume, imaging), COUNT)
    write_map(volume, tmp_path / "map.mrc")
    flags = ["--ctf"] if with_ctf else []
    run(
        "relion_project", "--i", "map.mrc", "--ang", "ours.star", "--o", "theirs", "--angpix", str(PIXEL), *flags,
        cwd=tmp_path,
    )  # fmt: skip
    ours, theirs = mrcfile.read(tmp_path / "ours.mrcs"), mrcfile.read(tmp_path / "theirs.mrcs")
    assert ours.shape == theirs.shape == (COUNT, SIZE, SIZE)
    assert correlations(ours, theirs).min() > 0.999


def half_of_the_shells(fsc: torch.Tensor) -> torch.Tensor:
    return fsc[1 : SIZE // 4 + 1]


@pytest.fixture(scope="module")
def reconstructions(tmp_path_factory: pytest.TempPathFactory, volume: Volume) -> dict[str, torch.Tensor]:
    """relion_reconstruct --ctf of our particles as written, and with poses transposed and shifts negated (controls)."""
    folder = tmp_path_factory.mktemp("reconstruct")
    simulator = Simulator(volume, Imaging(snr=20.0, shift_sigma=8.0, defocus=(8000.0, 20000.0), astigmatism=1000.0))
    generator = torch.Generator().manual_seed(1)
    particles = simulator(COUNT, generator)
    assert particles.ctf is not None
    truth = particles.pose.rotation, particles.pose.shift
    maps = {}
    for name, poses in {
        "right": truth,
        "transposed": (truth[0].mT, truth[1]),
        "negated": (truth[0], -truth[1]),
    }.items():
        write_simulated_stack(folder / f"{name}.mrcs", simulator, COUNT, poses=poses, ctf=particles.ctf)
        with mrcfile.open(folder / f"{name}.mrcs", mode="r+") as file:
            file.set_data(particles.images[:, 0].numpy())
        run("relion_reconstruct", "--i", f"{name}.star", "--o", f"{name}_map.mrc", "--ctf", cwd=folder)
        maps[name] = torch.from_numpy(mrcfile.read(folder / f"{name}_map.mrc").copy())
    return maps


def test_relion_reconstruct_gives_the_map_back(volume: Volume, reconstructions: dict[str, torch.Tensor]) -> None:
    fsc = half_of_the_shells(fourier_shell_correlation(reconstructions["right"], volume.data))
    assert fsc.min() > 0.99


@pytest.mark.parametrize("wrong", ["transposed", "negated"])
def test_wrong_conventions_do_not(volume: Volume, reconstructions: dict[str, torch.Tensor], wrong: str) -> None:
    fsc = half_of_the_shells(fourier_shell_correlation(reconstructions[wrong], volume.data))
    assert fsc.mean() < 0.7
