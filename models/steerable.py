"""Layers that know that turning or flipping the image turns their output: group convolutions over C_n and D_n.

A feature map has fields of the regular representation: one channel per field and group element, in the order
``element * fields + field``. When the image is moved by h, the map becomes x'[g](p) = x[h^-1 g](h^-1 p). The linear
maps that commute with this are convolutions with W[u, v](p) = psi[u^-1 v](u^-1 p) (Cohen and Welling 2016,
arXiv:1602.07576; Weiler and Cesa 2019, arXiv:1911.08251), so a filter is a fixed basis times free coefficients, one
matrix product.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..geometry.constants import Constants, constant
from ..geometry.once import refuse_second_derivatives
from ..geometry.plane_groups import PlaneGroup

_LARGEST_BASIS = 2**26
"""Numbers, in 256 MB: what a stranger's file asks for is made before its weights are looked at."""


@constant
def filter_basis(group: str, kernel_size: int, lift: bool) -> Tensor:
    """The filters between two regular fields, or from a scalar field to a regular one (``lift``), float32.

    (n, u, v, k, k): n functions psi, and for each the filter from channel v to channel u (one v when lifting). Groups
    that map the pixels to themselves (C4, D4) have one psi per pixel and element. The others have circular harmonics on
    rings one pixel apart, few enough to be sampled without much aliasing.
    """
    plane_group = PlaneGroup(group)
    inverse = plane_group.matrices[plane_group.inverse]
    half = kernel_size // 2
    axis = torch.arange(-half, half + 1, dtype=torch.float64)
    x, y = torch.meshgrid(axis, axis, indexing="xy")
    # (u, k, k, 2): u^-1 p for every pixel p
    moved = torch.einsum("uij,yxj->uyxi", inverse, torch.stack([x, y], -1))
    profiles = _pixels(moved, half) if plane_group.exact else _harmonics(moved, half)
    if lift:
        return profiles[:, :, None].float()
    # psi of element w contributes to channels (u, v) with u^-1 v = w
    relative = plane_group.table[plane_group.inverse]
    chosen = (relative == torch.arange(len(plane_group))[:, None, None]).double()
    return torch.einsum("wuv,nuyx->wnuvyx", chosen, profiles).flatten(0, 1).float()


def _pixels(points: Tensor, half: int) -> Tensor:
    """(u, k, k, 2) -> (n, u, k, k): one function per pixel, 1 there and 0 elsewhere."""
    size = 2 * half + 1
    column, row = (points.round().long() + half).unbind(-1)
    return F.one_hot(row * size + column, size * size).permute(3, 0, 1, 2).double()


def _harmonics(points: Tensor, half: int) -> Tensor:
    """(u, k, k, 2) -> (n, u, k, k): Gaussian rings times cosines and sines of multiples of the angle.

    Radii, widths and highest frequencies are escnn's defaults: what the pixels of a ring can sample.
    """
    radius, angle = points.norm(dim=-1), torch.atan2(points[..., 1], points[..., 0])
    functions = [(radius == 0).double()]
    for ring in range(1, half + 1):
        width, highest = (0.4, 2) if ring == half else (0.6, 2 * ring - 1 + ring % 2)
        profile = torch.exp(-(((radius - ring) / width) ** 2) / 2)
        functions.append(profile)
        # A harmonic has no value at the centre, where the angle is not defined.
        profile = torch.where(radius == 0, 0, profile)
        for frequency in range(1, highest + 1):
            functions += [profile * torch.cos(frequency * angle), profile * torch.sin(frequency * angle)]
    stacked = torch.stack(functions)
    return stacked / stacked[:, :1].flatten(1).norm(dim=1)[:, None, None, None]


