"""Simulated particles: the stated SNR, shifts, reproducibility; and the Cramer-Rao bound of their poses."""

import re

import numpy as np
import pytest
import roma
import torch
from scipy.optimize import least_squares

from cryozoo.imaging.cramer_rao import cramer_rao_bound
from cryozoo.imaging.noise import RadialNoise
from cryozoo.imaging.projector import Projector
from cryozoo.imaging.simulate import Imaging, Simulator, inscribed_circle
from cryozoo.imaging.volumes import Volume
from cryozoo.particles.errors import BadInput

VOLUME = Volume.phantom(size=32, pixel_size=6.0)


@pytest.mark.parametrize("defocus", [None, (10000.0, 20000.0)])
def test_snr_is_variance_of_signal_over_variance_of_noise_in_the_circle(defocus: tuple[float, float] | None) -> None:
    imaging = Imaging(snr=0.25, shift_sigma=6.0, defocus=defocus, astigmatism=500.0)
    simulator = Simulator(VOLUME, imaging)
    particles = simulator(600, torch.Generator().manual_seed(5))
    clean = simulator.projector(particles.pose.rotation, particles.pose.shift, particles.ctf)
    noise = particles.images[:, 0] - clean
    circle = inscribed_circle(32)
    signal = clean[:, circle].numpy().var(axis=1, ddof=1).mean()
    assert signal / noise.numpy().var() == pytest.approx(0.25, rel=0.05)
    assert particles.pose.shift.std() == pytest.approx(6.0, rel=0.1)
    white = torch.fft.rfft2(noise).abs().square().mean(0)
    assert white[1:, 1:-1].std() / white[1:, 1:-1].mean() < 0.1
    if defocus:
        assert particles.ctf is not None
        middle = (particles.ctf.defocus_u + particles.ctf.defocus_v) / 2
        assert 10000 <= middle.min() < middle.max() <= 20000
        assert (particles.ctf.defocus_u - particles.ctf.defocus_v).min() >= 0
        assert (particles.ctf.defocus_u - particles.ctf.defocus_v).max() <= 500


