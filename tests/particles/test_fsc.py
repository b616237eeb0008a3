"""Fourier shell correlation against a plain loop over shells."""

import numpy as np
import pytest
import torch

from cryozoo.particles.fsc import fourier_shell_correlation, resolution_at


@pytest.mark.parametrize(("size", "dims"), [(12, 3), (13, 3), (16, 2)])
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
    assert resolution_at(torch.ones(5), 0.5, pixel_size=2.0) == pytest.approx(4.0)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="cubes"):
        fourier_shell_correlation(torch.zeros(4, 4, 5), torch.zeros(4, 4, 5))
