"""Every registered backbone, its pooling and its stems."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cryozoo.models.pooling import GeM, GlobalPool
from cryozoo.models.stems import GaussianStem, LowPassStem
from cryozoo.models.vgg import siamese_cnn, vgg_gem
from cryozoo.testing import check_backbone
from cryozoo.zoo.registry import get_part, list_parts


@pytest.mark.parametrize("name", list_parts("backbone"))
@pytest.mark.parametrize("size", [72, 73])
def test_what_every_backbone_promises(name: str, size: int) -> None:
    args: dict[str, Any] = {} if name.startswith("test_") else {"width": 0.1}
    check_backbone(get_part("backbone", name).load(), image_size=size, **args)


def test_vgg_gem_is_table_s1() -> None:
    """Convolutions and parameters of Chung 2023, Table S1, counted by hand."""
    net = vgg_gem(128)
    convolutions = [
        (m.in_channels, m.out_channels, m.kernel_size[0]) for m in net.modules() if isinstance(m, nn.Conv2d)
    ]
    assert convolutions == [
        (6, 32, 7), (32, 64, 5), (64, 128, 3), (128, 128, 3), (128, 256, 3), (256, 256, 3),
        (256, 512, 3), (512, 512, 3), (512, 1024, 3), (1024, 1024, 3),
    ]  # fmt: skip
    weights = sum(i * o * k * k for i, o, k in convolutions)
    channels = sum(o for _, o, _ in convolutions)
    # Two numbers of batch normalisation and one PReLU slope per channel, one GeM exponent.
    assert sum(p.numel() for p in net.parameters()) == weights + 3 * channels + 1
    assert sum(isinstance(m, nn.MaxPool2d) for m in net.modules()) == 6
    assert sum(isinstance(m, nn.Dropout) for m in net.modules()) == 10
    assert net.pool.gem is not None
    assert net.pool.gem.p.item() == pytest.approx(6)


def test_siamese_cnn_is_banjacs() -> None:
    net = siamese_cnn(116)
    convolutions = [(m.out_channels, m.kernel_size[0]) for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert convolutions == [(32, 7), (64, 5), (128, 3), (256, 3), (256, 3), (512, 3), (512, 3)]
    assert net.num_features == 512


@pytest.mark.parametrize("per_channel", [False, True])
def test_gem_against_a_loop(per_channel: bool) -> None:
    torch.manual_seed(0)
    gem = GeM(3.5, 4 if per_channel else None).double()
    if per_channel:
        with torch.no_grad():
            gem.raw_p.add_(torch.arange(4))
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    exponents = gem.p.detach().expand(4).tolist()
    for b in range(2):
        for c in range(4):
            values = x[b, c].flatten().tolist()
            low = min(values)
            mean = sum((v - low + 1) ** exponents[c] for v in values) / len(values)
            assert gem(x)[b, c].item() == pytest.approx(mean ** (1 / exponents[c]) + low - 1, rel=1e-9)


def test_gem_lies_between_average_and_maximum_and_survives_large_exponents() -> None:
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    average, maximum = GlobalPool("avg", 3)(x), GlobalPool("max", 3)(x)
    torch.testing.assert_close(GeM(1 + 1e-6)(x), average, atol=1e-4, rtol=0)
    torch.testing.assert_close(GeM(2000.0)(x * 100), maximum * 100, atol=1.0, rtol=0)
    assert GeM(2000.0).p.item() == pytest.approx(2000)
    gem = GeM(6.0)(x)
    assert bool(((gem > average) & (gem < maximum)).all())


def test_avgmax_has_both() -> None:
    x = torch.randn(2, 3, 4, 4)
    pool = GlobalPool("avgmax", 3)
    assert pool.num_features == 6
    torch.testing.assert_close(pool(x), torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))


def test_lowpass_widths_are_the_papers() -> None:
    stem = LowPassStem(128)
    # A square of half-width u has 2 u + 1 rows, all 128 of them from u = 64 on.
    widths = [(int(m[:, 0].sum()) - 1) // 2 for m in stem.mask]
    assert widths == [63, 57, 47, 33, 10]


def test_lowpass_is_a_brick_wall() -> None:
    stem = LowPassStem(32)
    x = torch.arange(32.0)
    for k in range(1, 16):
        wave = torch.cos(2 * math.pi * k * x / 32).expand(1, 1, 32, 32)
        out = stem(wave)[0]
        widths = [(int(m[:, 0].sum()) - 1) // 2 for m in stem.mask]
        for channel, width in zip(out[:-1], widths, strict=True):
            torch.testing.assert_close(channel, wave[0, 0] if k <= width else torch.zeros(32, 32), atol=1e-5, rtol=0)
        torch.testing.assert_close(out[-1], wave[0, 0])


def test_gaussian_stem_against_scipy() -> None:
    from scipy.ndimage import convolve1d

    image = np.random.default_rng(0).normal(size=(20, 21)).astype(np.float32)
    out = GaussianStem(20)(torch.from_numpy(image)[None, None])[0].numpy()
    np.testing.assert_allclose(out[0], image)
    for channel, sigma in zip(out[1:], np.geomspace(0.1, 10, 5), strict=True):
        kernel = np.exp(-0.5 * (np.arange(-5, 6) / sigma) ** 2)
        kernel /= kernel.sum()
        expected = convolve1d(convolve1d(image, kernel, axis=0, mode="constant"), kernel, axis=1, mode="constant")
        np.testing.assert_allclose(channel, expected, atol=1e-5)


def test_unknown_choices_are_named() -> None:
    with pytest.raises(ValueError, match="unknown stem 'high'"):
        vgg_gem(32, stem="high")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown pooling 'sum'"):
        vgg_gem(32, width=0.1, pool="sum")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="24 pixels"):
        LowPassStem(16)
