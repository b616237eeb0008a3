"""escnn as referee: the same filters, outputs, gradients and statistics as its modules. Run with -m referee.

Its plane has y upwards where rows of images go down, its channels are in the order field * elements + element, and its
elements have an order of their own. ``ORDER`` and ``to_ours`` are all there is to it.
"""

import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from torch import Tensor

with warnings.catch_warnings():
    # It wants py3nj for SO(3), of which nothing is used here, and has backslashes that Python is going to refuse.
    warnings.filterwarnings("ignore", "`py3nj` package not found", UserWarning)
    warnings.filterwarnings("ignore", "invalid escape sequence")
    pytest.importorskip("escnn")
    from escnn import gspaces
    from escnn import nn as enn

from cryozoo.geometry.plane_groups import PlaneGroup
from cryozoo.models.steerable import InnerBatchNorm2d, SteerableConv2d, filter_basis

pytestmark = pytest.mark.referee

NAMES = ["C4", "D4", "C8", "D8"]


@cache
def space(name: str) -> Any:
    rotations = int(name[1:])
    return gspaces.rot2dOnR2(rotations) if name[0] == "C" else gspaces.flipRot2dOnR2(rotations)


@cache
def order(name: str) -> list[int]:
    """The place in escnn's list of each of our elements: that which moves (x, -y) as ours moves (x, y)."""
    upside_down = np.diag([1, -1])
    theirs = np.array([space(name).basespace_action(element) for element in space(name).fibergroup.elements])
    distance = [np.abs(theirs - upside_down @ m @ upside_down).max((1, 2)) for m in PlaneGroup(name).matrices.numpy()]
    places = [int(d.argmin()) for d in distance]
    assert np.max([d[place] for d, place in zip(distance, places, strict=True)]) < 1e-12
    assert sorted(places) == list(range(len(theirs)))
    return places


def to_ours(x: Tensor, name: str) -> Tensor:
    """(B, fields * elements, ...) of escnn -> (B, elements * fields, ...) of ours."""
    places = order(name)
    return x.unflatten(1, (-1, len(places)))[:, :, places].transpose(1, 2).flatten(1, 2)


def field_type(name: str, fields: int, *, scalar: bool = False) -> Any:
    representation = space(name).trivial_repr if scalar else space(name).regular_repr
    return enn.FieldType(space(name), fields * [representation])


@cache
def their_basis(name: str, size: int, lift: bool, **args: float) -> Tensor:
    """(n, u, v, k, k) as ours, for one field each."""
    in_type, out_type = field_type(name, 1, scalar=lift), field_type(name, 1)
    convolution = enn.R2Conv(in_type, out_type, size, bias=False, initialize=False, recompute=True, **args)
    filters = torch.stack([convolution.basisexpansion(one).detach() for one in torch.eye(len(convolution.weights))])
    filters = filters.unflatten(-1, (size, size)) if filters.ndim == 4 else filters
    filters = filters[:, order(name)]
    return (filters if lift else filters[:, :, order(name)]).double()


def angles(one: Tensor, other: Tensor) -> np.ndarray:
    """Principal angles between the spaces of filters, largest first."""
    return subspace_angles(one.flatten(1).double().T.numpy(), other.flatten(1).double().T.numpy())


@pytest.mark.parametrize("lift", [True, False])
@pytest.mark.parametrize(("name", "size"), [("C4", 3), ("C4", 5), ("C4", 7), ("D4", 3), ("D4", 5)])
def test_our_filters_contain_theirs(name: str, size: int, lift: bool) -> None:
    """For these groups escnn keeps the frequencies that the pixels of a ring can sample, and we keep every pixel."""
    ours, theirs = filter_basis(name, size, lift), their_basis(name, size, lift)
    assert len(theirs) < len(ours)
    assert angles(ours, theirs)[0] < 1e-6


@pytest.mark.parametrize("lift", [True, False])
@pytest.mark.parametrize("name", ["C4", "D4"])
def test_our_filters_are_theirs_with_all_frequencies(name: str, lift: bool) -> None:
    ours, theirs = filter_basis(name, 3, lift), their_basis(name, 3, lift, frequencies_cutoff=4.0)
    assert len(theirs) == len(ours) == 9 * (1 if lift else {"C4": 4, "D4": 8}[name])
    assert angles(ours, theirs)[0] < 1e-6


