"""Preprocessing against scipy and against the simulator at other pixel sizes."""

import numpy as np
import pytest
import roma
import scipy.signal
import torch

from cryozoo.imaging.preprocessing import Preprocessing, crop_or_pad, fourier_resize
from cryozoo.imaging.projector import Projector
from cryozoo.imaging.simulate import inscribed_circle
from cryozoo.imaging.volumes import Volume


@pytest.mark.parametrize(("old", "new"), [(32, 20), (32, 21), (33, 20), (33, 21), (20, 32), (21, 33), (20, 33)])
def test_fourier_resize_agrees_with_scipy(old: int, new: int) -> None:
    """scipy's resample keeps pixel 0 in place, ours the origin at L // 2: compare about the origin."""
    axis = np.arange(old)
    rng = np.random.default_rng(0)
    # Band-limited below both Nyquist frequencies, where the two must agree exactly.
    image = sum(
        rng.normal() * np.cos(2 * np.pi * (a * axis[:, None] + b * axis) / old + rng.normal())
        for a in range(-8, 9)
        for b in range(9)
    )
    centred = np.fft.ifftshift(image)
    expected = np.fft.fftshift(scipy.signal.resample(scipy.signal.resample(centred, new, axis=0), new, axis=1))
    np.testing.assert_allclose(fourier_resize(torch.from_numpy(image), new).numpy(), expected, atol=1e-9)


@pytest.mark.parametrize(("old", "new"), [(8, 5), (8, 6), (9, 6), (9, 5), (5, 8), (6, 8), (6, 9), (5, 9)])
def test_crop_or_pad_keeps_the_origin(old: int, new: int) -> None:
    image = torch.zeros(old, old)
    image[old // 2, old // 2] = 1
    out = crop_or_pad(image, new)
    assert out.shape == (new, new)
    assert (out == 1).nonzero().tolist() == [[new // 2, new // 2]]


def test_mean_zero_variance_one_in_the_circle() -> None:
    images = 7 + 3 * torch.randn(4, 40, 40, generator=torch.Generator().manual_seed(0))
    out = Preprocessing(40, 2.0)(images)
    circle = inscribed_circle(40)
    assert out.shape == (4, 1, 40, 40)
    assert not out[..., ~circle].any()
    inside = out[..., circle]
    torch.testing.assert_close(inside.mean(-1), torch.zeros(4, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(inside.std(-1), torch.ones(4, 1), atol=1e-5, rtol=0)


def test_other_pixel_sizes_reach_the_trained_one() -> None:
    """A finer camera and a larger box give the same network input as the trained one."""
    volume = Volume.phantom(size=48, pixel_size=4.0)
    torch.manual_seed(0)
    rotation, shift = roma.random_rotmat(4), 6 * torch.randn(4, 2)
    preprocessing = Preprocessing(48, 4.0)
    trained = preprocessing(Projector(volume)(rotation, shift), 4.0)
    finer = preprocessing(Projector(volume, image_size=120, pixel_size=2.0)(rotation, shift), 2.0)
    error = (finer - trained).flatten(1).norm(dim=1) / trained.flatten(1).norm(dim=1)
    assert error.max() < 0.02
    ignored = preprocessing(Projector(volume, image_size=120, pixel_size=2.0)(rotation, shift))
    assert ((ignored - trained).flatten(1).norm(dim=1) / trained.flatten(1).norm(dim=1)).min() > 0.2


def test_constant_images_become_zero_and_shapes_are_checked() -> None:
    preprocessing = Preprocessing(32, 2.0)
    for constant in (0.0, 5.0, 7.3, -0.1):
        assert not preprocessing(torch.full((1, 32, 32), constant)).any()
        assert not preprocessing(torch.full((1, 40, 40), constant), 1.7).any()
    with pytest.raises(ValueError, match="expected"):
        preprocessing(torch.zeros(2, 3, 32, 32))
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="pixel_size"):
            Preprocessing(32, bad)
