"""The public checks refuse parts that break their promises, and say which promise."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cryozoo.geometry.pose import Pose
from cryozoo.geometry.rotations import quaternion_to_matrix
from cryozoo.heads import Head
from cryozoo.heads.nined_svd import NineDSVD
from cryozoo.heads.qcqp_bingham import QCQPBingham
from cryozoo.heads.quaternion import Quaternion
from cryozoo.imaging.inplane import transform_d4
from cryozoo.losses import Loss
from cryozoo.losses.base import LossOutput
from cryozoo.losses.geodesic import Geodesic
from cryozoo.models.steerable_cnn import steerable_cnn
from cryozoo.testing import assert_equivariant, check_backbone, check_head, check_loss
from cryozoo.zoo.encoder import create_encoder


class Good(nn.Module):
    """A backbone that keeps all promises; those below break one each."""

    num_features = 6
    group: str | None = None

    def __init__(self, image_size: int, in_chans: int) -> None:
        super().__init__()
        self.layer = nn.Linear(in_chans * image_size**2, self.num_features)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))


class NotAModule:
    num_features, group = 6, None

    def __init__(self, image_size: int, in_chans: int) -> None:
        pass


class StatesNothing(nn.Sequential):
    def __init__(self, image_size: int, in_chans: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(in_chans * image_size**2, 6))


class WrongLength(Good):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)[:, 1:]


class NotFinite(Good):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) / 0


class IdleParameter(Good):
    def __init__(self, image_size: int, in_chans: int) -> None:
        super().__init__(image_size, in_chans)
        self.idle = nn.Parameter(torch.zeros(3))


class DeadParameter(IdleParameter):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + 0 * self.idle.sum()


class InfiniteGradient(IdleParameter):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + self.idle.sqrt().sum()


class Noisy(Good):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images + torch.randn_like(images))


class MixesTheBatch(Good):
    def forward(self, images: Tensor) -> Tensor:
        features = super().forward(images)
        return features + features.mean(0)


class KeepsSomethingBack(Good):
    def __init__(self, image_size: int, in_chans: int) -> None:
        super().__init__(image_size, in_chans)
        self.offset = torch.randn(6)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + self.offset


class GrowsItsState(Good):
    def forward(self, images: Tensor) -> Tensor:
        self.seen = nn.Parameter(torch.zeros(1), requires_grad=False)
        return super().forward(images)


class LiesAboutItsGroup(Good):
    num_features, group = 8, "C4"


class UnknownGroup(Good):
    group = "Z4"


class NoFields(Good):
    group = "C4"


class Invariant(Good):
    """The same for all elements: permuted, as was promised, and of no use for poses."""

    num_features, group = 8, "C4"

    def __init__(self, image_size: int, in_chans: int) -> None:
        super().__init__(1, in_chans)

    def forward(self, images: Tensor) -> Tensor:
        origin = images.shape[-1] // 2
        return self.layer(images[:, :, origin, origin]).sum(1, keepdim=True).expand(-1, 8)


class Turned(Good):
    """One layer that sees the image turned back by each element: regular fields."""

    num_features, group = 12, "C4"

    def __init__(self, image_size: int, in_chans: int) -> None:
        super().__init__(image_size, in_chans)
        self.layer = nn.Linear(in_chans * image_size**2, 3)

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.layer(transform_d4(images, -element % 4).flatten(1)) for element in range(4)], 1)


class FieldsFirst(Turned):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).unflatten(1, (4, 3)).mT.flatten(1)


class TurnedTheOtherWay(Turned):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).unflatten(1, (4, 3))[:, [0, 3, 2, 1]].flatten(1)


def test_good_backbones_pass() -> None:
    check_backbone(Good)
    check_backbone(Turned)
    check_backbone(steerable_cnn, group="D4", fields=(2, 2), depths=(1, 1), kernels=(3, 3), image_size=20, in_chans=2)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (NotAModule, "a torch module that states num_features and group, and it is a NotAModule"),
        (StatesNothing, "a torch module that states num_features and group, and it is a StatesNothing that lacks one"),
        (WrongLength, r"features \(4, 6\), and they are \(4, 5\)"),
        (NotFinite, "finite features, and some are not"),
        (IdleParameter, "a gradient of idle, and there is none"),
        (DeadParameter, "a gradient of idle, and it is zero"),
        (InfiniteGradient, "a gradient of idle, and it is not finite"),
        (Noisy, "the same features each time, and they differ"),
        (MixesTheBatch, "features of each image alone, and other images of the batch change them by"),
        (KeepsSomethingBack, "a state dict that holds all of it, and a copy is off by"),
        (GrowsItsState, "a state dict that a fresh copy loads, and .*seen"),
        (LiesAboutItsGroup, "features that C4 permutes, and those of moved images are off by"),
        (UnknownGroup, "the name of a plane group, and group 'Z4'"),
        (NoFields, "fields of the 4 elements of C4"),
        (Invariant, "features that C4 permutes, and those of moved images are the same"),
        (FieldsFirst, "features that C4 permutes, and those of moved images are off by"),
        (TurnedTheOtherWay, "features that C4 permutes, and those of moved images are off by"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_broken_backbones_are_refused(make: Callable[..., Any], says: str) -> None:
    with pytest.raises(AssertionError, match=rf"(?s)^backbone {make.__name__} promises {says}"):
        check_backbone(make)


class Trained(NineDSVD):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


class SilentConfidence(NineDSVD):
    has_confidence = True


class UndeclaredConfidence(NineDSVD):
    def rotation(self, raw: Tensor) -> Any:
        return super().rotation(raw)[0], raw.square().sum(1)


class NoRotation(NineDSVD):
    def rotation(self, raw: Tensor) -> Any:
        return None, None


class NotARotation(NineDSVD):
    def rotation(self, raw: Tensor) -> Any:
        return raw.unflatten(1, (3, 3)), None


class Mirrors(NineDSVD):
    def rotation(self, raw: Tensor) -> Any:
        return -super().rotation(raw)[0], None


class DiesAtZero(Quaternion):
    def rotation(self, raw: Tensor) -> Any:
        return quaternion_to_matrix(raw / raw.square().sum(1, keepdim=True).sqrt()), None


class OwnForward(NineDSVD):
    """NaN is a rotation like any other to it."""

    def forward(self, raw):
        with torch.autocast("cpu", enabled=False):
            full = raw if raw.dtype == torch.float64 else raw.float()
            return Pose(self.rotation(full.nan_to_num())[0], None, None, full)


class HalfPrecision(NineDSVD):
    def forward(self, raw):
        pose = super().forward(raw)
        return pose._replace(rotation=pose.rotation.to(raw.dtype))


class AlwaysSingle(NineDSVD):
    def forward(self, raw):
        return super().forward(raw.float())


class LiesAboutItsRepresentation(Quaternion):
    def representation(self, phi: Tensor) -> list[tuple[int, Tensor]]:
        return [(1, phi), (1, phi[:, :1, :1])]


class PartOfARepresentation(NineDSVD):
    def representation(self, phi: Tensor) -> list[tuple[int, Tensor]]:
        return [(2, phi)]


class FromTheRight(NineDSVD):
    def rotation(self, raw: Tensor) -> Any:
        return super().rotation(raw)[0].mT, None


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (nn.Identity, "a subclass of cryozoo.heads.Head, and it is none"),
        (Trained, "no parameters, and it has some"),
        (SilentConfidence, "has_rotation True and has_confidence True, and it returned rotation, raw"),
        (UndeclaredConfidence, "has_rotation True and has_confidence False, and it returned rotation, confidence, raw"),
        (NoRotation, "has_rotation True and has_confidence False, and it returned raw"),
        (NotARotation, "rotations of random raw vectors, and R R.T or det R is off by"),
        (Mirrors, "rotations of random raw vectors, and R R.T or det R is off by 2"),
        (DiesAtZero, "rotations of raw vectors of zero"),
        (OwnForward, "NaN of what is not finite, and its rotation is a number"),
        (HalfPrecision, "float32 under autocast, and rotation is torch.bfloat16"),
        (AlwaysSingle, "torch.float64 where the raw vector is, and rotation is torch.float32"),
        (LiesAboutItsRepresentation, "rotations that element . of D4 multiplies"),
        (PartOfARepresentation, "a representation of all 9 numbers, and it acts on 6"),
        (FromTheRight, "rotations that element 1 of D4 multiplies"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_broken_heads_are_refused(make: Callable[[], Head], says: str) -> None:
    with pytest.raises(AssertionError, match=f"^head {make.__name__} promises {says}"):
        check_head(make())


class AveragesTooEarly(Geodesic):
    def compare(self, pose, target, progress):
        output = super().compare(pose, target, progress)
        return LossOutput({name: values.mean().expand(len(target)) for name, values in output.terms.items()})


class Scalar(Geodesic):
    def compare(self, pose, target, progress):
        output = super().compare(pose, target, progress)
        return LossOutput({name: values.mean() for name, values in output.terms.items()})


class BareTensor(Geodesic):
    def compare(self, pose, target, progress):
        return (pose.rotation - target).abs().sum((1, 2))


class ReadsInSecret(Geodesic):
    """Says that raw vectors are enough, where it looks at rotations."""

    reads_rotation = False


class SteepAtZero(Loss):
    def compare(self, pose, target, progress):
        cosine = ((self.predicted_rotation(pose) * self.mate(pose.rotation, target)).sum((1, 2)) - 1) / 2
        return LossOutput({"angle": cosine.arccos()})


class Unlearnable(Geodesic):
    def compare(self, pose, target, progress):
        output = super().compare(pose, target, progress)
        return LossOutput({name: values.detach() + 0 * pose.raw.sum(1) for name, values in output.terms.items()})


class Shaken(Loss):
    def compare(self, pose, target, progress):
        return LossOutput({"difference": (pose.rotation - target).abs().sum((1, 2))})


class Blind(Loss):
    def compare(self, pose, target, progress):
        return LossOutput({"difference": (pose.rotation + 0 * target).square()[:, 0].sum(1) * pose.rotation[:, 0, 1]})


class TakesAnything(Geodesic):
    def forward(self, pose, target, progress=1.0):
        return super().forward(pose, target, min(max(0.0, progress), 1.0))


class Remembers(Geodesic):
    def __init__(self, **args: Any) -> None:
        super().__init__(**args)
        self.register_buffer("mean", torch.zeros(1))


class HalfPrecisionLoss(Geodesic):
    def forward(self, pose, target, progress=1.0):
        output = super().forward(pose, target, progress)
        weight = torch.eye(len(target.rotation)) @ torch.full((len(target.rotation), 1), 1 / 3)
        return LossOutput({name: values * weight[:, 0].to(values) for name, values in output.terms.items()})


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (nn.Identity, "a subclass of cryozoo.losses.Loss, and it is none"),
        (
            AveragesTooEarly,
            "term .* of a value for each image or pair, and changing one of 8 predictions changed 8 of 8",
        ),
        (Scalar, r"term .* of \(B,\) or \(P,\) values, and it is \(\)"),
        (BareTensor, "a LossOutput with terms, and tensor"),
        (ReadsInSecret, "not to read rotations, and without them"),
        (SteepAtZero, "a gradient at .*, and it is not finite"),
        (Unlearnable, "a gradient at random predictions, and it is zero"),
        (lambda: Shaken(symmetry="D2"), "that mates under D2 are as good as the truth, and they change it by"),
        (Blind, "to tell truths apart, and others are as good"),
        (TakesAnything, "to refuse progress -0.1, and it took it"),
        (Remembers, "nothing to save without parameters, and it saves mean"),
        (HalfPrecisionLoss, "no effect of autocast"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_broken_losses_are_refused(make: Callable[[], Loss], says: str) -> None:
    loss = make()
    with pytest.raises(AssertionError, match=f"^loss {type(loss).__name__} promises {says}"):
        check_loss(loss)


def test_a_loss_with_parameters_may_save_them() -> None:
    class Learnt(Remembers):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    check_loss(Learnt())


def test_encoders_that_are_not_equivariant_are_refused() -> None:
    encoder = create_encoder("test_d4_cnn-nined_svd", image_size=24, shift=True)
    encoder.train()(torch.randn(8, 1, 24, 24, generator=torch.Generator().manual_seed(0)))
    encoder.eval()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    assert_equivariant(encoder, tolerance=1e-10)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    encoder.head = QCQPBingham(form="davenport")
    offset = torch.arange(float(encoder.backbone.num_features))
    hook = lambda module, inputs, features: features + offset.to(features)  # noqa: E731
    encoder.backbone.register_forward_hook(hook)  # type: ignore[attr-defined]
    with pytest.raises(AssertionError, match="poses that move with the image under D4, and in evaluation mode"):
        assert_equivariant(encoder)
    with pytest.raises(AssertionError, match="its group is None"):
        assert_equivariant(create_encoder("test_vgg_gem-nined_svd", image_size=24))


def test_poses_that_stay_are_refused() -> None:
    """Whatever the image, the same pose: what a network gives whose features have died."""
    encoder = create_encoder("test_d4_cnn-nined_svd", image_size=24)

    def pose(raw: Tensor, *, decode: bool = True) -> Pose:
        return Pose(torch.zeros(len(raw), 3, 3).to(raw), None, None, 0 * raw)

    encoder.pose = pose  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="poses that D4 moves, and they stay"):
        assert_equivariant(encoder.eval())


def test_the_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    check_backbone(Good)
    check_head(NineDSVD())
    check_loss(Geodesic())
    assert torch.equal(torch.rand(3), expected)
