"""Encoders against the promise of their group: move the image, and the pose moves along."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cryozoo.geometry.plane_groups import PlaneGroup
from cryozoo.imaging.inplane import transform_d4, transform_pose
from cryozoo.imaging.projector import Projector
from cryozoo.imaging.volumes import Volume
from cryozoo.losses.bingham import BinghamNLL
from cryozoo.testing import assert_equivariant
from cryozoo.zoo.cost import multiply_accumulates
from cryozoo.zoo.encoder import PoseEncoder, create_encoder
from cryozoo.zoo.registry import get_part, list_parts

D4 = PlaneGroup("D4").matrices
ELEMENTS = {"C4": range(4), "D4": range(8)}
HEADS: dict[str, Any] = {name: get_part("head", name).load() for name in list_parts("head")}
EQUIVARIANT_HEADS = [name for name, head in HEADS.items() if head(**head.equivariant_args).equivariant]


def build(name: str, size: int, **args: object) -> PoseEncoder:
    torch.manual_seed(0)
    encoder = create_encoder(name, image_size=size, pixel_size=3.0, backbone_args=args, shift=True)
    # Statistics of batch normalisation that are not those of an untrained network.
    encoder.train()(torch.randn(8, 1, size, size))
    return encoder


def errors(encoder: PoseEncoder, images: Tensor, elements: range) -> dict[str, float]:
    """Largest error of each part of the pose of g I against phi(g) times that of I, relative to its largest value."""
    pose = encoder(images)
    worst: dict[str, float] = {}
    for element in elements:
        moved = encoder(transform_d4(images, element))
        expected = transform_pose(pose, D4[element].to(images).expand(len(images), 2, 2))
        pairs = {"shift": (moved.shift, expected.shift), "confidence": (moved.confidence, pose.confidence)}
        if encoder.head.representation(torch.eye(3)[None]) is not None:
            phi = PlaneGroup("D4").phi[element].to(images)[None]
            blocks = encoder.head.representation(phi)
            assert blocks is not None
            rho = torch.block_diag(*(matrix[0] for copies, matrix in blocks for _ in range(copies)))
            pairs["raw"] = (moved.raw, pose.raw @ rho.T)
        pairs["rotation"] = (moved.rotation, expected.rotation)
        for part, (found, wanted) in pairs.items():
            if found is not None and wanted is not None:
                error = float((found - wanted).abs().max() / wanted.abs().max())
                worst[part] = max(worst.get(part, 0.0), error)
    return worst


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("size", [36, 37])
@pytest.mark.parametrize("head", EQUIVARIANT_HEADS)
@pytest.mark.parametrize("backbone", ["test_c4_cnn", "test_d4_cnn"])
def test_poses_are_equivariant(backbone: str, head: str, size: int, training: bool) -> None:
    encoder = build(f"{backbone}-{head}", size).train(training)
    assert encoder.group in ELEMENTS
    images = torch.randn(5, 1, size, size)
    assert_equivariant(encoder, tolerance=1e-10, images=images)
    with torch.no_grad():
        single = errors(encoder, images, ELEMENTS[encoder.group])
    # Projections to rotations magnify rounding of the raw vector where two rotations are about equally near.
    assert max(single["raw"], single["shift"]) < 1e-5, single


@pytest.mark.parametrize("stem", ["lowpass", "gaussian", "none"])
@pytest.mark.parametrize("backbone", ["c4_vgg_gem", "d4_vgg_gem", "c4_cnn", "d4_cnn"])
def test_every_stem_keeps_it(backbone: str, stem: str) -> None:
    encoder = build(f"{backbone}-nined_svd", 40, width=0.1, stem=stem).eval()
    assert encoder.group == backbone[:2].upper()
    assert_equivariant(encoder, tolerance=1e-10)


@pytest.mark.parametrize("backbone", ["c4_vgg_gem", "d4_vgg_gem", "c4_cnn", "d4_cnn"])
def test_in_single_precision_it_is_exact_to_the_rounding_of_the_network(backbone: str) -> None:
    """Of default width. Before training the features hardly depend on the orientation, and the little that does, which
    is all that an equivariant last layer sees, has the rounding errors of the whole."""
    encoder = build(f"{backbone}-sixd_svd", 64).eval()
    images = torch.randn(5, 1, 64, 64)
    with torch.no_grad():
        single, pose, features = (
            errors(encoder, images, ELEMENTS[backbone[:2].upper()]),
            encoder(images),
            encoder.features(images),
        )
        exact, exact_features = encoder.double()(images.double()), encoder.features(images.double())
    assert float((features - exact_features).abs().max() / exact_features.abs().max()) < 1e-5
    for part, found, true in (("raw", pose.raw, exact.raw), ("shift", pose.shift, exact.shift)):
        assert single[part] < 6 * float((found - true).abs().max() / true.abs().max())


def in_terms_of_the_features(encoder: PoseEncoder, images: Tensor) -> dict[str, float]:
    """Errors of raw vector and shift relative to the largest that the last layer could make of features that large.

    What is left of an untrained network's features when all that does not depend on the orientation cancels is much
    smaller, and has the rounding errors of the whole.
    """
    found, pose, features = errors(encoder, images, ELEMENTS["D4"]), encoder(images), encoder.features(images)
    unit = torch.eye(features.shape[1])
    weight = encoder.projection(unit) - encoder.projection(torch.zeros_like(unit))
    possible = features.abs().max() * weight.abs().sum(0)
    return {
        "raw": found["raw"] * float(pose.raw.abs().max() / possible[:-2].max()),
        "shift": found["shift"] * float(pose.shift.abs().max() / possible[-2:].max()),
    }


@pytest.mark.parametrize("head", EQUIVARIANT_HEADS)
@pytest.mark.parametrize("backbone", ["d4_vgg_gem", "d4_cnn"])
def test_of_default_width_before_training(backbone: str, head: str) -> None:
    """Not in training mode: there the small differences of untrained features within a batch are magnified."""
    encoder = build(f"{backbone}-{head}", 64).eval()
    with torch.no_grad():
        found = in_terms_of_the_features(encoder, torch.randn(5, 1, 64, 64))
    assert max(found.values()) < 1e-5, found


def test_a_plain_network_in_the_same_terms() -> None:
    with torch.no_grad():
        found = in_terms_of_the_features(build("vgg_gem-sixd_svd", 64).eval(), torch.randn(5, 1, 64, 64))
    assert min(found.values()) > 1e-3, found


@pytest.mark.parametrize("name", ["test_vgg_gem-nined_svd", "test_d4_cnn-quaternion", "test_c4_cnn-nined_svd"])
def test_controls_are_not(name: str) -> None:
    """A plain backbone, a head without a representation, and the flips for a group that has none."""
    encoder = build(name, 36).eval().double()
    with torch.no_grad():
        found = errors(encoder, torch.randn(5, 1, 36, 36, dtype=torch.float64), ELEMENTS["D4"])
    assert found["rotation"] > 0.1


@pytest.mark.parametrize("size", [36, 37])
def test_the_origin_is_pixel_l_half(size: int) -> None:
    """Turning the array without keeping the origin is another movement on an even grid, where it turns about a corner
    of four pixels."""
    encoder = build("test_d4_cnn-nined_svd", size).eval().double()
    images = torch.randn(5, 1, size, size, dtype=torch.float64)
    with torch.no_grad():
        turned = encoder(images.rot90(-1, (-2, -1))).rotation
        expected = PlaneGroup("D4").phi[1] @ encoder(images).rotation
    error = float((turned - expected).abs().max())
    assert error > 0.1 if size % 2 == 0 else error < 1e-9


@pytest.mark.parametrize("size", [36, 37])
def test_training_keeps_it_and_agrees_with_the_simulator(size: int) -> None:
    """A few steps on projections; then projections at phi(g) R themselves, not moved pixels, have the moved poses."""
    encoder = build("test_d4_cnn-qcqp_bingham", size)
    projector = Projector(Volume.phantom(size=size, pixel_size=3.0))
    optimizer, loss = torch.optim.Adam(encoder.parameters(), 1e-3), BinghamNLL()
    rotation = torch.linalg.qr(torch.randn(16, 3, 3)).Q
    rotation = rotation * torch.linalg.det(rotation)[:, None, None]
    images = projector(rotation)[:, None] / 30
    for _ in range(5):
        optimizer.zero_grad()
        pose = encoder(images)
        loss(type(pose)(pose.rotation, None, None, pose.raw), type(pose)(rotation)).total.backward()
        optimizer.step()
    encoder.eval().double()
    assert_equivariant(encoder, tolerance=1e-10, images=images)
    with torch.no_grad():
        found = encoder(images.double()).rotation
        views = [
            encoder(projector(phi @ rotation)[:, None].double() / 30).rotation for phi in PlaneGroup("D4").phi.float()
        ]
    for phi, view in zip(PlaneGroup("D4").phi, views, strict=True):
        angles = torch.acos(((view * (phi @ found)).sum((-2, -1)) - 1).div(2).clamp(-1, 1))
        assert float(angles.median()) < 0.02


def test_what_they_are_is_declared() -> None:
    assert create_encoder("test_d4_cnn-sixd_svd", image_size=32).group == "D4"
    assert create_encoder("test_d4_cnn-quaternion", image_size=32).group is None
    assert create_encoder("test_vgg_gem-sixd_svd", image_size=32).group is None
    assert create_encoder("test_d4_cnn-qcqp_bingham", image_size=32).group == "D4"
    published = create_encoder("test_d4_cnn-qcqp_bingham", image_size=32, head_args={"form": "cholesky"})
    assert published.group is None
    assert published.with_head("qcqp_bingham").group == "D4"


@pytest.mark.parametrize(("backbone", "plain", "even"), [("d4_vgg_gem", "vgg_gem", 1.4), ("d4_cnn", "cryoai_cnn", 1.1)])
def test_they_cost_what_plain_ones_of_as_many_channels_do(backbone: str, plain: str, even: float) -> None:
    """On odd images; even ones become a pixel larger."""
    for size, times in ((63, 1.0), (64, even)):
        costs = [
            multiply_accumulates(create_encoder(f"{name}-sixd_svd", image_size=size)) for name in (backbone, plain)
        ]
        assert costs[0] / costs[1] == pytest.approx(times, abs=0.05 if times > 1 else 1e-3)