@pytest.mark.parametrize("lift", [True, False])
@pytest.mark.parametrize(("name", "size"), [("C8", 3), ("C8", 5), ("C8", 7), ("D8", 3), ("D8", 5), ("C6", 5)])
def test_our_filters_are_theirs_for_other_groups(name: str, size: int, lift: bool) -> None:
    ours, theirs = filter_basis(name, size, lift), their_basis(name, size, lift)
    assert len(theirs) == len(ours)
    assert angles(ours, theirs)[0] < 1e-6


def test_the_plane_of_escnn_has_y_upwards() -> None:
    """Control: with y downwards the elements pair differently and the filters are others."""
    group = PlaneGroup("C4")
    theirs = their_basis("C4", 3, False)
    mirrored = theirs[:, group.inverse][:, :, group.inverse]
    assert angles(filter_basis("C4", 3, False), mirrored)[0] > 0.5


@pytest.mark.parametrize("lift", [True, False])
@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("name", NAMES)
def test_convolutions_agree(name: str, size: int, lift: bool) -> None:
    """Outputs and gradients, with coefficients copied."""
    torch.manual_seed(0)
    in_fields, out_fields = 2, 3
    in_type, out_type = field_type(name, in_fields, scalar=lift), field_type(name, out_fields)
    # Else all its modules share one basis, of which double() would change the type.
    theirs = enn.R2Conv(in_type, out_type, size, padding=size // 2, bias=False, recompute=True).double()
    ours = SteerableConv2d(PlaneGroup(name), in_fields, out_fields, size, lift=lift).double()
    # Each function of theirs as a combination of ours.
    copy = torch.linalg.lstsq(ours.basis.double().T, their_basis(name, size, lift).flatten(1).T).solution
    weights = theirs.weights.detach().view(out_fields, in_fields, -1)
    with torch.no_grad():
        ours.weight.copy_(weights @ copy.T)

    x = torch.randn(2, in_type.size, 9, 10, dtype=torch.float64, requires_grad=True)
    x_ours = (x if lift else to_ours(x, name)).detach().requires_grad_()
    y = theirs(enn.GeometricTensor(x, in_type)).tensor
    y_ours = ours(x_ours)
    assert_equal(y_ours, to_ours(y, name))

    weighting = torch.randn_like(y)
    (y * weighting).sum().backward()
    (y_ours * to_ours(weighting, name)).sum().backward()
    assert x.grad is not None
    assert ours.weight.grad is not None
    assert_equal(x_ours.grad, x.grad if lift else to_ours(x.grad, name))
    assert_equal(ours.weight.grad @ copy, theirs.weights.grad.view_as(weights))


@pytest.mark.parametrize("name", NAMES)
def test_normalisations_agree(name: str) -> None:
    """Outputs, gradients and statistics in three steps of gradient descent, then in evaluation."""
    torch.manual_seed(0)
    in_type = field_type(name, 3)
    theirs = enn.InnerBatchNorm(in_type).double()
    (plain,) = theirs.children()
    ours = InnerBatchNorm2d(PlaneGroup(name), 3).double()
    for step in range(4):
        if step == 3:
            theirs.eval()
            ours.eval()
        scale, offset = torch.rand(2, in_type.size, 1, 1, dtype=torch.float64)
        x = (torch.randn(4, in_type.size, 5, 6, dtype=torch.float64) * scale + offset).requires_grad_()
        x_ours = to_ours(x, name).detach().requires_grad_()
        y, y_ours = theirs(enn.GeometricTensor(x, in_type)).tensor, ours(x_ours)
        assert_equal(y_ours, to_ours(y, name))
        for parameter in (*theirs.parameters(), *ours.parameters()):
            parameter.grad = None
        weighting = torch.randn_like(y)
        (y * weighting).sum().backward()
        (y_ours * to_ours(weighting, name)).sum().backward()
        assert x.grad is not None
        assert_equal(x_ours.grad, to_ours(x.grad, name))
        for mine, its in ((ours.weight, plain.weight), (ours.bias, plain.bias)):
            assert mine.grad is not None
            assert_equal(mine.grad, its.grad)
            mine.data -= 0.05 * mine.grad
            its.data -= 0.05 * its.grad
        assert_equal(ours.running_mean, plain.running_mean)
        assert_equal(ours.running_var, plain.running_var)


def assert_equal(found: Tensor | None, expected: Tensor) -> None:
    """To 1e-6 of the largest value; escnn samples its filters in float32."""
    assert found is not None
    assert found.shape == expected.shape
    assert float((found - expected).detach().abs().max()) < 1e-6 * float(expected.detach().abs().max())
