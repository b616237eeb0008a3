"""Stacks on disk are what the simulator draws, and other programs' readers find them whole."""

import mrcfile
import numpy as np
import pytest
import starfile
import torch
from scipy.spatial.transform import Rotation

from cryozoo.imaging.simulate import Imaging, Simulator
from cryozoo.imaging.simulate_files import write_simulated_stack
from cryozoo.imaging.volumes import Volume
from cryozoo.particles.ctf import make_ctf
from cryozoo.particles.errors import BadInput

VOLUME = Volume.phantom(size=24, pixel_size=4.0, seed=1)


def read(path):
    tables = starfile.read(path.with_suffix(".star"))
    return mrcfile.read(path), tables["optics"], tables["particles"]


def rotations(particles):
    angles = particles[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy()
    return Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix().transpose(0, 2, 1)


def test_the_table_says_what_the_images_show(tmp_path):
    """Images are projected anew from the numbers in the file, the CTF from its columns."""
    path = tmp_path / "a.mrcs"
    imaging = Imaging(shift_sigma=6.0, defocus=(5000.0, 25000.0), astigmatism=800.0, voltage=200.0)
    written = []
    write_simulated_stack(path, Simulator(VOLUME, imaging), 300, seed=5, on_chunk=written.append)
    assert sum(written) == 300
    assert len(written) > 1
    images, optics, particles = read(path)
    shift = -particles[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy()
    assert 4 < shift.std() < 8
    numbers = {
        name: torch.tensor(particles[f"rln{label}"].to_numpy())
        for label, name in (("DefocusU", "defocus_u"), ("DefocusV", "defocus_v"), ("DefocusAngle", "defocus_angle"))
    }
    ctf = make_ctf(300, **numbers, voltage=200.0)
    projector = Simulator(VOLUME, Imaging()).projector
    rotation, moved = torch.from_numpy(rotations(particles)).float(), torch.from_numpy(shift).float()
    expected = projector(rotation, moved, ctf).numpy()
    np.testing.assert_allclose(images, expected, rtol=0, atol=1e-3 * np.abs(expected).max())
    assert list(particles["rlnImageName"][:2]) == ["000001@a.mrcs", "000002@a.mrcs"]
    assert particles["rlnImageName"].iloc[-1] == "000300@a.mrcs"
    assert list(particles["rlnRandomSubset"]) == [1, 2] * 150
    row = optics.iloc[0]
    labels = [
        "Voltage",
        "SphericalAberration",
        "AmplitudeContrast",
        "ImagePixelSize",
        "ImageSize",
        "ImageDimensionality",
    ]
    assert [row[f"rln{label}"] for label in labels] == [200.0, 2.7, 0.1, 4.0, 24, 2]
    assert mrcfile.validate(path)


def test_given_poses_and_optics_are_kept_to_the_last_digit(tmp_path):
    n = 7
    rotation = Rotation.random(n, rng=np.random.default_rng(0)).as_matrix()
    shift = np.random.default_rng(1).normal(size=(n, 2)) * 5
    voltage = torch.tensor([300.0, 200.0, 300.0, 300.0, 200.0, 300.0, 300.0])
    ctf = make_ctf(n, defocus_u=torch.linspace(9000, 15000, n), voltage=voltage, phase_shift=30.0)
    given = torch.from_numpy(rotation), torch.from_numpy(shift)
    write_simulated_stack(tmp_path / "a.mrcs", Simulator(VOLUME, Imaging()), n, poses=given, ctf=ctf)
    images, optics, particles = read(tmp_path / "a.mrcs")
    np.testing.assert_allclose(rotations(particles), rotation, rtol=0, atol=2e-8)  # six decimals of a degree
    np.testing.assert_allclose(particles[["rlnOriginXAngst", "rlnOriginYAngst"]], -shift, rtol=0, atol=1e-6)
    assert dict(zip(optics["rlnOpticsGroup"], optics["rlnVoltage"], strict=True)) == {1: 200.0, 2: 300.0}
    assert list(particles["rlnOpticsGroup"]) == [2, 1, 2, 2, 1, 2, 2]
    assert set(particles["rlnPhaseShift"]) == {30.0}
    expected = Simulator(VOLUME, Imaging()).projector(*(x.float() for x in given), ctf).numpy()
    np.testing.assert_array_equal(images, expected)


def test_noise_has_the_stated_level_and_depends_on_the_seed(tmp_path):
    clean, noisy = Simulator(VOLUME, Imaging()), Simulator(VOLUME, Imaging(snr=0.25))
    poses = torch.from_numpy(Rotation.random(400, rng=np.random.default_rng(2)).as_matrix()), torch.zeros(400, 2)
    for name, simulator, seed in (("clean", clean, 0), ("a", noisy, 0), ("b", noisy, 0), ("c", noisy, 1)):
        write_simulated_stack(tmp_path / f"{name}.mrcs", simulator, 400, poses=poses, seed=seed)
    clean_images, a, b, c = (mrcfile.read(tmp_path / f"{name}.mrcs") for name in ("clean", "a", "b", "c"))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 0
    axis = np.arange(24) - 12
    circle = axis[:, None] ** 2 + axis**2 <= 12**2
    signal = clean_images[:, circle].var(axis=1, ddof=1).mean()
    assert signal / (a - clean_images).var() == pytest.approx(0.25, rel=0.05)


def test_without_a_ctf_there_are_no_columns_of_one(tmp_path):
    write_simulated_stack(tmp_path / "a.mrcs", Simulator(VOLUME, Imaging()), 3)
    _, optics, particles = read(tmp_path / "a.mrcs")
    assert not any("Defocus" in label for label in particles)
    assert list(optics["rlnVoltage"]) == [300.0]


def test_a_job_that_is_stopped_leaves_nothing(tmp_path):
    def stop(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_simulated_stack(tmp_path / "a.mrcs", Simulator(VOLUME, Imaging()), 3, on_chunk=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.mrcs", "a.star"])
def test_existing_files_are_kept(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(BadInput, match="exists already"):
        write_simulated_stack(tmp_path / "a.mrcs", Simulator(VOLUME, Imaging()), 3)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(name, "mine")]
    write_simulated_stack(tmp_path / "a.mrcs", Simulator(VOLUME, Imaging()), 3, overwrite=True)
    assert len(read(tmp_path / "a.mrcs")[0]) == 3


def test_a_stack_is_no_star_file(tmp_path):
    with pytest.raises(BadInput, match="STAR"):
        write_simulated_stack(tmp_path / "a.star", Simulator(VOLUME, Imaging()), 3)
