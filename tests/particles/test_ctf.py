"""The CTF against a scalar loop from physical constants and against torch-ctf."""

import math

import numpy as np
import pytest
import torch
from scipy import constants as c

from cryozoo.particles.ctf import CTF, electron_wavelength, make_ctf


def wavelength_from_constants(kilovolts: float) -> float:
    energy = kilovolts * 1e3 * c.e
    momentum = math.sqrt(2 * c.m_e * energy * (1 + energy / (2 * c.m_e * c.c**2)))
    return c.h / momentum * 1e10


@pytest.mark.parametrize("kilovolts", [100.0, 200.0, 300.0])
def test_wavelength_is_de_broglies(kilovolts: float) -> None:
    ours = electron_wavelength(torch.tensor(kilovolts, dtype=torch.float64))
    assert float(ours) == pytest.approx(wavelength_from_constants(kilovolts), rel=1e-6)


def random_parameters(n: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    low = torch.tensor([5000.0, 5000.0, 0.0, 100.0, 0.5, 0.0, 0.0, 0.0])
    high = torch.tensor([30000.0, 30000.0, 180.0, 300.0, 2.7, 0.3, 90.0, 200.0])
    values = low + (high - low) * torch.rand(n, 8, generator=g)
    names = (
        "defocus_u", "defocus_v", "defocus_angle", "voltage",
        "spherical_aberration", "amplitude_contrast", "phase_shift", "b_factor",
    )  # fmt: skip
    return dict(zip(names, values.T, strict=True))


def test_agrees_with_a_scalar_loop() -> None:
    parameters = random_parameters(5)
    frequency = 0.25 * torch.rand(7, 2, generator=torch.Generator().manual_seed(4)) - 0.1
    ours = CTF(**parameters)(frequency.double()).numpy()
    for i in range(5):
        p = {name: float(value[i]) for name, value in parameters.items()}
        lam, cs = wavelength_from_constants(p["voltage"]), p["spherical_aberration"] * 1e7
        for j, (x, y) in enumerate(frequency.double().tolist()):
            azimuth, k2 = math.atan2(y, x), x * x + y * y
            mean, half = (p["defocus_u"] + p["defocus_v"]) / 2, (p["defocus_u"] - p["defocus_v"]) / 2
            defocus = mean + half * math.cos(2 * (azimuth - math.radians(p["defocus_angle"])))
            # The aberration function of Wade 1992 with the sign that makes underfocus positive.
            chi = math.pi * lam * defocus * k2 - math.pi / 2 * cs * lam**3 * k2**2
            q = p["amplitude_contrast"]
            phase = chi + math.radians(p["phase_shift"])
            expected = math.sqrt(1 - q * q) * math.sin(phase) + q * math.cos(phase)
            expected *= math.exp(-p["b_factor"] / 4 * k2)
            assert ours[i, j] == pytest.approx(expected, abs=2e-4)


def test_bright_particles_stay_bright() -> None:
    ctf = make_ctf(1, defocus_u=15000.0)
    assert float(ctf(torch.zeros(1, 2))[0, 0]) == pytest.approx(0.1, abs=1e-6)
    assert float(ctf(torch.tensor([[0.02, 0.0]]))[0, 0]) > 0


def test_agrees_with_torch_ctf() -> None:
    torch_ctf = pytest.importorskip("torch_ctf")
    theirs = torch_ctf.calculate_ctf_2d(
        defocus=1.5, astigmatism=0.05, astigmatism_angle=30.0, voltage=300.0, spherical_aberration=2.7,
        amplitude_contrast=0.1, phase_shift=0.0, pixel_size=1.5, image_shape=(64, 64), rfft=True, fftshift=False,
    )  # fmt: skip
    ky, kx = torch.fft.fftfreq(64, 1.5), torch.fft.rfftfreq(64, 1.5)
    frequency = torch.stack(torch.meshgrid(kx, ky, indexing="xy"), -1)
    ours = make_ctf(1, defocus_u=15500.0, defocus_v=14500.0, defocus_angle=30.0)(frequency)[0]
    # torch-ctf drops the sign convention for the first ring or not: the comparison includes the sign.
    np.testing.assert_allclose(ours.numpy(), np.asarray(theirs).squeeze(), atol=2e-3)
