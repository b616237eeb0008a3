"""Encoders put together from parts."""

import copy
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
from cryozoo.zoo import registry
from cryozoo.zoo.encoder import PoseEncoder, create_encoder
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
    with pytest.raises(ValueError, match=r"images are torch.float64, its weights torch.float32"):
        encoder(torch.zeros(1, 1, 32, 32, dtype=torch.float64))
    with torch.autocast("cpu", torch.bfloat16):
        assert encoder(torch.zeros(1, 1, 32, 32).bfloat16()).rotation is not None
    with pytest.raises(ValueError, match="width 0"):
        create_encoder("d4_cnn-sixd_svd", image_size=32, backbone_args={"width": 0})
    with pytest.raises(ValueError, match="load_pretrained"):
        create_encoder("test_vgg_gem-quaternion.tag", image_size=32)


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
