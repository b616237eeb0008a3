"""Checks of the promises that parts make, for the tests of whoever writes one.

    from cryozoo.testing import check_backbone, check_head, check_loss

    def test_mine():
        check_backbone(MyBackbone, image_size=64, width=0.25)
        check_head(MyHead())
        check_loss(MyLoss())

Each raises AssertionError with one sentence: which part, what was promised, what was found. They draw random numbers of
a fixed seed and leave torch's generator as it was.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .geometry.plane_groups import PlaneGroup
from .geometry.point_groups import closest_mate, point_group
from .geometry.pose import Pose
from .geometry.sampling import random_rotations
from .heads.base import Head
from .heads.qcqp_bingham import QCQPBingham
from .imaging.inplane import transform_d4, transform_pose
from .losses.base import Loss, LossOutput, Mismatch
from .models.base import Backbone
from .zoo.encoder import PoseEncoder

_D4 = PlaneGroup("D4")
_ROWS = 8


@contextmanager
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@_seeded()
def check_backbone(make: Callable[..., nn.Module], *, image_size: int = 48, in_chans: int = 1, **args: Any) -> None:
    """Hold ``make(image_size, in_chans, **args)`` to what :class:`cryozoo.models.base.Backbone` promises.

    - It is a torch module that states ``num_features`` and ``group``, and turns images into finite features
      (B, num_features).
    - Every parameter that wants a gradient gets a finite one, which is not zero everywhere.
    - In evaluation mode the features of an image are the same each time, and do not depend on the other images.
    - A fresh copy that loads the state dict, saved in training mode, repeats the features bit for bit.
    - Of a ``group``: in float64, images moved by its elements have the features permuted as in its regular
      representation, ordered ``element * fields + field``. Only elements of D4 are tried, which move pixels to pixels.
      Control: the features of moved images differ from those of the images themselves.
    """
    backbone = make(image_size, in_chans, **args)
    part = f"backbone {getattr(make, '__name__', type(backbone).__name__)}"
    _hold(
        isinstance(backbone, nn.Module) and isinstance(backbone, Backbone),
        part,
        "a torch module that states num_features and group",
        f"it is a {type(backbone).__name__}" + (" that lacks one" if isinstance(backbone, nn.Module) else ""),
    )
    images = torch.randn(4, in_chans, image_size, image_size)
    features = backbone.train()(images)
    expected = (len(images), backbone.num_features)
    _hold(tuple(features.shape) == expected, part, f"features {expected}", f"they are {tuple(features.shape)}")
    _hold(bool(features.isfinite().all()), part, "finite features", "some are not")
    shaken = copy.deepcopy(backbone)
    for name, parameter in shaken.named_parameters():
        if name.endswith("bias"):  # where they are zero, what is normalised later has no use for a scale
            nn.init.normal_(parameter, std=0.1)
    features = shaken(images)
    (features * torch.randn_like(features)).sum().backward()
    for name, parameter in shaken.named_parameters():
        if parameter.requires_grad:
            _hold_gradient(parameter.grad, part, f"of {name}")

    state = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    backbone.eval()
    with torch.no_grad():
        features = backbone(images)
        _hold(torch.equal(backbone(images), features), part, "the same features each time", "they differ")
        alone = torch.cat([backbone(image[None]) for image in images])
        off = _relative(alone, features)
        _hold(off < 1e-4, part, "features of each image alone", f"other images of the batch change them by {off:.1e}")
        fresh = make(image_size, in_chans, **args)
        try:
            fresh.train().load_state_dict(state)
        except RuntimeError as error:
            _hold(False, part, "a state dict that a fresh copy loads", str(error))
        again = fresh.eval()(images)
        off = _relative(again, features)
        _hold(torch.equal(again, features), part, "a state dict that holds all of it", f"a copy is off by {off:.1e}")
        if backbone.group is not None:
            _check_group(backbone.double(), images.double(), part)


def _check_group(backbone: Any, images: Tensor, part: str) -> None:
    try:
        group = PlaneGroup(backbone.group)
    except ValueError as error:
        raise AssertionError(f"{part} promises the name of a plane group, and {error}.") from None
    fields, left = divmod(backbone.num_features, len(group))
    _hold(not left, part, f"fields of the {len(group)} elements of {group.name}", f"num_features is {fields} of them")
    features = backbone(images)
    worst = least = 0.0
    for element, index in _elements(group):
        moved = backbone(transform_d4(images, element))
        by_element = features.unflatten(1, (len(group), fields))
        permuted = by_element[:, group.table[group.inverse[index]]].flatten(1)
        worst, least = max(worst, _relative(moved, permuted)), max(least, _relative(moved, features))
    _hold(least > 1e-12, part, f"features that {group.name} permutes", "those of moved images are the same")
    found = f"those of moved images are off by {worst:.1e} (unpermuted by {least:.1e})"
    _hold(worst < 1e-3 * least, part, f"features that {group.name} permutes", found)


@_seeded()
def check_head(head: Head) -> None:
    """Hold a head to what :class:`cryozoo.heads.Head` promises.

    - It has no parameters, and states ``raw_dim``; ``has_rotation`` and ``has_confidence`` say what it returns.
    - Rotations are rotations, in float32 and float64, whichever the raw vector has; under autocast to bfloat16 nothing
      changes.
    - Gradients are finite, also at raw vectors that are zero, constant, or zero but for one number.
    - NaN and infinite raw vectors give NaN, and leave the others of the batch alone.
    - Of a ``representation``: it acts on all of the raw vector, and moving that by an element of D4 multiplies the
      rotation on the left (up to the symmetry of a head that has one) and leaves the confidence alone. Control: without
      moving it, rotations are off.
    """
    part = f"head {type(head).__name__}"
    _hold(isinstance(head, Head), part, "a subclass of cryozoo.heads.Head", "it is none")
    _hold(not list(head.parameters()), part, "no parameters", "it has some")
    raw = torch.randn(_ROWS, head.raw_dim)
    for dtype in (torch.float32, torch.float64):
        _check_pose(head, raw.to(dtype), part, "random raw vectors")
    with torch.autocast("cpu", torch.bfloat16):
        inside = head(raw.bfloat16())
    outside = head(raw.bfloat16().float())
    for name, value in _values(inside):
        same = value.dtype == torch.float32 and torch.equal(value, getattr(outside, name))
        _hold(same, part, "float32 under autocast", f"{name} is {value.dtype}, or another one")

    one = torch.eye(head.raw_dim)[: 2 * _ROWS]
    for case, degenerate in (("zero", 0 * raw), ("constant", torch.ones_like(raw)), ("one number", one)):
        for dtype in (torch.float32, torch.float64):
            _check_pose(head, degenerate.to(dtype), part, f"raw vectors of {case}")

    broken = raw.clone()
    broken[1, 0], broken[3, -1] = torch.nan, torch.inf
    bad = torch.zeros(_ROWS, dtype=torch.bool)
    bad[[1, 3]] = True
    for (name, value), (_, whole) in zip(_values(head(broken)), _values(head(raw)), strict=True):
        if name != "raw":  # which is as it was given
            others = whole[~bad]
            if name == "rotation":  # any mate, as rounding has it
                group = point_group(str(getattr(head, "symmetry", "C1")))
                others = closest_mate(value[~bad], others, group.to(others))
            kept = torch.allclose(value[~bad], others, rtol=0, atol=1e-5)
            _hold(bool(value[bad].isnan().all()), part, "NaN of what is not finite", f"its {name} is a number")
            _hold(kept, part, "NaN of what is not finite alone", f"the {name} of others changed")
    if head.equivariant:
        _check_representation(head, raw.double(), part)


def _check_pose(head: Head, raw: Tensor, part: str, case: str) -> None:
    raw = raw.clone().requires_grad_()
    pose = head(raw)
    _hold(
        (head.has_rotation, head.has_confidence) == (pose.rotation is not None, pose.confidence is not None),
        part,
        f"has_rotation {head.has_rotation} and has_confidence {head.has_confidence}",
        f"it returned {', '.join(name for name, _ in _values(pose))}",
    )
    _hold(pose.raw is not None and len(pose.raw) == len(raw), part, "a Pose with its raw vectors", "there are none")
    for name, value in _values(pose):
        _hold(value.dtype == raw.dtype, part, f"{raw.dtype} where the raw vector is", f"{name} is {value.dtype}")
    shape = None if pose.confidence is None else tuple(pose.confidence.shape)
    _hold(shape in (None, (len(raw),)), part, "a confidence for each image", f"they are {shape}")
    if pose.rotation is not None:
        rotation = pose.rotation.detach()
        found = tuple(rotation.shape)
        _hold(found == (len(raw), 3, 3), part, "rotations (B, 3, 3)", f"they are {found}")
        off = max(
            float((rotation @ rotation.mT - torch.eye(3).to(rotation)).abs().max()),
            float((torch.linalg.det(rotation) - 1).abs().max()),
        )
        _hold(off < 1e-5, part, f"rotations of {case}", f"R R^T or det R is off by {off:.1e}")
    answers = [value.sum() for name, value in _values(pose) if name != "raw" and value.requires_grad]
    if answers:
        (gradient,) = torch.autograd.grad(sum(answers[1:], start=answers[0]), raw)
        _hold(bool(gradient.isfinite().all()), part, f"finite gradients at {case}", "some are not")


def _check_representation(head: Head, raw: Tensor, part: str) -> None:
    pose, dim = head(raw), len(_representation(head, 0))
    _hold(dim == head.raw_dim, part, f"a representation of all {head.raw_dim} numbers", f"it acts on {dim}")
    for element in range(1, len(_D4)):
        expected = Pose(_D4.phi[element] @ pose.rotation, None, pose.confidence)
        off = _apart(head(raw @ _representation(head, element).T), expected, head)
        _hold(off < 1e-5, part, f"rotations that element {element} of D4 multiplies", f"they are off by {off:.1e}")
        _hold(_apart(pose, expected, head) > 0.1, part, "rotations that tell D4's elements apart", "they do not")


def _representation(head: Head, element: int) -> Tensor:
    """What an element of D4 does to raw vectors, (raw_dim, raw_dim)."""
    blocks = head.representation(_D4.phi[element : element + 1]) or []
    return torch.block_diag(*(matrices[0] for copies, matrices in blocks for _ in range(copies))).double()


@_seeded()
def check_loss(loss: Loss, *, head: Head | None = None) -> None:
    """Hold a loss to what :class:`cryozoo.losses.Loss` promises, at random raw vectors of ``head`` (QCQPBingham).

    - Its terms have one value for each image or pair: changing one prediction leaves most of them alone. Their weighted
      means add up to ``total``.
    - Gradients are finite throughout the training, also where predictions are true, half a turn off, and all alike; at
      random ones they are not zero everywhere.
    - float64 predictions give a float64 total, float32 ones a float32 total, which autocast does not change.
    - Under its symmetry a mate of the truth is as good as the truth. Control: any other rotation is not.
    - One that says that it reads no rotations says the same without them.
    - An empty batch, and progress outside [0, 1], are refused with a ValueError.
    - Without parameters of its own it saves nothing with the weights.
    """
    head = QCQPBingham() if head is None else head
    part = f"loss {type(loss).__name__}"
    _hold(isinstance(loss, Loss), part, "a subclass of cryozoo.losses.Loss", "it is none")
    raw, truth = torch.randn(_ROWS, head.raw_dim, dtype=torch.float64), random_rotations(_ROWS, dtype=torch.float64)

    def compare(raw: Tensor, truth: Tensor, progress: float = 0.5, **changed: Tensor) -> LossOutput:
        torch.manual_seed(0)  # of random pairs
        return loss(head(raw)._replace(**changed), Pose(truth), progress)

    output = compare(raw, truth)
    _hold(isinstance(output, LossOutput) and len(output.terms) > 0, part, "a LossOutput with terms", f"{output!r:.60}")
    other = compare(torch.cat([-raw[:1].flip(1), raw[1:]]), truth)
    for name, values in output.terms.items():
        _hold(values.ndim == 1, part, f"term {name} of (B,) or (P,) values", f"it is {tuple(values.shape)}")
        changed = int((values != other.terms[name]).sum())
        found = f"changing one of {_ROWS} predictions changed {changed} of {len(values)}"
        _hold(2 * changed <= len(values), part, f"term {name} of a value for each image or pair", found)
    total = sum(output.weights.get(name, 1.0) * float(values.mean()) for name, values in output.terms.items())
    off = abs(float(output.total) - total)
    _hold(off <= 1e-9 * max(1, abs(total)), part, "the weighted sum of the terms' means", f"total is off by {off:.1e}")

    for progress in (0.0, 0.5, 1.0):
        _check_gradients(partial(compare, progress=progress), head, raw, truth, part)
    single, target = raw.float(), truth.float()
    outside = compare(single, target).total
    with torch.autocast("cpu", torch.bfloat16):
        inside = compare(single, target).total
    types = (output.total.dtype, outside.dtype)
    _hold(types == (torch.float64, torch.float32), part, "the prediction's type", f"totals are {types}")
    _hold(torch.equal(inside, outside), part, "no effect of autocast", f"{float(inside):.6f}, not {float(outside):.6f}")

    if not loss.reads_rotation:
        try:
            same = torch.equal(loss(head(raw, decode=False), Pose(truth), 0.5).total, output.total)
        except Mismatch:
            same = False
        _hold(same, part, "not to read rotations", "without them its total is not the same")
    group = point_group(loss.symmetry)
    mates = truth @ group[torch.arange(_ROWS) % len(group)]
    off = abs(float(compare(raw, mates).total - output.total))
    promised = f"that mates under {loss.symmetry} are as good as the truth"
    _hold(off <= 1e-9 * max(1, abs(total)), part, promised, f"they change it by {off:.1e}")
    off = abs(float(compare(raw, random_rotations(_ROWS, dtype=torch.float64)).total - output.total))
    _hold(off > 1e-6, part, "to tell truths apart", "others are as good")

    _hold_refused(partial(compare, raw[:0], truth[:0]), part, "an empty batch")
    for progress in (-0.1, 1.1, float("nan")):
        _hold_refused(partial(compare, raw, truth, progress), part, f"progress {progress}")
    saved = [] if list(loss.parameters()) else list(loss.state_dict())
    _hold(not saved, part, "nothing to save without parameters", f"it saves {', '.join(saved)}")


def _check_gradients(compare: Callable[..., LossOutput], head: Head, raw: Tensor, truth: Tensor, part: str) -> None:
    alike = raw[:1].expand_as(raw), truth[:1].expand_as(truth)
    for case, (given, target) in {"random predictions": (raw, truth), "predictions that are all alike": alike}.items():
        leaf = given.clone().requires_grad_()
        compare(leaf, target).total.backward()
        _hold_gradient(leaf.grad, part, f"at {case}", zero=given is not raw)
    if not head.has_rotation:
        return
    exact = torch.eye(3, dtype=raw.dtype).expand(len(raw), 3, 3)
    half_turn = torch.tensor([1.0, -1, -1], dtype=raw.dtype)
    for case, target in {"true predictions": exact, "predictions half a turn off": exact * half_turn}.items():
        leaf, rotation = raw.clone().requires_grad_(), exact.clone().requires_grad_()
        compare(leaf, target, rotation=rotation).total.backward()
        _hold_gradient(leaf.grad if rotation.grad is None else rotation.grad, part, f"at {case}", zero=True)


@torch.no_grad()
@_seeded()
def assert_equivariant(encoder: PoseEncoder, *, tolerance: float = 1e-4, images: Tensor | None = None) -> None:
    """Moving images by an element of ``encoder.group`` moves raw vector, rotation and shift along, not the confidence.

    A copy is tried, in float64 and in the mode that the encoder is in (in training mode dropout is not equivariant),
    with the elements of D4, which move pixels to pixels. Rotations are compared up to the symmetry of a head that has
    one. Control: the poses of images that are not moved are off.

    Args:
        encoder: one whose ``group`` is not None.
        tolerance: largest error of rotations, and of the others relative to their largest number.
        images: preprocessed, (B, in_chans, L, L); by default noise.
    """
    part, name = f"encoder {encoder.name}", encoder.group
    assert name is not None, f"{part} was asked to be equivariant, and its group is None."
    encoder, size = copy.deepcopy(encoder).double(), encoder.preprocessing.image_size
    images = torch.randn(4, encoder.config["in_chans"], size, size) if images is None else images
    images = images.to(next(encoder.parameters()))
    pose = encoder(images)
    for element, _ in _elements(PlaneGroup(name)):
        plane = _D4.matrices[element].to(images).expand(len(images), 2, 2)
        raw = pose.raw @ _representation(encoder.head, element).to(pose.raw).T
        expected = transform_pose(pose, plane)._replace(confidence=pose.confidence, raw=raw)
        off = _apart(encoder(transform_d4(images, element)), expected, encoder.head)
        mode = "training" if encoder.training else "evaluation"
        found = f"in {mode} mode they are off by {off:.1e} for element {element} of D4"
        _hold(off < tolerance, part, f"poses that move with the image under {name}", found)
        _hold(_apart(pose, expected, encoder.head) > tolerance, part, f"poses that {name} moves", "they stay")


def _elements(group: PlaneGroup) -> Iterator[tuple[int, int]]:
    """The elements of D4 but the identity that are in the group: number in D4, number in the group."""
    for element in range(1, len(_D4)):
        near = (group.matrices - _D4.matrices[element]).abs().amax((1, 2)) < 1e-9
        if near.any():
            yield element, int(near.int().argmax())


def _apart(found: Pose, expected: Pose, head: Head) -> float:
    """Largest difference: of rotations, up to the head's symmetry, and of the others relative to the largest."""
    worst = 0.0
    for name, value in _values(expected):
        seen = getattr(found, name)
        if name == "rotation":
            symmetry = point_group(getattr(head, "symmetry", "C1"))
            worst = max(worst, float((closest_mate(seen, value, symmetry) - seen).abs().max()))
        else:
            worst = max(worst, _relative(seen, value))
    return worst


def _values(pose: Pose) -> list[tuple[str, Tensor]]:
    return [(name, value) for name, value in pose._asdict().items() if value is not None]


def _relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference, over the largest of what was expected; infinite where NaN is found."""
    off = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
    return off if off == off else float("inf")


def _hold(kept: bool, part: str, promised: str, found: str) -> None:
    if not kept:
        raise AssertionError(f"{part} promises {promised}, and {found}.")


def _hold_gradient(gradient: Tensor | None, part: str, where: str, *, zero: bool = False) -> None:
    found = "there is none"
    if gradient is not None:
        found = "it is zero" if gradient.isfinite().all() else "it is not finite"
        zero = bool(gradient.isfinite().all()) and (zero or bool(gradient.any()))
    _hold(gradient is not None and zero, part, f"a gradient {where}", found)


def _hold_refused(call: Callable[[], object], part: str, what: str) -> None:
    try:
        call()
    except ValueError:
        return
    _hold(False, part, f"to refuse {what}", "it took it")
