"""Encoders put together from parts."""

import copy
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cryozoo.heads.nined_svd import NineDSVD
from cryozoo.imaging.preprocessing import Preprocessing
from cryozoo.imaging.simulate import Imaging, Simulator
from cryozoo.imaging.simulate_files import write_simulated_stack
from cryozoo.imaging.volumes import Volume
from cryozoo.particles.poses import PoseTable
from cryozoo.zoo import encoder as encoder_module
from cryozoo.zoo import registry
from cryozoo.zoo.encoder import PoseEncoder, create_encoder
from cryozoo.zoo.parts import BadArguments
from cryozoo.zoo.predict import predict


def test_every_combination_runs_forward_and_backward(combination: tuple[str, dict[str, float]]) -> None:
    torch.manual_seed(0)
    name, args = combination
    encoder = create_encoder(name, image_size=32, pixel_size=4.0, backbone_args=args, shift=True)
    pose = encoder(torch.randn(3, 1, 32, 32))
    assert pose.shift is not None
    assert pose.raw is not None
    assert pose.shift.shape == (3, 2)
    if encoder.head.has_rotation:
        assert pose.rotation is not None
        torch.testing.assert_close(pose.rotation @ pose.rotation.mT, torch.eye(3).expand(3, 3, 3), atol=1e-5, rtol=0)
    pose.raw.square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_with_head_shares_the_backbone_and_keeps_mode_and_shift() -> None:
    encoder = create_encoder("test_vgg_gem-quaternion", image_size=32, shift=True).eval()
    other = encoder.with_head("nined_svd")
    assert other.name == "test_vgg_gem-nined_svd"
    assert other.backbone is encoder.backbone
    assert other.has_shift
    assert not other.training
    images = torch.randn(2, 1, 32, 32)
    assert torch.equal(other.features(images), encoder.features(images))
    assert not encoder.with_head("nined_svd", shift=False).has_shift


def test_another_head_has_the_precision_of_the_first() -> None:
    encoder = create_encoder("test_vgg_gem-quaternion", image_size=32).double().with_head("sixd_svd")
    pose = encoder(torch.randn(2, 1, 32, 32, dtype=torch.float64))
    assert pose.rotation is not None
    assert pose.rotation.dtype == torch.float64


def test_encoders_have_no_state_but_what_is_saved(combination: tuple[str, dict[str, float]]) -> None:
    name, args = combination
    if name.startswith("timm"):
        pytest.skip("the backbone is timm's")
    encoder = create_encoder(name, image_size=32, backbone_args=args)
    assert {name for name, _ in encoder.named_buffers()} <= set(encoder.state_dict())