def test_a_generator_gives_the_same_particles() -> None:
    simulator = Simulator(VOLUME, Imaging(snr=1.0, shift_sigma=3.0))
    a, b = (simulator(4, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(a.images, b.images)
    assert not torch.equal(a.images, simulator(4, torch.Generator().manual_seed(2)).images)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("snr", [0.0, -1.0, np.nan, np.inf]),
        ("shift_sigma", [-1.0, 1001.0, np.nan, np.inf]),
        (
            "defocus",
            [(1.5, 2.0), (2e4, 2e5), (2e4, 1e4), (0.0, 1e4), (1e4, np.nan), (np.nan, 1e4), (1e4, np.inf), (1e4,)],
        ),
        ("astigmatism", [-1.0, 0.05, 2e5, np.nan]),
        ("voltage", [0.0, -300.0, 10.0, 3000.0, 300_000.0, np.nan]),
        ("spherical_aberration", [-1.0, 2.7e3, np.nan, np.inf]),
        ("amplitude_contrast", [7.0, -0.1, np.nan]),
        ("b_factor", [-1.0, 1e5, np.nan, np.inf]),
        ("allow_wrap", [1, 0.0]),
    ],
)
def test_impossible_imaging_is_refused(field: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(BadInput, match=rf"^imaging, field {field}: {re.escape(str(value))}; expected "):
            Imaging(**{field: value})  # type: ignore[arg-type]


def test_a_unit_that_is_told_by_the_number_is_named() -> None:
    with pytest.raises(BadInput, match=r"in Angstrom, 100 to 100,000 .*1.5 micrometres are 15,000"):
        Imaging(defocus=(1.5, 2.0))
    with pytest.raises(BadInput, match=r"300000.0; expected .*\(kV\)"):
        Imaging(voltage=300_000.0)


def test_the_limits_of_imaging_give_images() -> None:
    for settings in ({"voltage": 11.0}, {"voltage": 2999.0}, {"amplitude_contrast": 0.0}, {"amplitude_contrast": 1.0}):
        imaging = Imaging(defocus=(1e4, 1e4), **settings)  # type: ignore[arg-type]
        assert Simulator(VOLUME, imaging)(2).images.isfinite().all()


def test_no_estimator_beats_the_bound_and_least_squares_reaches_it() -> None:
    """Maximum likelihood (least squares over five parameters, scipy) at low noise scatters as the bound says."""
    projector = Projector(VOLUME)
    torch.manual_seed(0)
    rotation = roma.random_rotmat(1)
    clean = projector(rotation)
    sigma = float(clean[:, inscribed_circle(32)].std()) / 3
    bound = cramer_rao_bound(projector, rotation, sigma)

    def image(x: np.ndarray) -> np.ndarray:
        move = torch.from_numpy(x - 1).float()  # off 0, where scipy's relative difference step vanishes
        turned = roma.rotvec_to_rotmat(move[None, :3] / 100) @ rotation
        return projector(turned, move[None, 3:]).numpy().ravel()

    rng = np.random.default_rng(0)
    fits = []
    for _ in range(60):
        noisy = image(np.ones(5)) + sigma * rng.normal(size=32 * 32)
        fit = least_squares(lambda x, noisy=noisy: image(x) - noisy, np.ones(5), diff_step=1e-2)
        fits.append(fit.x - 1)
    estimates = np.array(fits)
    angle = np.linalg.norm(estimates[:, :3], axis=1) / 100
    expected_square = float(bound.rotation[0].trace())
    assert np.mean(angle**2) == pytest.approx(expected_square, rel=0.3)
    assert np.mean(estimates[:, 3:] ** 2, axis=0).sum() == pytest.approx(float(bound.shift[0].trace()), rel=0.4)
    assert float(bound.angles(4000).square().mean()) == pytest.approx(expected_square, rel=0.05)
    known = cramer_rao_bound(projector, rotation, sigma, known_shift=True)
    assert known.rotation[0].trace() < bound.rotation[0].trace()


def test_the_bound_of_coloured_noise_is_that_of_its_covariance() -> None:
    """Summed sample by sample in Fourier space by numpy: J^H P^-1 J; white power gives what a deviation gives."""
    projector = Projector(VOLUME)
    torch.manual_seed(0)
    rotation = roma.random_rotmat(2)
    white = cramer_rao_bound(projector, rotation, 0.7)
    same = cramer_rao_bound(projector, rotation, RadialNoise.white(0.7, 32, VOLUME.pixel_size))
    torch.testing.assert_close(same.rotation, white.rotation, rtol=1e-4, atol=0)
    box = 32 * VOLUME.pixel_size
    shells = torch.linspace(900.0, 20.0, 25)
    found = cramer_rao_bound(projector, rotation, RadialNoise(shells, box))
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(32, 1 / 32), np.fft.fftfreq(32, 1 / 32)))
    power = np.interp(np.maximum(k, 1), np.arange(25), shells.numpy())
    columns = []
    for axis in range(5):
        step = (0.01 if axis < 3 else 0.1 * VOLUME.pixel_size) * torch.eye(5)[axis]
        ends = [
            projector(
                roma.rotvec_to_rotmat(sign * step[:3].expand(2, 3)) @ rotation, sign * step[3:].expand(2, 2)
            ).numpy()
            for sign in (-1, 1)
        ]
        columns.append(np.fft.fft2((ends[1] - ends[0]) / (2 * float(step.sum()))))
    jacobian = np.stack(columns, -1).astype(np.complex128)
    fisher = np.einsum("bxyi,xy,bxyj->bij", jacobian.conj(), 1 / power, jacobian).real
    expected = np.linalg.inv(fisher)[:, :3, :3]
    np.testing.assert_allclose(found.rotation.numpy(), expected, rtol=1e-3)
    with pytest.raises(ValueError, match="not white"):
        cramer_rao_bound(projector, rotation, RadialNoise(shells, box), mask=inscribed_circle(32))
