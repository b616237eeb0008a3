"""Fourier shell correlation against a plain loop over shells, masks against scipy, the correction against RELION."""

import shutil
import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import scipy.ndimage
import starfile
import torch
from torch import Tensor

from cryozoo.imaging.fsc import fourier_shell_correlation, masked_fsc, randomise_phases, resolution_at
from cryozoo.imaging.masks import mask_from_map, spherical_mask
from cryozoo.imaging.volumes import Volume


@pytest.mark.parametrize(("size", "dims"), [(12, 3), (13, 3), (16, 2), (15, 2)])
def test_agrees_with_a_loop(size: int, dims: int) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, *(size,) * dims))
    b = b + a
    fa, fb = np.fft.fftn(a), np.fft.fftn(b)
    expected = []
    for shell in range(size // 2 + 1):
        top = power_a = power_b = 0.0
        for index in np.ndindex(a.shape):
            k = [(i + size // 2) % size - size // 2 for i in index]
            if round(float(np.linalg.norm(k))) == shell:
                top += float((fa[index] * np.conj(fb[index])).real)
                power_a += float(abs(fa[index]) ** 2)
                power_b += float(abs(fb[index]) ** 2)
        expected.append(top / np.sqrt(power_a * power_b))
    ours = fourier_shell_correlation(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-9)


def test_resolution_is_interpolated() -> None:
    fsc = torch.tensor([1.0, 1.0, 0.9, 0.1, 0.0])
    assert resolution_at(fsc, 0.5, pixel_size=2.0) == pytest.approx(8 * 2 / 2.5)
    assert resolution_at(fsc, 0.5, pixel_size=2.0, size=9) == pytest.approx(9 * 2 / 2.5)
    assert resolution_at(fsc, 0.143, pixel_size=2.0) == pytest.approx(8 * 2 / (2 + 0.757 / 0.8))
    assert resolution_at(torch.ones(5), 0.5, pixel_size=2.0) == pytest.approx(4.0)
    assert resolution_at(torch.zeros(5), 0.5, pixel_size=2.0) == pytest.approx(16.0)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="cubes"):
        fourier_shell_correlation(torch.zeros(4, 4, 5), torch.zeros(4, 4, 5))


@pytest.mark.parametrize("size", [16, 17])
def test_spherical_mask(size: int) -> None:
    mask = spherical_mask(size, 4.0, 3.0)
    for index in np.ndindex(mask.shape):
        beyond = np.linalg.norm(np.array(index) - size // 2) - 4
        expected = 1.0 if beyond <= 0 else 0.0 if beyond >= 3 else (1 + np.cos(np.pi * beyond / 3)) / 2
        assert mask[index] == pytest.approx(expected, abs=1e-6)


def test_mask_from_map_is_around_the_density() -> None:
    """By scipy's Gaussian filter and distance transform; the scale and the background of the map do not matter."""
    volume = Volume.phantom(size=40, pixel_size=5.0)
    mask = mask_from_map(volume, extend=2, edge=4)
    # exp(-(k r)^2) is a Gaussian of sigma r / (pi sqrt 2)
    blurred = scipy.ndimage.gaussian_filter(volume.data.numpy(), 20.0 / 5.0 / np.pi / 2**0.5, mode="wrap", truncate=8)

    def between(threshold: float) -> float:
        low, high = blurred[blurred <= threshold], blurred[blurred > threshold]
        return float(low.size * high.size * (high.mean() - low.mean()) ** 2)

    threshold = max(np.linspace(blurred.min(), blurred.max(), 257)[1:-1], key=between)
    distance = scipy.ndimage.distance_transform_edt(blurred <= threshold)
    expected = 0.5 + 0.5 * np.cos(np.pi * np.clip((distance - 2) / 4, 0, 1))
    assert float(np.abs(mask.numpy() - expected).mean()) < 1e-3
    assert float(mask.mean()) < 0.2
    assert float((volume.data * mask).sum()) > 0.98 * float(volume.data.sum())
    scaled = Volume(volume.data * 100 + 7, volume.pixel_size)
    assert float((mask_from_map(scaled, extend=2, edge=4) - mask).abs().mean()) < 1e-3


def halves(noise: float, size: int = 32) -> tuple[Tensor, Tensor, Volume]:
    volume = Volume.phantom(size=size, pixel_size=4.0)
    generator = torch.Generator().manual_seed(0)
    sigma = noise * volume.data.std()
    first, second = (volume.data + sigma * torch.randn(volume.data.shape, generator=generator) for _ in range(2))
    return first, second, volume


def test_random_phases_keep_amplitudes_and_low_shells() -> None:
    first, _, _ = halves(1.0)
    other = randomise_phases(first, 5, torch.Generator().manual_seed(1))
    before, after = torch.fft.fftn(first.double()), torch.fft.fftn(other)
    np.testing.assert_allclose(after.abs().numpy(), before.abs().numpy(), rtol=1e-6, atol=1e-6)
    fsc = fourier_shell_correlation(first, other)
    assert fsc[:5].min() > 0.999
    assert fsc[6:].abs().max() < 0.3


def test_the_correction_takes_off_what_the_mask_adds() -> None:
    """Two maps of noise correlate in a tight mask; corrected they do not, and true agreement stays."""
    generator = torch.Generator().manual_seed(0)
    low, other = (torch.randn(32, 32, 32, generator=generator) for _ in range(2))
    axis = torch.fft.fftfreq(32, 1 / 32)
    near = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis[:17] ** 2) < 6**2
    common = torch.fft.irfftn(torch.fft.rfftn(low) * near, s=(32,) * 3)
    apart = torch.fft.irfftn(torch.fft.rfftn(other) * ~near, s=(32,) * 3)
    tight = spherical_mask(32, 5.0, 0.5)
    found = masked_fsc(common + 0.1 * apart, common - 0.1 * apart.flip(0), tight)
    assert found.randomised_from in (6, 7)
    assert found.unmasked[8:].abs().max() < 0.2
    assert found.masked[8] > 0.5
    assert found.corrected[9:].max() < 0.35
    assert torch.equal(found.corrected[:8], found.masked[:8])
    first, second, _ = halves(0.3)
    honest = masked_fsc(first, second, spherical_mask(32, 12.0, 4.0))
    assert float((honest.corrected - honest.masked).abs().max()) < 0.1
    np.testing.assert_array_equal(honest.unmasked, fourier_shell_correlation(first, second))


@pytest.mark.referee
@pytest.mark.skipif(shutil.which("relion_postprocess") is None, reason="RELION is not installed (make referee)")
def test_agrees_with_relion_postprocess(tmp_path: Path) -> None:
    """The unmasked and masked curves, shell by shell; random phases differ, so the corrected ones only nearly."""
    first, second, volume = halves(1.5, 48)
    mask = mask_from_map(volume)
    for name, data in (("half1_unfil.mrc", first), ("half2_unfil.mrc", second), ("mask.mrc", mask)):
        with mrcfile.new(tmp_path / name) as file:
            file.set_data(data.numpy())
            file.voxel_size = volume.pixel_size
    (tmp_path / "post").mkdir()  # for a PDF, without which it fails after all else is written
    command = ["relion_postprocess", "--i", "half1_unfil.mrc", "--mask", "mask.mrc", "--o", "post", "--angpix", "4"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    theirs = starfile.read(tmp_path / "post.star", always_dict=True)["fsc"]
    ours = masked_fsc(first, second, mask)

    def column(name: str) -> np.ndarray:
        return theirs[f"rln{name}"].to_numpy(float)

    np.testing.assert_allclose(ours.unmasked[1:], column("FourierShellCorrelationUnmaskedMaps")[1:], atol=0.02)
    np.testing.assert_allclose(ours.masked[1:], column("FourierShellCorrelationMaskedMaps")[1:], atol=0.02)
    np.testing.assert_allclose(ours.corrected[1:], column("FourierShellCorrelationCorrected")[1:], atol=0.1)
