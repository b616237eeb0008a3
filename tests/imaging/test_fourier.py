"""Transforms about the centre against the sum that defines them, and the kernel against what interpolation does."""

import numpy as np
import pytest
import torch

from cryozoo.imaging.fourier import (
    centred_fft,
    centred_ifft,
    crop_or_zero_pad,
    rfft_shells,
    shell_number,
    without_interpolation,
)


@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize("dims", [2, 3])
def test_transform_is_the_sum_about_the_centre(size, dims):
    values = torch.randn((2, *(size,) * dims), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = np.indices((size,) * dims).reshape(dims, -1) - size // 2
    phases = np.exp(-2j * np.pi * (x.T @ x) / size)
    found = centred_fft(values, dims)
    np.testing.assert_allclose(found.flatten(1).numpy(), values.flatten(1).numpy() @ phases, rtol=0, atol=1e-11)
    torch.testing.assert_close(centred_ifft(found, dims), values, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("old", "new"), [(6, 4), (6, 5), (7, 4), (7, 5), (4, 7), (5, 8), (5, 5)])
def test_the_middle_stays_the_middle(old, new):
    values = torch.rand((2, *(old,) * 3), generator=torch.Generator().manual_seed(0)) + 1
    out = crop_or_zero_pad(values, new)
    assert out.shape == (2, new, new, new)
    for place in np.ndindex(new, new, new):
        source = tuple(p - new // 2 + old // 2 for p in place)
        expected = values[(0, *source)] if all(0 <= p < old for p in source) else 0
        assert out[(0, *place)] == expected


@pytest.mark.parametrize("size", [8, 9])
def test_what_interpolation_takes_is_given_back(size):
    """Linear interpolation is a convolution with a triangle, whose transform is sinc^2."""
    offset = np.arange(size) - size // 2
    taper = np.sinc(offset / (2 * size)) ** 2
    data = torch.ones(size, size, size, dtype=torch.float64)
    expected = 1 / np.einsum("i,j,k->ijk", taper, taper, taper)
    np.testing.assert_allclose(without_interpolation(data, 2 * size).numpy(), expected, rtol=1e-12)
    assert without_interpolation(data.float(), 2 * size).dtype == torch.float32


@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize("dims", [2, 3])
def test_shells(size, dims):
    axes = [np.fft.fftfreq(size, 1 / size)] * (dims - 1) + [np.fft.rfftfreq(size, 1 / size)]
    squared = sum(k**2 for k in np.meshgrid(*axes, indexing="ij"))
    np.testing.assert_array_equal(rfft_shells(size, dims).numpy(), np.rint(np.sqrt(squared)))
    np.testing.assert_array_equal(shell_number(torch.arange(100), 2).numpy(), np.rint(np.sqrt(np.arange(100)) / 2))
