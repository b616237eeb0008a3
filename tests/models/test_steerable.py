"""Steerable layers against naive loops over pixels and elements, brute-force algebra, and torch's own layers."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cryozoo.geometry.plane_groups import PlaneGroup, phi
from cryozoo.models.steerable import (
    EquivariantLinear,
    InnerBatchNorm2d,
    SteerableConv2d,
    SymmetricMaxPool2d,
    filter_basis,
    fold,
)
from cryozoo.models.steerable_cnn import SteerableConvNet, steerable_vgg_gem
from cryozoo.models.vgg import ConvNet, vgg_gem
from cryozoo.zoo.registry import get_part

GROUPS = ["C4", "D4"]


def matrices(name: str) -> list[np.ndarray]:
    """C4 and D4 written down: quarter turns, then the flip of y followed by each."""
    turns = [np.linalg.matrix_power(np.array([[0, -1], [1, 0]]), i) for i in range(4)]
    return turns if name == "C4" else turns + [turn @ np.diag([1, -1]) for turn in turns]


def index(name: str, matrix: np.ndarray) -> int:
    return next(i for i, other in enumerate(matrices(name)) if np.array_equal(matrix, other))


def move(x: Tensor, name: str, h: int, *, origin: float) -> Tensor:
    """(..., n, n) -> the same with content at p now at h p, p counted from the origin, the grid being periodic."""
    size = x.shape[-1]
    row, column = np.indices((size, size))
    source = np.einsum("ji,jyx->iyx", matrices(name)[h], np.stack([column, row]) - origin) + origin
    j, i = np.rint(source).astype(int) % size
    return x[..., i, j]


def permute(features: Tensor, name: str, h: int) -> Tensor:
    """(B, order * fields, ...) -> x'[g] = x[h^-1 g] for channels in the order element * fields + field."""
    group = matrices(name)
    by_element = features.unflatten(1, (len(group), -1))
    return torch.stack([by_element[:, index(name, group[h].T @ g)] for g in group], 1).flatten(1, 2)


def relative(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).detach().abs().max()) / float(expected.detach().abs().max())


