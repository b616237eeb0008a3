import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from cryozoo.geometry.constants import Constants, constant

CALLS: list[int] = []


@constant
def ramp(n: int) -> Tensor:
    """0 to n."""
    CALLS.append(n)
    return torch.arange(n, dtype=torch.float64)


@constant
def two(n: int) -> tuple[Tensor, ...]:
    return ramp(n), 2 * ramp(n)


@pytest.mark.parametrize("n", [3, 4])
def test_computed_once_whatever_surrounds_the_first_call(n: int) -> None:
    with torch.inference_mode(), torch.device("meta"):
        assert ramp(n).device.type == "meta"
        assert [x.device.type for x in two(n)] == ["meta", "meta"]
    for tensor in (ramp(n), *two(n)):
        assert tensor.device.type == "cpu"
        assert not tensor.is_inference()
    assert torch.equal(two(n)[1], torch.arange(0, 2 * n, 2).double())
    assert CALLS.count(n) == 1
    assert torch.equal(ramp(n=n), ramp(n))
    assert ramp.__doc__ == "0 to n."


def test_is_no_part_of_a_graph() -> None:
    scale = torch.ones((), requires_grad=True)

    @constant
    def scaled(n: int) -> Tensor:
        return scale * n

    assert not scaled(2).requires_grad


class Table(Constants):
    values: Tensor
    places: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.set_constants(values=torch.tensor([1 / 3]), places=torch.tensor([1001]))


def test_constants_follow_the_device_and_nothing_else() -> None:
    table = Table()
    module = nn.Sequential(table)
    module.bfloat16().double()
    assert table.weight.dtype == torch.float64
    assert torch.equal(table.values, torch.tensor([1 / 3]))
    module.to("meta")
    assert table.values.device.type == "meta"
    assert table.values.dtype == torch.float32
    assert table.places.dtype == torch.int64


def test_constants_are_no_state_and_are_copied() -> None:
    table = Table()
    assert list(table.state_dict()) == ["weight"]
    assert list(table.buffers()) == []
    other = copy.deepcopy(table)
    other.values.zero_()
    assert float(table.values) == pytest.approx(1 / 3)
    assert float(pickle.loads(pickle.dumps(table)).values) == pytest.approx(1 / 3)
