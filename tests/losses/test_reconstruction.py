"""Slices, CTF, shifts and moved views against images that are made in real space, of blobs."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cryozoo.geometry.pose import Pose
from cryozoo.geometry.sampling import random_rotations
from cryozoo.imaging.fourier_samples import FourierSamples
from cryozoo.losses.reconstruction import Reconstruction, View
from cryozoo.models.decoder import Decoder
from cryozoo.particles.ctf import CTF, make_ctf

PIXEL, WIDTH, COUNT = 5.0, 1.5, 6  # Angstrom, and pixels of a blob
PLACES = np.random.default_rng(0).normal(size=(7, 3)) * 3.0
MASSES = np.random.default_rng(1).uniform(1, 3, size=7)


class Blobs(Decoder):
    """The transform of Gaussian blobs, in closed form."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.mass = nn.Parameter(torch.from_numpy(MASSES).float())

    def forward(self, k: Tensor) -> Tensor:
        phase = -2 * math.pi / self.size * k @ torch.from_numpy(PLACES).to(k).T
        envelope = torch.exp(-2 * (math.pi * WIDTH / self.size) ** 2 * k.square().sum(-1))
        return (torch.polar(self.mass.expand_as(phase), phase)).sum(-1) * envelope / self.size


def image(rotation: NDArray[np.float64], shift: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """The blobs' projection, pixel by pixel."""
    axis = np.arange(size) - size // 2
    y, x = np.meshgrid(axis, axis, indexing="ij")
    seen = np.zeros((size, size))
    for mass, place in zip(MASSES, PLACES, strict=True):
        at = rotation @ place
        squared = (x - at[0] - shift[0] / PIXEL) ** 2 + (y - at[1] - shift[1] / PIXEL) ** 2
        seen += mass * np.exp(-squared / (2 * WIDTH**2)) / (2 * np.pi * WIDTH**2)
    return seen


def through_ctf(seen: NDArray[np.float64], ctf: CTF, row: int) -> NDArray[np.float64]:
    """By numpy's transform, and the CTF's formula, sample by sample."""
    size = len(seen)
    u, v, angle = (float(getattr(ctf, f"defocus_{name}")[row]) for name in ("u", "v", "angle"))
    wavelength = 0.0196875  # of 300 kV
    spectrum = np.fft.fft2(seen)
    for i, ky in enumerate(np.fft.fftfreq(size, PIXEL)):
        for j, kx in enumerate(np.fft.fftfreq(size, PIXEL)):
            squared = kx**2 + ky**2
            defocus = (u + v) / 2 + (u - v) / 2 * np.cos(2 * (np.arctan2(ky, kx) - np.radians(angle)))
            gamma = np.pi * wavelength * squared * defocus - np.pi / 2 * 2.7e7 * wavelength**3 * squared**2
            spectrum[i, j] *= np.sin(gamma + np.arcsin(0.1))
    return np.fft.ifft2(spectrum).real


def particles(size: int, with_ctf: bool) -> tuple[Tensor, Pose, CTF | None]:
    generator = torch.Generator().manual_seed(2)
    rotation = random_rotations(COUNT, generator=generator, dtype=torch.float64)
    shift = 4.0 * torch.randn(COUNT, 2, generator=generator, dtype=torch.float64)
    ctf = None
    if with_ctf:
        defocus = torch.linspace(8000, 20_000, COUNT)
        ctf = make_ctf(COUNT, defocus_u=defocus + 900, defocus_v=defocus - 900, defocus_angle=30.0)
    images = []
    for row in range(COUNT):
        seen = image(rotation[row].numpy(), shift[row].numpy(), size)
        images.append(through_ctf(seen, ctf, row) if ctf is not None else seen)
    return torch.from_numpy(np.stack(images)).float()[:, None], Pose(rotation.float(), shift.float()), ctf


def residual(loss: Reconstruction, pose: Pose, images: Tensor, ctf: CTF | None) -> Tensor:
    size = images.shape[-1]
    with torch.no_grad():
        return loss(pose, images, Blobs(size), FourierSamples(size, PIXEL), ctf).terms["residual"]


@pytest.mark.parametrize("with_ctf", [False, True])
@pytest.mark.parametrize("size", [32, 33])
def test_slice_shift_and_ctf_are_those_of_real_space(size: int, with_ctf: bool) -> None:
    images, pose, ctf = particles(size, with_ctf)
    power = images.square().mean((1, 2, 3))
    loss = Reconstruction()
    assert float((residual(loss, pose, images, ctf) / power).max()) < 1e-7
    # Controls: a shift that is off by a fifth of a pixel, and a pose by two degrees.
    assert pose.shift is not None
    assert float((residual(loss, pose._replace(shift=pose.shift + 1.0), images, ctf) / power).min()) > 1e-4
    assert pose.rotation is not None
    turn = torch.tensor([[1, 0, 0], [0, math.cos(0.035), -math.sin(0.035)], [0, math.sin(0.035), math.cos(0.035)]])
    assert float((residual(loss, pose._replace(rotation=turn @ pose.rotation), images, ctf) / power).max()) > 1e-4


@pytest.mark.parametrize("view", ["half_turn", "mirror"])
@pytest.mark.parametrize("size", [32, 33])
def test_views_are_moved_and_poses_moved_back_about_the_origin(size: int, view: View) -> None:
    images, pose, _ = particles(size, False)
    loss = Reconstruction(views=("identity", view))
    shown = loss.shown(images)
    assert torch.equal(shown[:COUNT], images)
    plane = np.diag([-1.0, -1.0]) if view == "half_turn" else np.diag([1.0, -1.0])
    turn = np.diag([*np.diag(plane), np.linalg.det(plane)])
    assert pose.rotation is not None
    assert pose.shift is not None
    rotation, shift = turn @ pose.rotation.double().numpy(), pose.shift.double().numpy() @ plane
    for row in range(COUNT):
        expected = image(rotation[row], shift[row], size)
        off = np.abs(shown[COUNT + row, 0].numpy() - expected)
        first = 1 - size % 2  # of an even grid, the first row and column have no partner
        assert off[first:, first:].max() < 1e-6
    power = images.square().mean((1, 2, 3))
    wrong = random_rotations(COUNT, generator=torch.Generator().manual_seed(3))
    right, both = torch.from_numpy(rotation).float(), torch.cat([pose.shift, torch.from_numpy(shift).float()])
    either = Pose(torch.cat([wrong, right]), both)
    assert float((residual(loss, either, images, None) / power).max()) < 1e-7
    neither = Pose(torch.cat([wrong, wrong]), both)
    assert float((residual(loss, neither, images, None) / power).min()) > 1e-3


def test_noise_adds_its_variance() -> None:
    images, pose, _ = particles(32, False)
    noisy = images + 0.7 * torch.randn(images.shape, generator=torch.Generator().manual_seed(4))
    assert float(residual(Reconstruction(), pose, noisy, None).mean()) == pytest.approx(0.49, rel=0.05)