class SteerableConv2d(Constants):
    """Convolution between fields of the regular representation, without bias; equivariant about the map's centre.

    Args:
        group: of rotations and flips.
        in_fields: fields of the input; with ``lift``, its channels.
        out_fields: fields of the output.
        kernel_size: odd.
        lift: the input channels are scalars, such as images.
        padding: zeros around the map; by default what keeps its size.
    """

    basis: Tensor

    def __init__(
        self,
        group: PlaneGroup,
        in_fields: int,
        out_fields: int,
        kernel_size: int,
        *,
        lift: bool = False,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel size {kernel_size}, expected an odd one, which has a centre")
        order = len(group)
        if (numbers := kernel_size**4 * order ** (1 if lift else 3)) > _LARGEST_BASIS:
            raise ValueError(
                f"kernels of {kernel_size} pixels for the {order} elements of {group.name} need a basis of "
                f"{numbers:.1g} numbers, at most {_LARGEST_BASIS:.1g} are allowed: choose smaller kernels or "
                "halve maps more often"
            )
        basis = filter_basis(group.name, kernel_size, lift)
        self.set_constants(basis=basis.flatten(1))
        self.elements = basis.shape[1:3]
        self.kernel_size = kernel_size
        self.padding = kernel_size // 2 if padding is None else padding
        self.weight = nn.Parameter(torch.empty(out_fields, in_fields, len(basis)))
        # He et al. 2015 for the entries of the filter: their mean square is that of the coefficients times `energy`.
        energy = float(basis.square().sum(0).mean())
        fan_in = in_fields * self.elements[1] * kernel_size**2
        nn.init.normal_(self.weight, std=(2 / fan_in / energy) ** 0.5)

    def filter(self) -> Tensor:
        """The weight (u * out_fields, v * in_fields, k, k) of the plain convolution that this one is."""
        out_fields, in_fields, _ = self.weight.shape
        u, v = self.elements
        filters = self.weight.flatten(0, 1) @ self.basis.to(self.weight.dtype)
        filters = filters.view(out_fields, in_fields, u, v, self.kernel_size, self.kernel_size)
        # Channels last in memory, from which the map of the next layer takes its layout.
        return filters.permute(2, 0, 4, 5, 3, 1).flatten(4, 5).flatten(0, 1).permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, v * in_fields, H, W) -> (B, u * out_fields, H', W')."""
        return F.conv2d(x, self.filter(), padding=self.padding)

    def folded(self) -> nn.Conv2d:
        """The plain convolution."""
        weight = self.filter().detach()
        plain = nn.Conv2d(weight.shape[1], weight.shape[0], self.kernel_size, padding=self.padding, bias=False)
        plain.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        return plain


class _FieldNormalisation(torch.autograd.Function):
    """Batch normalisation with statistics pooled over the elements of a group, made of torch's kernels for channels.

    Viewing the elements as columns of the map would need one plain batch normalisation only, but of few channels, for
    which its kernels are several times slower than the convolutions.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        elements = x.shape[1] // len(weight)
        scale, offset = weight.repeat(elements), bias.repeat(elements)
        # Running statistics that it updates by nothing; their type is that of what it returns.
        unused = torch.zeros_like(scale)
        means, variances = (t.view(elements, -1) for t in torch.batch_norm_update_stats(x, unused, unused, 0.0))
        mean = means.mean(0)
        variance = (variances + (means - mean) ** 2).mean(0)
        statistics = mean.repeat(elements), variance.repeat(elements)
        ctx.save_for_backward(x, scale, *statistics)
        ctx.eps, ctx.elements = eps, elements
        ctx.mark_non_differentiable(mean, variance)
        return torch.native_batch_norm(x, scale, offset, *statistics, False, 0.0, eps)[0], mean, variance

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        refuse_second_derivatives("InnerBatchNorm2d in training", ": ask in evaluation mode, or of fold(network)")
        x, scale, mean, variance = ctx.saved_tensors
        _, grad_scale, grad_offset = torch.ops.aten.native_batch_norm_backward(
            grad, x, scale, mean, variance, None, None, False, ctx.eps, [False, True, True]
        )
        grad_weight, grad_bias = (g.view(ctx.elements, -1).sum(0) for g in (grad_scale, grad_offset))
        inverse, count = (variance + ctx.eps).rsqrt(), x.numel() / len(grad_weight)
        # Rounded as the map is, once for all terms: a gradient that changes neither mean nor variance stays one.
        factor = (inverse * scale).to(x.dtype)
        slope = -factor * inverse * grad_weight.repeat(ctx.elements) / count
        constant = -factor * grad_bias.repeat(ctx.elements) / count
        # slope * (x - mean) + constant, by the kernel that takes a half-precision map and single-precision numbers
        ones = torch.ones_like(mean)
        grad_x = torch.native_batch_norm(x, slope, constant, mean, ones, False, 0.0, 0.0)[0]
        # The factors of a whole row of the map, as few channels alone would make short inner loops.
        row = torch.empty_like(x[0, :, :1]).copy_(factor[:, None, None])
        return grad_x.addcmul_(grad, row), grad_weight, grad_bias, None


