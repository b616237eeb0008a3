"""Against the projector, the Cramer-Rao bound, naive sums and differences; and that climbing finds the pose."""

import math

import pytest
import torch

from cryozoo.geometry.distances import geodesic_distance
from cryozoo.geometry.rotations import rotvec_to_matrix
from cryozoo.geometry.sampling import random_rotations
from cryozoo.imaging.cramer_rao import cramer_rao_bound
from cryozoo.imaging.pose_likelihood import PoseLikelihood
from cryozoo.imaging.projector import Projector
from cryozoo.imaging.volumes import Volume
from cryozoo.particles.ctf import make_ctf

SIZE, PIXEL, N = 32, 5.0, 24
VOLUME = Volume.phantom(size=36, pixel_size=4.5)
GENERATOR = torch.Generator().manual_seed(0)
ROTATION = random_rotations(N, generator=GENERATOR).float()
SHIFT = 6 * torch.randn(N, 2, generator=GENERATOR)
CTF = make_ctf(N, defocus_u=torch.linspace(8000, 20000, N), defocus_v=7000.0, defocus_angle=30.0)


@pytest.fixture(scope="module")
def likelihood() -> PoseLikelihood:
    return PoseLikelihood(VOLUME, SIZE, PIXEL)


@pytest.fixture(scope="module")
def projector() -> Projector:
    return Projector(VOLUME, image_size=SIZE, pixel_size=PIXEL)


@pytest.mark.parametrize("ctf", [None, CTF])
def test_projections_are_those_of_the_projector(likelihood: PoseLikelihood, projector: Projector, ctf: object) -> None:
    images = projector(ROTATION, SHIFT, ctf)
    passed = None if ctf is None else CTF(likelihood.frequency)
    found, expected = likelihood.projections(ROTATION, SHIFT, passed), likelihood.samples(images)
    assert (found - expected).norm() < 1e-3 * expected.norm()
    wrong = likelihood.projections(ROTATION.mT.contiguous(), SHIFT, passed)
    assert (wrong - expected).norm() > 0.3 * expected.norm()


def test_samples_hold_every_frequency_once_and_the_noise_they_say(likelihood: PoseLikelihood) -> None:
    """The squares of half of the samples, twice counted, are the power of the image without what is left out."""
    noise = 3.0 * torch.randn(200, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    samples = likelihood.samples(noise)
    assert samples.abs().square().mean() == pytest.approx(2 * (3.0 * SIZE) ** 2, rel=0.01)
    spectrum = torch.fft.fft2(noise)
    k = torch.fft.fftfreq(SIZE, PIXEL)
    radius = (k[:, None] ** 2 + k**2).sqrt()
    inside = (radius > 0) & (radius < 0.1)
    assert 2 * len(likelihood.frequency) == inside.sum()
    power = spectrum.abs().square()[:, inside].sum(1)
    torch.testing.assert_close(samples.abs().square().sum(1), power, rtol=1e-4, atol=0)


def test_images_have_the_samples_that_they_are_made_of(likelihood: PoseLikelihood, projector: Projector) -> None:
    """And of an image without other frequencies they are that image."""
    samples = likelihood.samples(torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)))
    images = likelihood.images(samples)
    torch.testing.assert_close(likelihood.samples(images), samples, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(likelihood.images(likelihood.samples(images)), images, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 0.97, 1.03])
def test_a_limited_likelihood_is_that_of_the_scaled_map(likelihood: PoseLikelihood, scale: float) -> None:
    highest = likelihood.highest / 1.1
    limited = likelihood.limited(highest, scale)
    fresh = PoseLikelihood(Volume(VOLUME.data, scale * VOLUME.pixel_size), SIZE, PIXEL, highest=highest)
    torch.testing.assert_close(limited.frequency, fresh.frequency)
    samples = fresh.projections(ROTATION, SHIFT) + 0.1
    found, expected = (each.at(ROTATION, SHIFT, samples) for each in (limited, fresh))
    torch.testing.assert_close(found.score, expected.score, rtol=2e-3, atol=0)
    told = expected.information()
    torch.testing.assert_close(found.information(), told, rtol=1e-2, atol=1e-3 * float(told.abs().max()))
    other = likelihood.limited(highest, scale + 0.1).at(ROTATION, SHIFT, samples)
    assert (other.score < 0.98 * expected.score).all()


