"""What simulated images are made of beside projections, and what the preprocessing takes off: beside numpy."""

import numpy as np
import pytest
import torch

from cryozoo.imaging.preprocessing import Preprocessing, phase_flip, standardise
from cryozoo.imaging.projector import Projector
from cryozoo.imaging.simulate import Imaging, Simulator, coloured
from cryozoo.imaging.volumes import Volume
from cryozoo.particles.ctf import make_ctf

SIZE, PIXEL = 32, 6.0


def test_coloured_noise_falls_off_as_it_should() -> None:
    generator = torch.Generator().manual_seed(0)
    slope = torch.tensor([0.0, 1.0, 2.0])[:, None, None, None]
    noise = coloured(torch.randn(3, 400, SIZE, SIZE, generator=generator), slope).numpy()
    np.testing.assert_allclose(noise.var(axis=(1, 2, 3)), 1, rtol=0.05)
    power = (np.abs(np.fft.fft2(noise)) ** 2).mean(axis=1)
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(SIZE, 1 / SIZE), np.fft.fftfreq(SIZE, 1 / SIZE)))
    for exponent, found in zip((0, 1, 2), power, strict=True):
        fitted = np.polyfit(np.log(k[k >= 1]), np.log(found[k >= 1]), 1)[0]
        assert fitted == pytest.approx(-exponent, abs=0.03)


def test_odd_boxes_keep_the_variance() -> None:
    noise = coloured(torch.randn(300, 31, 31, generator=torch.Generator().manual_seed(1)), torch.tensor(1.5))
    assert float(noise.var()) == pytest.approx(1, rel=0.05)


def test_snr_of_a_range_is_log_uniform() -> None:
    volume = Volume.phantom(size=SIZE, pixel_size=PIXEL)
    simulator = Simulator(volume, Imaging(snr=(0.01, 1.0)))
    noise = simulator.add_noise(torch.zeros(2000, 1, SIZE, SIZE), torch.Generator().manual_seed(0))
    # From the noise's share of the fixed simulator, the SNR of every image.
    reference = Simulator(volume, Imaging(snr=1.0)).noise_sigma
    exponent = -2 * torch.log10(noise.flatten(1).std(dim=1) / reference)
    assert exponent.min() > -2.1
    assert exponent.max() < 0.1
    spread = torch.quantile(exponent, torch.tensor([0.25, 0.5, 0.75]))
    torch.testing.assert_close(spread, torch.tensor([-1.5, -1.0, -0.5]), atol=0.08, rtol=0)


def test_one_snr_draws_the_noise_it_always_drew() -> None:
    simulator = Simulator(Volume.phantom(size=SIZE, pixel_size=PIXEL), Imaging(snr=0.5))
    noise = simulator.add_noise(torch.zeros(2, 1, SIZE, SIZE), torch.Generator().manual_seed(3))
    expected = torch.randn(2, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
    assert torch.equal(noise, simulator.noise_sigma * expected)


@pytest.mark.parametrize("box", [32, 33])
def test_flipped_images_have_the_modulus_of_their_ctf(box: int) -> None:
    """An astigmatic CTF with zeros inside the band; the reference is numpy's, with the modulus put in directly."""
    projection = Projector(Volume.phantom(size=SIZE, pixel_size=PIXEL), image_size=box)(torch.eye(3)[None])
    ctf = make_ctf(1, defocus_u=30_000.0, defocus_v=25_000.0, defocus_angle=35.0)
    k = np.stack(np.meshgrid(np.fft.fftfreq(box, PIXEL), np.fft.fftfreq(box, PIXEL)), -1)
    transfer = ctf(torch.from_numpy(k)).numpy()[0]
    assert (transfer < 0).any()
    spectrum = np.fft.fft2(projection[0].numpy())
    image = np.fft.ifft2(spectrum * transfer).real
    expected = np.fft.ifft2(spectrum * np.abs(transfer)).real
    flipped = phase_flip(torch.from_numpy(image).float()[None, None], PIXEL, ctf)[0, 0].numpy()
    np.testing.assert_allclose(flipped, expected, atol=1e-4 * np.abs(expected).max())
    assert np.abs(image - expected).max() > 0.1 * np.abs(expected).max()  # the control: before, they were not


def test_preprocessing_flips_before_it_resamples() -> None:
    images = torch.randn(3, 40, 40, generator=torch.Generator().manual_seed(0))
    ctf = make_ctf(3, defocus_u=torch.tensor([9000.0, 15000.0, 30000.0]))
    flipping, plain = Preprocessing(32, 3.0, "phase_flip"), Preprocessing(32, 3.0)
    expected = plain(phase_flip(images[:, None], 2.4, ctf), 2.4)
    torch.testing.assert_close(flipping(images, 2.4, ctf), expected)
    assert torch.equal(flipping(images, 2.4), plain(images, 2.4))  # their phases are right already
    assert torch.equal(plain(images, 2.4, ctf), plain(images, 2.4))
    torch.testing.assert_close(expected, standardise(expected))
    with pytest.raises(ValueError, match="expected one of none, phase_flip"):
        Preprocessing(32, 3.0, "wiener")  # type: ignore[arg-type]