class InnerBatchNorm2d(_BatchNorm):
    """Batch normalisation with statistics and weights per field, shared by the elements of the group.

    Averages over the processes of distributed training (``SyncBatchNorm``) are not made: it knows channels only.

    Args:
        group: of rotations and flips.
        fields: number of fields.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, group: PlaneGroup, fields: int) -> None:
        super().__init__(fields)
        self.elements = len(group)

    def forward(self, x: Tensor) -> Tensor:
        """(B, u * fields, H, W) -> the same shape."""
        if not self.training:
            mean, variance, weight, bias = self._repeated()
            return F.batch_norm(x, mean, variance, weight, bias, eps=self.eps)
        out, mean, variance = _FieldNormalisation.apply(x, self.weight, self.bias, self.eps)
        count = x.numel() / len(self.weight)
        with torch.no_grad():
            self.num_batches_tracked += 1
            # without momentum (``update_bn`` takes it away) the mean over all batches
            share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance * (count / max(1, count - 1)), share)
        return out

    def folded(self) -> nn.BatchNorm2d:
        """The plain normalisation of the channels."""
        mean, variance, weight, bias = self._repeated()
        plain = nn.BatchNorm2d(len(mean), self.eps, self.momentum, device=mean.device, dtype=mean.dtype)
        state = {"running_mean": mean, "running_var": variance, "weight": weight, "bias": bias}
        plain.load_state_dict(state, strict=False)  # but for the number of batches, which nothing uses
        return plain

    def _repeated(self) -> list[Tensor]:
        own = self.running_mean, self.running_var, self.weight, self.bias
        return [tensor.repeat(self.elements) for tensor in own]


class SymmetricMaxPool2d(nn.Module):
    """Halve a map with windows that lie symmetrically about its centre: 3 x 3 on odd sizes, 2 x 2 on even ones."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, n, n) -> (B, C, ceil(n / 2), ceil(n / 2))."""
        return F.max_pool2d(x, 3, 2, 1) if x.shape[-1] % 2 else F.max_pool2d(x, 2)


class EquivariantLinear(Constants):
    """Linear map from fields of the regular representation to any others, without bias.

    Such a map has the columns W[g] = rho(g) w with a free w per field and copy.

    Args:
        group: of rotations and flips.
        fields: fields of the input.
        blocks: the output: (copies, matrices rho(g) (order, d, d)), one after another.
    """

    def __init__(self, group: PlaneGroup, fields: int, blocks: Sequence[tuple[int, Tensor]]) -> None:
        super().__init__()
        self.weights = nn.ParameterList()
        bound = (len(group) * fields) ** -0.5  # as nn.Linear does
        for i, (copies, matrices) in enumerate(blocks):
            if len(matrices) != len(group):
                raise ValueError(f"{len(matrices)} matrices for the {len(group)} elements of {group.name}")
            self.set_constants(**{f"matrices_{i}": matrices.float()})
            self.weights.append(nn.Parameter(torch.empty(copies, fields, matrices.shape[-1]).uniform_(-bound, bound)))

    def matrix(self) -> Tensor:
        """The weight (out, order * fields) of the plain linear map that this one is."""
        blocks = [
            torch.einsum("gij,cfj->cigf", getattr(self, f"matrices_{i}").to(weight), weight).flatten(2).flatten(0, 1)
            for i, weight in enumerate(self.weights)
        ]
        return torch.cat(blocks)

    def forward(self, features: Tensor) -> Tensor:
        """(B, order * fields) -> (B, out)."""
        return F.linear(features, self.matrix())

    def folded(self) -> nn.Linear:
        """The plain linear map."""
        weight = self.matrix().detach()
        plain = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        plain.weight = nn.Parameter(weight)
        return plain


def fold(module: nn.Module) -> nn.Module:
    """A copy of a trained network in which every equivariant layer is the plain one it amounts to.

    Same outputs, no group needed to run it; trained further it would lose its equivariance.
    """
    module = nn.Sequential(copy.deepcopy(module))
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if callable(folded := getattr(child, "folded", None)):
                setattr(parent, name, folded().train(child.training))
    return module[0]