def unsettle(net: nn.Module) -> nn.Module:
    """Scales, offsets and statistics as training leaves them, not ones and zeros."""
    for module in net.modules():
        if isinstance(module, InnerBatchNorm2d):
            for tensor, low in ((module.weight, 0.5), (module.bias, 0.0), (module.running_mean, -0.2)):
                nn.init.uniform_(tensor, low, low + 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return net


# The basis of the filters


def brute_force_filters(name: str, size: int, lift: bool) -> np.ndarray:
    """(dimension, u, v, k, k): an orthonormal basis of all W with W[hu, hv](hx) = W[u, v](x) for every h."""
    group, half = matrices(name), size // 2
    inputs = 1 if lift else len(group)
    unknown = np.arange(len(group) * inputs * size * size).reshape(len(group), inputs, size, size)
    gram = np.zeros((unknown.size, unknown.size))
    for h in (1, 4) if name == "D4" else (1,):  # generators
        action, moved = group[h], np.empty_like(unknown)
        for (u, v, row, column), _ in np.ndenumerate(unknown):
            x, y = action @ (column - half, row - half) + half
            hv = 0 if lift else index(name, action @ group[v])
            moved[u, v, row, column] = unknown[index(name, action @ group[u]), hv, y, x]
        identity = np.eye(unknown.size)
        constraint = identity[moved.ravel()] - identity
        gram += constraint.T @ constraint
    values, vectors = np.linalg.eigh(gram)
    return vectors[:, values < 1e-9].T.reshape(-1, *unknown.shape)


@pytest.mark.parametrize(
    ("name", "size", "lift", "dimension"),
    [
        ("C4", 3, True, 9), ("C4", 3, False, 36), ("C4", 5, True, 25), ("C4", 1, False, 4),
        ("D4", 3, True, 9), ("D4", 3, False, 72), ("D4", 5, True, 25), ("D4", 1, False, 8),
    ],
)  # fmt: skip
def test_the_basis_spans_all_equivariant_filters(name: str, size: int, lift: bool, dimension: int) -> None:
    basis = filter_basis(name, size, lift).double().numpy()
    expected = brute_force_filters(name, size, lift)
    assert len(basis) == len(expected) == dimension
    assert np.linalg.matrix_rank(basis.reshape(dimension, -1)) == dimension
    flat = expected.reshape(dimension, -1)
    projected = (basis.reshape(dimension, -1) @ flat.T @ flat).reshape(basis.shape)
    np.testing.assert_allclose(projected, basis, atol=1e-12)
    # and a filter that is not equivariant is outside
    other = np.random.default_rng(0).normal(size=basis[0].size)
    assert np.linalg.norm(flat @ other) < 0.8 * np.linalg.norm(other)


@pytest.mark.parametrize("lift", [True, False])
@pytest.mark.parametrize(("name", "size"), [("C8", 3), ("C8", 7), ("D8", 3), ("C3", 5)])
def test_other_groups_have_sampled_harmonics(name: str, size: int, lift: bool) -> None:
    """Linearly independent, and the elements that move pixels to pixels satisfy the constraint."""
    basis = filter_basis(name, size, lift)
    assert np.linalg.matrix_rank(basis.flatten(1).double().numpy(), tol=1e-3) == len(basis)
    functions = {3: 1 + 5, 5: 1 + 5 + 5, 7: 1 + 5 + 7 + 5}[size]
    group = PlaneGroup(name)
    assert len(basis) == functions * (1 if lift else len(group))
    for h, matrix in enumerate(group.matrices):
        if not torch.equal(matrix, matrix.round()):
            continue
        moved = torch.empty_like(basis)
        for row in range(size):
            for column in range(size):
                x, y = (matrix.numpy() @ (column - size // 2, row - size // 2)).astype(int) + size // 2
                moved[..., y, x] = basis[..., row, column]
        inverse = group.inverse[h]
        moved = moved[:, group.table[inverse]]
        moved = moved if lift else moved[:, :, group.table[inverse]]
        torch.testing.assert_close(moved, basis, atol=1e-6, rtol=0)


def test_even_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="kernel size 4, expected an odd one"):
        SteerableConv2d(PlaneGroup("C4"), 1, 1, 4)


# Layers


def naive_group_convolution(x: Tensor, layer: SteerableConv2d, name: str, lift: bool) -> Tensor:
    """y[u, o](p) = sum over v, i, q of psi[o, i, u^-1 v](u^-1 q) x[v, i](p + q), by loops, psi for the exact groups."""
    group, half = matrices(name), layer.kernel_size // 2
    outputs, inputs = layer.weight.shape[:2]
    elements = 1 if lift else len(group)
    psi = layer.weight.detach().view(outputs, inputs, elements, layer.kernel_size, layer.kernel_size)
    fields = x.unflatten(1, (elements, inputs))
    batch, height, width = len(x), *x.shape[-2:]
    y = torch.zeros(batch, len(group), outputs, height, width, dtype=x.dtype)
    offsets = range(-half, half + 1)
    for u, action in enumerate(group):
        for v in range(elements):
            w = 0 if lift else index(name, action.T @ group[v])
            for qx, qy in ((qx, qy) for qx in offsets for qy in offsets):
                sx, sy = action.T @ (qx, qy) + half
                for py in range(max(0, -qy), min(height, height - qy)):
                    for px in range(max(0, -qx), min(width, width - qx)):
                        y[:, u, :, py, px] += fields[:, v, :, py + qy, px + qx] @ psi[:, :, w, sy, sx].T
    return y.flatten(1, 2)


@pytest.mark.parametrize("lift", [True, False])
@pytest.mark.parametrize("name", GROUPS)
def test_convolution_is_the_group_convolution(name: str, lift: bool) -> None:
    torch.manual_seed(0)
    group = PlaneGroup(name)
    layer = SteerableConv2d(group, 2, 3, 3, lift=lift).double()
    x = torch.randn(2, 2 if lift else 2 * len(group), 4, 5, dtype=torch.float64)
    expected = naive_group_convolution(x, layer, name, lift)
    assert relative(layer(x), expected) < 1e-13
    assert relative(layer(x.to(memory_format=torch.channels_last)), expected) < 1e-13


Layer = Callable[[PlaneGroup], nn.Module]
LAYERS: dict[str, Layer] = {
    "convolution 3": lambda group: SteerableConv2d(group, 2, 3, 3),
    "convolution 5": lambda group: SteerableConv2d(group, 2, 3, 5),
    "convolution 3, no padding": lambda group: SteerableConv2d(group, 2, 3, 3, padding=0),
    "lifting 5": lambda group: SteerableConv2d(group, 2, 3, 5, lift=True),
    "normalisation": lambda group: InnerBatchNorm2d(group, 2),
    "halving": lambda group: SymmetricMaxPool2d(),
}


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", GROUPS)
def test_layers_commute_with_the_group(name: str, layer: str, size: int) -> None:
    torch.manual_seed(0)
    group = PlaneGroup(name)
    module = unsettle(LAYERS[layer](group)).double()
    lift = layer.startswith("lifting")
    x = torch.randn(3, 2 if lift else 2 * len(group), size, size, dtype=torch.float64)
    for training in (True, False):
        module.train(training)
        y = module(x)
        for h in range(len(group)):
            # A layer by itself knows no pixel L // 2, only the middle of its map.
            turned = move(x, name, h, origin=(size - 1) / 2)
            expected = permute(move(y, name, h, origin=(y.shape[-1] - 1) / 2), name, h)
            assert relative(module(turned if lift else permute(turned, name, h)), expected) < 1e-10


@pytest.mark.parametrize("name", GROUPS)
def test_a_plain_convolution_does_not(name: str) -> None:
    torch.manual_seed(0)
    channels = 2 * len(matrices(name))
    layer = nn.Conv2d(channels, channels, 3, padding=1, bias=False).double()
    x = torch.randn(3, channels, 9, 9, dtype=torch.float64)
    for h in range(1, len(matrices(name))):
        turned = permute(move(x, name, h, origin=4), name, h)
        assert relative(layer(turned), permute(move(layer(x), name, h, origin=4), name, h)) > 0.5


@pytest.mark.parametrize("layout", ["contiguous", "channels last", "sliced"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", GROUPS)
def test_normalisation_is_torchs_of_rearranged_fields(name: str, dtype: torch.dtype, layout: str) -> None:
    """Three steps of gradient descent, then evaluation, with the elements laid side by side for nn.BatchNorm2d."""
    torch.manual_seed(0)
    fields, elements = 3, len(matrices(name))
    ours = InnerBatchNorm2d(PlaneGroup(name), fields).to(dtype)
    theirs = nn.BatchNorm2d(fields).to(dtype)

    def rearranged(x: Tensor) -> Tensor:  # (B, u * F, H, W) -> (B, F, u * H, W)
        return x.unflatten(1, (elements, fields)).transpose(1, 2).flatten(2, 3)

    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    close = partial(torch.testing.assert_close, atol=tolerance, rtol=tolerance)
    for step in range(4):
        if step == 3:
            ours.eval()
            theirs.eval()
        # Elements and fields with means and spreads of their own, so that pooling them matters.
        x = torch.randn(5, elements * fields, 4, 6, dtype=dtype) * torch.rand(elements * fields, 1, 1, dtype=dtype)
        x += torch.randn(elements * fields, 1, 1, dtype=dtype)
        weights = torch.randn_like(x)
        if layout == "channels last":
            x = x.to(memory_format=torch.channels_last)
        elif layout == "sliced":
            x = torch.stack([x, x], -1)[..., 0]
        one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
        y, z = ours(one), theirs(rearranged(other))
        close(rearranged(y), z)
        if layout == "channels last":
            assert y.is_contiguous(memory_format=torch.channels_last)
        for parameter in (*ours.parameters(), *theirs.parameters()):
            parameter.grad = None
        (y * weights).sum().backward()
        (z * rearranged(weights)).sum().backward()
        close(one.grad, other.grad)
        for mine, its in ((ours.weight, theirs.weight), (ours.bias, theirs.bias)):
            assert mine.grad is not None
            assert its.grad is not None
            close(mine.grad, its.grad, atol=20 * tolerance)
            mine.data -= 0.05 * mine.grad
            its.data -= 0.05 * its.grad
        close(ours.running_mean, theirs.running_mean)
        close(ours.running_var, theirs.running_var)
    # Statistics per channel, which is what torch's layer has without the rearrangement, are others.
    assert relative(nn.BatchNorm2d(elements * fields).to(dtype)(x), ours.train()(x)) > 0.05


def test_gradients_of_the_normalisation_against_differences() -> None:
    torch.manual_seed(0)
    norm = InnerBatchNorm2d(PlaneGroup("C4"), 2).double()
    x = torch.randn(2, 8, 1, 2, dtype=torch.float64, requires_grad=True)
    weight, bias = torch.randn(2, 2, dtype=torch.float64).requires_grad_()

    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(call, (x, weight, bias))


def test_gradient_of_a_sum_through_the_normalisation() -> None:
    """The gradient of a sum is one number seen everywhere, a tensor without strides; normalised values sum to nothing
    that depends on x."""
    x = torch.randn(3, 8, 4, 4, dtype=torch.float64, requires_grad=True)
    norm = InnerBatchNorm2d(PlaneGroup("C4"), 2).double()
    norm(x).sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().max()) < 1e-12
    torch.testing.assert_close(norm.bias.grad, torch.full((2,), 4.0 * 3 * 16, dtype=torch.float64))


def test_statistics_of_a_whole_set() -> None:
    """After stochastic weight averaging: the mean over batches, as of a plain network with elements for columns."""
    torch.manual_seed(0)
    batches = [torch.randn(4, 16, 6, 6) * scale + scale for scale in (1.0, 2.0, 5.0)]
    norm, plain = InnerBatchNorm2d(PlaneGroup("D4"), 2), nn.BatchNorm2d(2)
    for net, inputs in (
        (norm, batches),
        (plain, [x.unflatten(1, (8, 2)).transpose(1, 2).flatten(2, 3) for x in batches]),
    ):
        torch.optim.swa_utils.update_bn(inputs, net)
    torch.testing.assert_close(norm.running_mean, plain.running_mean)
    torch.testing.assert_close(norm.running_var, plain.running_var)
    assert int(norm.num_batches_tracked) == 3
    assert norm.momentum == 0.1


def test_normalisation_in_bfloat16_is_near_that_in_float32() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 16, 8, 8) + torch.randn(16, 1, 1)
    results = []
    for half in (False, True):
        norm = InnerBatchNorm2d(PlaneGroup("D4"), 2)
        given = (x.bfloat16() if half else x).to(memory_format=torch.channels_last).detach().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            y = norm(given)
        assert y.dtype == given.dtype
        (y.float() * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
        assert norm.weight.grad is not None
        assert norm.weight.grad.dtype == norm.running_var.dtype == torch.float32
        results.append([y, given.grad, norm.weight.grad, norm.running_mean, norm.running_var])
    for single, half in zip(*results, strict=True):
        assert relative(half.float(), single) < 0.01


@pytest.mark.parametrize("size", [7, 8])
def test_halving_against_a_loop(size: int) -> None:
    x = torch.randn(2, 3, size, size)
    half = (size + 1) // 2
    y = SymmetricMaxPool2d()(x)
    assert y.shape == (2, 3, half, half)
    for i in range(half):
        for j in range(half):
            (top, bottom), (left, right) = (
                (max(0, 2 * k - 1), 2 * k + 2) if size % 2 else (2 * k, 2 * k + 2) for k in (i, j)
            )
            assert torch.equal(y[:, :, i, j], x[:, :, top:bottom, left:right].amax((2, 3)))


def regular(name: str) -> Tensor:
    """(order, order, order): the permutation matrices rho(h) e_g = e_hg."""
    group = matrices(name)
    rho = torch.zeros(len(group), len(group), len(group), dtype=torch.float64)
    for h, action in enumerate(group):
        for g, element in enumerate(group):
            rho[h, index(name, action @ element), g] = 1
    return rho


def test_permute_is_the_regular_representation() -> None:
    x = torch.randn(3, 8, dtype=torch.float64)
    for h in range(8):
        torch.testing.assert_close(permute(x, "D4", h), x @ regular("D4")[h].T, atol=0, rtol=0)


def blocks(name: str) -> dict[str, tuple[int, Tensor]]:
    plane = torch.from_numpy(np.array(matrices(name), dtype=float))
    return {
        "trivial": (2, torch.ones(len(plane), 1, 1, dtype=torch.float64)),
        "determinant": (1, torch.linalg.det(plane)[:, None, None]),
        "plane": (1, plane),
        "phi": (3, phi(plane)),
        "phi x phi": (1, torch.stack([torch.kron(m, m) for m in phi(plane)])),
        "regular": (2, regular(name)),
    }


@pytest.mark.parametrize("block", blocks("D4"))
@pytest.mark.parametrize("name", GROUPS)
def test_linear_maps_are_all_that_commute(name: str, block: str) -> None:
    """As many weights as the linear system W rho_in(h) = rho_out(h) W has solutions, and each is one."""
    torch.manual_seed(0)
    fields, (copies, rho) = 2, blocks(name)[block]
    layer = EquivariantLinear(PlaneGroup(name), fields, [(copies, rho)]).double()
    order, size = len(rho), rho.shape[-1]
    rho_in = torch.stack([torch.kron(r, torch.eye(fields)) for r in regular(name)])
    rho_out = torch.stack([torch.block_diag(*[r] * copies) for r in rho])
    system = torch.cat(
        [
            torch.kron(torch.eye(copies * size), a.T.contiguous()) - torch.kron(b, torch.eye(order * fields))
            for a, b in zip(rho_in, rho_out, strict=True)
        ]
    )
    solutions = int((torch.linalg.eigvalsh(system.T @ system) < 1e-9).sum())
    assert sum(p.numel() for p in layer.parameters()) == solutions
    assert float((system @ layer.matrix().detach().flatten()).abs().max()) < 1e-12
    # No two choices of the weights are the same map.
    weight = layer.weights[0]
    maps = []
    for i in range(solutions):
        weight.data = torch.eye(solutions, dtype=weight.dtype)[i].view_as(weight)
        maps.append(layer.matrix().detach().flatten())
    assert int(torch.linalg.matrix_rank(torch.stack(maps))) == solutions


@pytest.mark.parametrize("name", GROUPS)
def test_linear_blocks_transform_one_after_another(name: str) -> None:
    torch.manual_seed(0)
    given = blocks(name)
    layer = EquivariantLinear(PlaneGroup(name), 3, list(given.values())).double()
    x = torch.randn(4, 3 * len(matrices(name)), dtype=torch.float64)
    y = layer(x)
    for h in range(len(matrices(name))):
        rho = torch.block_diag(*(matrices[h] for copies, matrices in given.values() for _ in range(copies)))
        assert relative(layer(permute(x, name, h)), y @ rho.T) < 1e-12
    plain = layer.folded()
    torch.testing.assert_close(plain(x), y, atol=0, rtol=0)
    assert relative(permute(x, name, 1) @ torch.randn_like(plain.weight).T, y @ rho.T) > 0.1


def test_representations_of_another_group_are_refused() -> None:
    with pytest.raises(ValueError, match="8 matrices for the 4 elements of C4"):
        EquivariantLinear(PlaneGroup("C4"), 2, [(1, PlaneGroup("D4").phi)])


# Networks

NETS: dict[str, dict[str, Any]] = {
    "gem": {"pool": "gem"},
    "max, low-pass": {"pool": "max", "stem": "lowpass"},
    "conv, connected": {"pool": "conv", "connected": (4,)},
}


def small(name: str, size: int, in_chans: int = 1, **args: Any) -> nn.Module:
    torch.manual_seed(0)
    given: dict[str, Any] = {"group": name, "fields": (1, 2, 2), "depths": (1, 2, 1), "kernels": (5, 3, 3), **args}
    return unsettle(SteerableConvNet(size, in_chans, **given))


@pytest.mark.parametrize(
    ("args", "size"), [("gem", 64), ("gem", 65), ("gem", 54), *((args, size) for args in NETS for size in (24, 25))]
)
@pytest.mark.parametrize("name", GROUPS)
def test_features_commute_with_the_group(name: str, args: str, size: int) -> None:
    net = small(name, size, 2, **NETS[args])
    images = torch.randn(4, 2, size, size, dtype=torch.float64)
    elements = range(len(matrices(name)))
    # One batch, whose statistics are those of the images alone, as batch normalisation pools them over the group.
    turned = torch.cat([move(images, name, h, origin=size // 2) for h in elements])
    with torch.no_grad():
        for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
            for training in (True, False):
                net.train(training).to(dtype)
                features = net(images.to(dtype))
                assert features.shape == (4, net.num_features)
                expected = torch.cat([permute(features, name, h) for h in elements])
                assert relative(net(turned.to(dtype)), expected) < tolerance


@pytest.mark.parametrize("size", [36, 37])
def test_even_images_turn_about_pixel_l_half(size: int) -> None:
    """Which rot90 does not keep in its place unless it is rolled by one pixel."""
    net = small("D4", size).eval().double()
    images = torch.randn(3, 1, size, size, dtype=torch.float64)
    turned = images.rot90(-1, (-2, -1))  # x right, y down: from x to y is clockwise on the screen
    rolled = turned.roll(1, -1) if size % 2 == 0 else turned
    assert torch.equal(rolled, move(images, "D4", 1, origin=size // 2))
    with torch.no_grad():
        expected = permute(net(images), "D4", 1)
        assert relative(net(rolled), expected) < 1e-10
        assert size % 2 or relative(net(turned), expected) > 1e-3


def test_a_plain_network_is_off_by_orders_of_magnitude() -> None:
    torch.manual_seed(0)
    net = vgg_gem(36, channels=(8, 16, 32), depths=(1, 1, 1), kernels=(5, 3, 3)).eval().double()
    images = torch.randn(3, 1, 36, 36, dtype=torch.float64)
    with torch.no_grad():
        features = net(images)
        for h in range(1, 8):
            found = net(move(images, "D4", h, origin=18))
            assert min(relative(found, permute(features, "D4", h)), relative(found, features)) > 1e-3


@pytest.mark.parametrize("args", NETS)
@pytest.mark.parametrize("name", [*GROUPS, "C8", "D8"])
def test_folding_changes_nothing(name: str, args: str) -> None:
    net = small(name, 36, **NETS[args]).eval()
    images = torch.randn(3, 1, 36, 36)
    plain = fold(net)
    assert not any(isinstance(m, SteerableConv2d | InnerBatchNorm2d | EquivariantLinear) for m in plain.modules())
    assert not any(module.training for module in plain.modules())
    with torch.no_grad():
        assert relative(plain(images), net(images)) < 2e-6
        layer = next(module for module in net.modules() if isinstance(module, SteerableConv2d))
        assert isinstance(fold(layer), nn.Conv2d)
        assert relative(fold(net.double())(images.double()), net(images.double())) < 1e-12
        # What was folded is a copy: the network itself is as before, and trains.
        assert sum(isinstance(m, SteerableConv2d) for m in net.modules()) >= 4


@pytest.mark.parametrize("name", [*GROUPS, "C8"])
def test_copies_are_independent_and_equal(name: str) -> None:
    net = small(name, 35).train()
    images = torch.randn(3, 1, 35, 35)
    net(images).square().sum().backward()
    with torch.no_grad():
        for training in (True, False):
            other = copy.deepcopy(net.train(training))
            torch.testing.assert_close(other(images), net(images), atol=0, rtol=0)
        before = net(images)
        for parameter in other.parameters():
            parameter.zero_()
        torch.testing.assert_close(net(images), before, atol=0, rtol=0)


def test_checkpoints_hold_the_same_in_training_and_evaluation() -> None:
    net = small("D4", 35)
    keys = {key: value.shape for key, value in net.train().state_dict().items()}
    net(torch.randn(2, 1, 35, 35))
    assert {key: value.shape for key, value in net.eval().state_dict().items()} == keys
    # Coefficients, four numbers per field of each normalisation and its counter, an exponent: no basis, no filter.
    coefficients, fields = 25 + 1 * 2 * 72 + 2 * 2 * 72 + 2 * 2 * 72, 1 + 2 + 2 + 2
    assert sum(shape.numel() for shape in keys.values()) == coefficients + (4 * fields + 4) + 1
    other = small("D4", 35)
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    other.load_state_dict(net.state_dict(), strict=True)
    images = torch.randn(2, 1, 35, 35)
    torch.testing.assert_close(other.eval()(images), net(images), atol=0, rtol=0)


def test_weights_of_another_group_are_refused() -> None:
    with pytest.raises(RuntimeError) as caught:
        small("D4", 35).load_state_dict(small("C4", 35).state_dict(), strict=True)
    assert "torch.Size([2, 1, 36])" in str(caught.value)
    assert "torch.Size([2, 1, 72])" in str(caught.value)


# Groups that the grid has only approximately


def turned_blobs(angle: float) -> Tensor:
    """(16, 1, 65, 65): sums of Gaussian blobs, as smooth as a grid can tell, turned by the angle without any
    interpolation."""
    generator = torch.Generator().manual_seed(0)

    def rand() -> Tensor:
        return torch.rand(16, 8, 1, 1, generator=generator, dtype=torch.float64)

    radius, polar, height = 20 * rand().sqrt(), 2 * torch.pi * rand() + angle, 2 * rand() - 1
    axis = torch.arange(65, dtype=torch.float64) - 32
    square = (axis - radius * polar.cos()) ** 2 + (axis[:, None] - radius * polar.sin()) ** 2
    return (height * torch.exp(-square / 2 / 3**2)).sum(1, keepdim=True)


def angle_error(name: str, angle: float) -> float:
    """Change of the features averaged over the group under a turn, relative to their spread over images."""
    torch.manual_seed(0)
    args: dict[str, Any] = {"depths": (1, 1), "kernels": (5, 5), "pool": "avg"}
    net: nn.Module
    if name == "plain":
        net = ConvNet(65, channels=(32, 64), activation="relu", **args)
    else:
        order = len(PlaneGroup(name))
        net = SteerableConvNet(65, group=name, fields=(32 // order, 64 // order), **args)
    elements = 1 if name == "plain" else len(PlaneGroup(name))
    with torch.no_grad():
        still, turned = (net.double()(turned_blobs(a)).view(16, elements, -1).mean(1) for a in (0, angle))
    return float((turned - still).norm() / (still - still.mean(0)).norm())


@pytest.mark.parametrize("name", ["c8_cnn", "d8_cnn"])
def test_what_deep_networks_lose_of_eighths_of_a_turn(name: str) -> None:
    """Before training features of such views are as far apart as any; the registry and models/README.md say so."""
    net = get_part("backbone", name).load()(65, width=0.25)
    order = len(PlaneGroup(net.group))
    with torch.no_grad():
        net.train()(turned_blobs(0.0).float())
        still, *turned = (
            net.eval().double()(turned_blobs(angle)).unflatten(1, (order, -1))
            for angle in (0, torch.pi / 4, torch.pi / 2)
        )
        size = (still - still.mean((0, 1))).norm()
        eighth, quarter = (
            min(float((found - still[:, row]).norm() / size) for row in PlaneGroup(net.group).table) for found in turned
        )
    assert quarter < 1e-10
    assert eighth > 0.3


@pytest.mark.parametrize("name", ["C8", "D8"])
def test_eighths_of_a_turn_are_nearly_kept_by_two_layers(name: str) -> None:
    eighth, quarter = angle_error(name, torch.pi / 4), angle_error(name, torch.pi / 2)
    assert quarter < 1e-10
    assert 1e-4 < eighth < 0.04  # not exact
    # A quarter of the error of the group without them, a tenth of that of a plain network.
    assert eighth < angle_error(name[0] + "4", torch.pi / 4) / 2.5
    assert eighth < angle_error("plain", torch.pi / 4) / 8


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"pool": "avgmax"}, "gem, avg, max or conv"),
        ({"kernels": (255, 3, 3, 3, 3, 3)}, "choose smaller kernels"),
        ({"group": "D64"}, "choose smaller kernels"),
        ({"fields": (0, 4, 8, 8, 8, 8)}, "expected positive"),
        ({"fields": ()}, "differ in length"),
        ({"width": float("inf")}, "expected a positive factor"),
    ],
)
def test_what_cannot_be_built_is_refused_first(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        steerable_vgg_gem(32, **{"group": "D4", **args})


@pytest.mark.parametrize(
    ("saved", "own"),
    [({}, {"group": "D2"}), ({"pool": "avg"}, {"pool": "max"}), ({"stem": "lowpass"}, {"stem": "gaussian"})],
)
def test_states_of_another_group_are_refused_although_they_fit(saved: dict[str, Any], own: dict[str, Any]) -> None:
    args: dict[str, Any] = {"group": "C4", "fields": [1] * 6}
    state = steerable_vgg_gem(32, **{**args, **saved}).state_dict()
    steerable_vgg_gem(32, **{**args, **saved}).load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"weights of SteerableConvNet \(group C4"):
        steerable_vgg_gem(32, **{**args, **own}).load_state_dict(state)


def test_gradients_of_gradients_are_refused_where_they_would_be_wrong() -> None:
    first = SteerableConv2d(PlaneGroup("C4"), 1, 2, 3, lift=True)
    layer = nn.Sequential(first, InnerBatchNorm2d(PlaneGroup("C4"), 2))
    images = torch.randn(3, 1, 9, 9, requires_grad=True)
    with pytest.raises(RuntimeError, match="evaluation mode"):
        torch.autograd.grad(layer(images).square().sum(), images, create_graph=True)
    (slope,) = torch.autograd.grad(layer.eval()(images).square().sum(), images, create_graph=True)
    slope.square().sum().backward()
    assert first.weight.grad is not None
    assert first.weight.grad.abs().sum() > 0
