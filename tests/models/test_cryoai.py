"""cryoAI's encoder against its description, layer by layer."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cryozoo.models.cryoai import CryoAICNN

CHANNELS, DEPTHS, CONNECTED = (64, 128, 256, 256, 256), (2, 2, 3, 2, 2), (512, 256)


def test_layers_and_parameters_are_the_papers() -> None:
    """Levy et al. 2022 and their published code, at 128 pixels, counted by hand."""
    net = CryoAICNN(128)
    kinds = [type(m) for m in net.blocks if not isinstance(m, nn.BatchNorm2d | nn.ReLU)]
    pools = [nn.MaxPool2d] * 3 + [nn.AvgPool2d] * 2
    expected = [kind for depth, pool in zip(DEPTHS, pools, strict=True) for kind in [nn.Conv2d] * depth + [pool]]
    assert kinds == [*expected, nn.MaxPool2d]  # six halvings: 128, 64, 32, 16, 8, 4, 2

    widths = [6] + [c for c, depth in zip(CHANNELS, DEPTHS, strict=True) for _ in range(depth)]
    pairs = list(pairwise(widths))
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels) for m in convolutions] == pairs
    count = sum(9 * i * o + 2 * o for i, o in pairs)
    features = 256 * 2 * 2
    count += (features + 1) * 512 + 2 * 512 + (512 + 1) * 256
    assert sum(p.numel() for p in net.parameters()) == count
    assert net.num_features == 256


def test_output_against_the_layers_by_hand() -> None:
    """At 128 pixels nothing is padded: the layers of the paper, none of which rounds up."""
    torch.manual_seed(0)
    net = CryoAICNN(128, width=0.125)
    net.train()(torch.randn(4, 1, 128, 128))  # moves the statistics of batch norm
    images = torch.randn(3, 1, 128, 128)
    state = iter([t for name, t in net.eval().state_dict().items() if not name.endswith("num_batches_tracked")])

    def norm(x: torch.Tensor) -> torch.Tensor:
        weight, bias, mean, variance = (next(state).view(-1, *[1] * (x.ndim - 2)) for _ in range(4))
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias

    x = net.stem(images)
    for block, depth in enumerate(DEPTHS):
        for _ in range(depth):
            x = norm(F.conv2d(x, next(state), padding=1)).clamp_min(0)
        windows = x.unfold(2, 2, 2).unfold(3, 2, 2)
        x = windows.amax((4, 5)) if block < 3 else windows.mean((4, 5))
    x = x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5)).reshape(3, -1)
    x = (x @ next(state).T + next(state)).clamp_min(0)
    x = norm(x[..., None])[..., 0]
    x = (x @ next(state).T + next(state)).clamp_min(0)
    assert next(state, None) is None
    assert float(x.max()) > 0.01
    torch.testing.assert_close(net(images), x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [8, 63, 64, 65, 96, 129])
def test_any_size(size: int) -> None:
    net = CryoAICNN(size, width=0.0625).eval()
    assert net(torch.randn(2, 1, size, size)).shape == (2, net.num_features)


def test_features_are_made_for_one_size() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        CryoAICNN(64, width=0.0625).eval()(torch.randn(2, 1, 128, 128))


def test_width_and_depth_are_free() -> None:
    full, half = (sum(p.numel() for p in CryoAICNN(128, width=w).parameters()) for w in (1.0, 0.5))
    assert 3.9 < full / half < 4.0  # nearly all weights lie between two widths
    large = CryoAICNN(256, width=0.0625, channels=(64, 128, 256, 256, 1024, 2048), depths=(2, 2, 3, 2, 2, 2)).eval()
    assert isinstance(large.blocks[-2], nn.AvgPool2d)
    assert large.connected[0].in_features == 2048 // 16 * 2 * 2
    assert large(torch.randn(1, 1, 256, 256)).shape == (1, 16)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        CryoAICNN(64, depths=(2, 2))
    with pytest.raises(ValueError, match="unknown stem 'high'"):
        CryoAICNN(64, stem="high")  # type: ignore[arg-type]