def test_the_products_are_those_of_naive_sums(likelihood: PoseLikelihood, projector: Projector) -> None:
    images = projector(ROTATION, SHIFT, CTF) + torch.randn(N, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    samples, passed = likelihood.samples(images), CTF(likelihood.frequency)
    placed = likelihood.at(ROTATION, SHIFT, samples, passed)
    projections = likelihood.projections(ROTATION, SHIFT, passed)
    for row in range(3):
        a, f = projections[row].tolist(), samples[row].tolist()
        cross = sum((x.conjugate() * y).real for x, y in zip(a, f, strict=True))
        power = sum(abs(x) ** 2 for x in a)
        assert float(placed.amplitude[row]) == pytest.approx(cross / power, rel=1e-3)
        assert float(placed.score[row]) == pytest.approx(cross**2 / power, rel=1e-3)


def test_the_information_is_that_of_the_cramer_rao_bound(likelihood: PoseLikelihood, projector: Projector) -> None:
    sigma = 2.0
    passed = CTF(likelihood.frequency) / (sigma * SIZE)
    samples = likelihood.samples(projector(ROTATION, SHIFT, CTF)) / (sigma * SIZE)
    covariance = torch.linalg.inv(likelihood.at(ROTATION, SHIFT, samples, passed).information().double())
    bound = cramer_rao_bound(projector, ROTATION, sigma, shift=SHIFT, ctf=CTF)
    ratio = covariance[:, :3, :3].diagonal(dim1=1, dim2=2).sum(1) / bound.rotation.diagonal(dim1=1, dim2=2).sum(1)
    # The unknown amplitude can only add; the bound's own derivatives are differences of an interpolation.
    assert ratio.min() > 0.95
    assert 0.99 < ratio.median() < 1.1
    shifts = covariance[:, 3:, 3:].diagonal(dim1=1, dim2=2).sum(1) / bound.shift.diagonal(dim1=1, dim2=2).sum(1)
    assert shifts.min() > 0.95
    assert 0.99 < shifts.median() < 1.1


def test_the_slope_is_that_of_half_the_score(likelihood: PoseLikelihood, projector: Projector) -> None:
    samples, passed = likelihood.samples(projector(ROTATION, SHIFT, CTF)), CTF(likelihood.frequency)
    off = rotvec_to_matrix(torch.full((N, 3), 0.03)) @ ROTATION
    slope = likelihood.at(off, SHIFT + 1, samples, passed).slope()
    for axis in range(5):
        step = (0.02 if axis < 3 else 0.2) * torch.eye(5)[axis]
        scores = [
            likelihood.at(rotvec_to_matrix(sign * step[:3]) @ off, SHIFT + 1 + sign * step[3:], samples, passed).score
            for sign in (1, -1)
        ]
        numeric = (scores[0] - scores[1]) / 4 / step.norm()
        assert (slope[:, axis] - numeric).norm() < 0.1 * numeric.norm()


def test_steps_reach_the_bound(likelihood: PoseLikelihood, projector: Projector) -> None:
    """From 5 degrees and 4 Angstrom away to what the noise allows; not from the mirror image's poses."""
    generator = torch.Generator().manual_seed(3)
    n = 200
    rotation, shift = random_rotations(n, generator=generator).float(), 5 * torch.randn(n, 2, generator=generator)
    clean = projector(rotation, shift)
    sigma = float(clean.std())  # SNR 1 over the whole box
    images = clean + sigma * torch.randn(clean.shape, generator=generator)
    samples = likelihood.samples(images) / (sigma * SIZE)
    passed = torch.full((1, 1), 1 / (sigma * SIZE)).expand(samples.shape)
    away = rotvec_to_matrix(0.05 * torch.randn(n, 3, generator=generator)) @ rotation
    start = likelihood.at(away, shift + 4 * torch.randn(n, 2, generator=generator), samples, passed)
    found = likelihood.climb(start, samples, passed, 6)
    assert (found.score >= start.score).all()
    error = geodesic_distance(found.rotation.double(), rotation.double())
    bound = cramer_rao_bound(projector, rotation, sigma, shift=shift).angles()
    assert error.median() < 1.1 * bound.median()
    assert float(found.amplitude.median()) == pytest.approx(1, abs=0.05)
    expected = torch.linalg.inv(found.information().double())[:, :3, :3].diagonal(dim1=1, dim2=2).sum(1)
    assert math.sqrt(float(expected.mean() / error.square().mean())) == pytest.approx(1, abs=0.15)
