"""Backbones of the timm library: features, sizes, ImageNet weights (no network), saved encoders, broken installs."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cryozoo.models.timm_backbone import TimmBackbone
from cryozoo.particles.errors import BadInput
from cryozoo.zoo.encoder import create_encoder
from cryozoo.zoo.parts import PartError
from cryozoo.zoo.pretrained import load_pretrained, save_pretrained
from cryozoo.zoo.registry import UnknownName, get_part

timm = pytest.importorskip("timm")

NAME = "timm_test_resnet-sixd_svd"


def make(arch: str, size: int, **args: Any) -> TimmBackbone:
    torch.manual_seed(0)
    return get_part("backbone", f"timm_{arch}").load()(size, 1, **args)


# A residual network, an EfficientNet, one that computes features after pooling, a transformer.
@pytest.mark.parametrize("arch", ["test_resnet", "test_efficientnet", "mobilenetv3_small_050", "test_vit"])
def test_features_and_gradients(arch: str) -> None:
    size = 80 if arch == "test_vit" else 73
    backbone = make(arch, size)
    assert backbone.training
    assert backbone.group is None
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # timm's residual branches begin at zero
    images = torch.randn(3, 1, size, size)
    features = backbone(images)
    assert features.shape == (3, backbone.num_features)
    features.square().sum().backward()
    assert not [n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]

    whole = timm.create_model(arch, in_chans=1, **({"img_size": size} if arch == "test_vit" else {}))
    missing, unexpected = whole.load_state_dict(backbone.model.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith(("classifier", "fc", "head")) for name in missing)
    with torch.no_grad():
        expected = whole.eval().forward_head(whole.forward_features(images), pre_logits=True)
        torch.testing.assert_close(backbone.eval()(images), expected)


@pytest.mark.parametrize(
    ("arch", "size", "fits"),
    [("test_vit", 72, 80), ("dla46_c", 72, 96), ("test_vit", 250, 256), ("gmlp_s16_224", 40, 48)],
)
def test_a_size_that_does_not_fit_is_refused_with_one_that_does(arch: str, size: int, fits: int) -> None:
    with pytest.raises(ValueError, match=f"{arch} takes no images of {size} pixels, {fits} would do"):
        make(arch, size)
    backbone = make(arch, fits).eval()
    assert backbone(torch.randn(1, 1, fits, fits)).shape == (1, backbone.num_features)


def test_networks_without_a_feature_vector_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", lambda *args, **more: nn.Conv2d(1, 4, 3))
    with pytest.raises(ValueError, match="test_vit gives no feature vector"):
        make("test_vit", 64)


def test_unknown_architectures_are_named() -> None:
    with pytest.raises(UnknownName, match=r"'resnt18' is not an architecture of the timm library; .*resnet18"):
        make("resnt18", 64)
    with pytest.raises(UnknownName, match="the nearest are"):
        create_encoder("timm_os-sixd_svd", image_size=64)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """``hub(arch)``: a colour network whose weights timm finds from then on where it seeks those of ImageNet."""
    from timm.models import _builder

    def serve(arch: str) -> Any:
        torch.manual_seed(1)
        colour = timm.create_model(arch)
        monkeypatch.setattr(_builder, "load_state_dict_from_hf", lambda *args, **more: dict(colour.state_dict()))
        return colour.eval()

    return serve


@pytest.mark.parametrize("arch", ["test_resnet", "test_efficientnet", "test_vit"])
def test_a_grey_image_gives_the_features_of_its_colour_version(hub: Callable[[str], Any], arch: str) -> None:
    colour = hub(arch)
    size = colour.pretrained_cfg["input_size"][-1]
    images = torch.randn(2, 1, size, size)
    with torch.no_grad():
        expected = colour.forward_head(colour.forward_features(images.expand(-1, 3, -1, -1)), pre_logits=True)
        torch.testing.assert_close(make(arch, size, pretrained=True).eval()(images), expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(make(arch, size).eval()(images), expected, rtol=0.1)


def test_weights_are_named_by_their_tag(hub: Callable[[str], Any]) -> None:
    hub("test_resnet")
    config: Any = make("test_resnet", 64, pretrained="r160_in1k").model.pretrained_cfg
    assert config["tag"] == "r160_in1k"
    with pytest.raises(RuntimeError, match="nonsense"):
        make("test_resnet", 64, pretrained="nonsense")


def test_without_a_network_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(OSError, match=r"weights of timm's test_resnet cannot be fetched .*HF_HOME.*leave pretrained"):
        make("test_resnet", 64, pretrained=True)


def forbidden(*args: Any, **more: Any) -> None:
    raise AssertionError("weights were sought on the network")


def test_saved_encoders_do_not_ask_for_imagenet_weights_again(
    hub: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from timm.models import _builder

    hub("test_resnet")
    encoder = create_encoder(NAME, image_size=48, backbone_args={"pretrained": True}).eval()
    assert encoder.config["backbone_args"] == {}
    monkeypatch.setattr(_builder, "load_state_dict_from_hf", forbidden)
    save_pretrained(encoder, tmp_path)
    loaded = load_pretrained(f"local-dir:{tmp_path}")
    images = torch.randn(2, 1, 48, 48)
    with torch.no_grad():
        raw = encoder(images).raw
        assert isinstance(raw, Tensor)
        torch.testing.assert_close(loaded(images).raw, raw, rtol=0, atol=0)

    # A control: to build it as it was first built would ask.
    with pytest.raises(PartError, match="sought"):
        create_encoder(NAME, image_size=48, backbone_args={"pretrained": True})


@pytest.mark.parametrize(
    ("field", "value", "refusal"),
    [
        ("backbone_args", {"pretrained": True}, "field backbone_args.pretrained: True; expected no weights but"),
        ("backbone_args", {"pretrained": "a1_in1k"}, "field backbone_args.pretrained"),
        ("backbone_args", {"arch": "resnet200"}, "builds no encoder"),
        ("backbone_args", {"checkpoint_path": "weights.pth"}, "builds no encoder"),
        ("name", "timm_decoy-sixd_svd", "'decoy' is not an architecture of the timm library"),
        ("name", "timm_-sixd_svd", "unknown backbone 'timm_'"),
        ("name", "timm_hf-hub:a/b-sixd_svd", "not an encoder name"),
        ("name", "timm_local.dir-sixd_svd", "not an encoder name"),
    ],
)
def test_a_strangers_configuration_reaches_no_network_and_no_module(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, field: str, value: Any, refusal: str
) -> None:
    from timm.models import _builder

    monkeypatch.setattr(_builder, "load_state_dict_from_hf", forbidden)
    monkeypatch.setattr(_builder, "load_state_dict_from_url", forbidden)
    save_pretrained(create_encoder(NAME, image_size=48), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, field: value}))
    (tmp_path / "decoy.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadInput) as refused:
        load_pretrained(f"local-dir:{tmp_path}")
    assert refusal in str(refused.value)
    assert "decoy" not in sys.modules


def test_a_broken_or_missing_timm_is_explained_and_harms_nothing_else(tmp_path: Path) -> None:
    """As beside another torch, where importing torchvision, hence timm, dies of a RuntimeError."""
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    code = f"""
import sys
import cryozoo

def refusal():
    try:
        cryozoo.create_encoder("timm_resnet18-sixd_svd", image_size=64)
    except ImportError as error:
        return str(error)

sys.path.insert(0, {str(tmp_path)!r})
for _ in range(2):
    assert "nms does not exist" in refusal() and "pip install 'cryozoo[timm]'" in refusal(), refusal()
sys.modules["timm"] = None
assert "need timm and torchvision (ModuleNotFoundError" in refusal() and "'cryozoo[timm]'" in refusal(), refusal()
assert cryozoo.list_encoders("vgg_gem-*")
cryozoo.create_encoder("test_vgg_gem-sixd_svd", image_size=32)
print("torchvision" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"