@pytest.mark.parametrize("name", ["test_vgg_gem-so3_harmonic", "test_d4_cnn-so3_harmonic"])
def test_averages_of_weights_compute_what_the_weights_do(name: str) -> None:
    torch.manual_seed(0)
    encoder = create_encoder(name, image_size=32).eval()
    images = torch.randn(3, 1, 32, 32)
    average = AveragedModel(encoder, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for _ in range(2):
        average.update_parameters(encoder)
    torch.testing.assert_close(average.eval()(images).rotation, encoder(images).rotation, atol=1e-4, rtol=0)
    # Rounded once, weights are what they are, and what they are multiplied with is not
    rounded = copy.deepcopy(encoder).bfloat16().float()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.copy_(parameter.bfloat16())
    torch.testing.assert_close(rounded(images).rotation, encoder(images).rotation, atol=1e-4, rtol=0)


def test_states_of_the_same_shapes_and_another_meaning_are_refused() -> None:
    encoder = create_encoder("test_d4_cnn-sixd_svd", image_size=32)
    state = encoder.state_dict()
    encoder.load_state_dict(state)
    encoder.load_state_dict(dict(state))  # a plain dict says nothing of what it is
    assert encoder.state_dict(destination={}).keys() == state.keys()
    other = create_encoder("test_d4_cnn-sixd_gs", image_size=32)
    with pytest.raises(RuntimeError, match=r"weights of test_d4_cnn-sixd_svd .* this is test_d4_cnn-sixd_gs"):
        other.load_state_dict(state)
    other.load_state_dict(dict(state))
    dihedral = create_encoder("c4_cnn-sixd_svd", image_size=32, backbone_args={"group": "D2", "width": 0.05})
    cyclic = create_encoder("c4_cnn-sixd_svd", image_size=32, backbone_args={"width": 0.05})
    with pytest.raises(RuntimeError, match=r"group D2.*group C4"):
        AveragedModel(cyclic).load_state_dict(AveragedModel(dihedral).state_dict())


def test_wrong_images_and_names_are_refused() -> None:
    encoder = create_encoder("test_vgg_gem-quaternion", image_size=32)
    with pytest.raises(ValueError, match="expected"):
        encoder(torch.zeros(1, 1, 31, 31))
    for wrong, message in (
        (np.zeros((1, 1, 32, 32)), r"a ndarray, expected a tensor \(B, 1, 32, 32\) of torch.float32; encoder.preproc"),
        (
            "stack.mrcs",
            r"a str, .* encoder.predict takes arrays and files",
        ),
    ):
        with pytest.raises(TypeError, match=message):
            encoder(wrong)
    for images, message in (
        (torch.zeros(32, 32), r"of shape \(32, 32\), expected a tensor \(B, 1, 32, 32\)"),
        (
            torch.zeros(2, 1, 32, 32, dtype=torch.int16),
            r"torch.int16, .*; images.to\(torch.float32\) casts",
        ),
        (torch.zeros(1, 1, 32, 32, dtype=torch.float64), r"torch.float64, its weights torch.float32; images.to"),
        (torch.zeros(1, 1, 32, 32, device="meta"), r"on meta, its weights on cpu; images.to\('cpu'\) moves them"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder(images)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match=r"torch.int16"):
        encoder(torch.zeros(1, 1, 32, 32, dtype=torch.int16))
    with torch.autocast("cpu", torch.bfloat16):
        assert encoder(torch.zeros(1, 1, 32, 32).bfloat16()).rotation is not None
    with pytest.raises(ValueError, match="width 0"):
        create_encoder("d4_cnn-sixd_svd", image_size=32, backbone_args={"width": 0})
    with pytest.raises(ValueError, match="load_pretrained"):
        create_encoder("test_vgg_gem-quaternion.tag", image_size=32)


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ({"head_args": {"shift": True, "shift_scale": 20.0}}, BadArguments, "'shift' is an argument of create_encoder"),
        ({"head_args": {"shift_scale": 20.0}}, BadArguments, "'shift_scale' is a field of a training recipe"),
        ({"head_args": {"width": 0.5}}, BadArguments, r"'width' is an argument of the backbone .* \(backbone_args\)"),
        ({"backbone_args": {"lmax": 2}}, BadArguments, r"'lmax' is an argument of the head .* \(head_args\)"),
        ({"backbone_args": {"in_chans": 2}}, BadArguments, "'in_chans' is an argument of create_encoder"),
        ({"backbone_args": {"nosuch": 2}}, BadArguments, "nosuch.*its arguments: width"),
        ({"width": 0.5}, TypeError, r"create_encoder: 'width' is an argument of the backbone .* \(backbone_args\)"),
        ({"lmax": 2}, TypeError, r"create_encoder: 'lmax' is an argument of the head .* \(head_args\)"),
        ({"nosuch": 2}, TypeError, "create_encoder: 'nosuch' is an argument of no part"),
    ],
)
def test_arguments_that_belong_elsewhere_are_told_where(args, error, message) -> None:
    with pytest.raises(error, match=message) as refused:
        create_encoder("vgg_gem_s-so3_harmonic", image_size=32, **args)
    assert "\n" not in str(refused.value)


def test_every_argument_of_an_encoder_is_known_to_belong_to_it() -> None:
    own = set(inspect.signature(create_encoder).parameters) - {"name", "backbone_args", "head_args", "misplaced"}
    assert own == set(encoder_module._ENCODER_ARGS)


def test_a_part_that_takes_any_argument_gets_those_that_others_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_PARTS", copy.deepcopy(registry._PARTS))
    registry.register_backbone("greedy", lambda size, channels, **rest: pytest.fail(f"got {rest['lmax']}"))
    with pytest.raises(pytest.fail.Exception, match="got 2"):
        create_encoder("greedy-so3_harmonic", image_size=32, backbone_args={"lmax": 2})


def test_an_encoder_without_shifts_leaves_those_of_the_table(tmp_path: Path) -> None:
    encoder = create_encoder("test_vgg_gem-sixd_gs", image_size=32, pixel_size=6.0)
    assert not predict(encoder, torch.randn(3, 32, 32)).shift.any()
    simulator = Simulator(Volume.phantom(size=32, pixel_size=6.0), Imaging(snr=1.0, shift_sigma=9.0))
    write_simulated_stack(tmp_path / "stack.mrcs", simulator, 20)
    known = PoseTable.load(tmp_path / "stack.star")
    predicted = predict(encoder, tmp_path / "stack.star")
    np.testing.assert_allclose(predicted.shift, known.shift, atol=1e-9)
    assert np.abs(known.shift).max() > 5
    assert np.abs(predicted.rotation - known.rotation).max() > 0.1


def test_a_backbone_whose_features_are_no_fields_of_its_group_is_refused() -> None:
    class Wrong(nn.Module):
        num_features, group = 12, "D4"

    with pytest.raises(ValueError, match=r"Wrong declares group D4, and 12 features are not fields of its 8 elements"):
        PoseEncoder("wrong-nined_svd", Wrong(), NineDSVD(), Preprocessing(32, 1.0), {})


def test_a_backbone_that_does_not_say_what_it_is_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_PARTS", copy.deepcopy(registry._PARTS))
    registry.register_backbone("silent", lambda size, channels: nn.Flatten())
    with pytest.raises(ValueError, match="backbone silent states no num_features"):
        create_encoder("silent-sixd_svd", image_size=32)
