"""Every registered decoder: the transform of a real volume, in the conventions that the base states."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cryozoo.models.decoder import Decoder
from cryozoo.zoo.registry import get_part, list_parts

NAMES = list_parts("decoder")
SMALL: dict[str, dict[str, Any]] = {"fouriernet": {"width": 16}, "hartley_grid": {"spread": 1.0}}


def make(name: str, size: int) -> Decoder:
    torch.manual_seed(0)
    decoder: Decoder = get_part("decoder", name).load()(size, **SMALL[name])
    return decoder


def frequencies(size: int, count: int = 200) -> Tensor:
    k = torch.randn(count, 3, generator=torch.Generator().manual_seed(1))
    return k / k.norm(dim=1, keepdim=True) * torch.rand(count, 1) * (size / 2 - 0.5)


@pytest.mark.parametrize("size", [12, 13])
@pytest.mark.parametrize("name", NAMES)
def test_the_transform_of_what_is_real_is_its_own_conjugate_at_the_other_side(name: str, size: int) -> None:
    decoder, k = make(name, size), frequencies(size)
    k[:4] = torch.tensor([[0.0, 0, 0], [0, 0, 1], [0, 2, 1], [0, 0, -1.5]])  # where one half of space ends
    with torch.no_grad():
        here, there = decoder(k), decoder(-k)
    assert torch.equal(there, here.conj())
    assert here[0].imag == 0
    assert float(here[1:].imag.abs().min()) > 0


@pytest.mark.parametrize("size", [12, 13])
@pytest.mark.parametrize("name", NAMES)
def test_the_volume_has_the_transform(name: str, size: int) -> None:
    """By sums over voxels, one exponential each; beyond the Nyquist sphere there is nothing."""
    decoder = make(name, size)
    volume = decoder.volume().double().numpy()
    axis = np.arange(size) - size // 2
    inside = beyond = 0
    for k in [(0, 0, 0), (1, 0, 0), (0, -2, 1), (3, 1, -2), (-1, 4, 2), (5, 5, 0), (4, 4, 4)]:
        waves = [np.exp(-2j * np.pi * n * axis / size) for n in k]
        found = np.einsum("zyx,z,y,x->", volume, waves[2], waves[1], waves[0]) / size
        with torch.no_grad():
            expected = complex(decoder(torch.tensor([k], dtype=torch.float32))[0])
        if math.hypot(*k) < size / 2:
            inside += 1
            assert abs(found - expected) < 1e-4 * max(1.0, abs(expected))
        else:
            beyond += 1
            assert abs(found) < 1e-4
    assert inside == 5
    assert beyond == 2


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_differences(name: str) -> None:
    decoder = make(name, 8).double()
    k = frequencies(8, 6).double().requires_grad_()

    def values(k: Tensor, *parameters: Tensor) -> Tensor:
        named = dict(zip([n for n, _ in decoder.named_parameters()], parameters, strict=True))
        return torch.view_as_real(torch.func.functional_call(decoder, named, (k,)))

    assert torch.autograd.gradcheck(values, (k, *decoder.parameters()), fast_mode=True)


def test_a_fresh_fouriernet_varies_over_the_box() -> None:
    """The weights that SIREN begins with; with those of a plain layer its sines would all be in step."""
    decoder = get_part("decoder", "fouriernet").load()
    torch.manual_seed(0)
    values = decoder(32)(frequencies(32, 1000)).detach()
    assert 0.01 < float(values.abs().std() / values.abs().mean()) < 2
