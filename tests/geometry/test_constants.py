import pytest
import torch
from torch import Tensor

from cryozoo.geometry._constants import constant

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
