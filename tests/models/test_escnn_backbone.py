"""Encoders of escnn's modules; ``make referee`` has the library, the suite only what is said where it is missing."""

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cryozoo.models.steerable import fold
from cryozoo.testing import assert_equivariant, check_backbone
from cryozoo.zoo.encoder import PoseEncoder, create_encoder
from cryozoo.zoo.pretrained import load_pretrained, save_pretrained
from cryozoo.zoo.registry import UnknownName, get_part

SMALL: dict[str, Any] = {"fields": (2, 4, 8), "depths": (1, 1, 2), "kernels": (5, 3, 3), "connected": (8,)}


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "escnn", None)
    with pytest.raises(ImportError, match=r"escnn_ backbones need escnn.*pip install 'cryozoo\[equivariant\]'"):
        create_encoder("escnn_d4_cnn-sixd_svd", image_size=64)


def test_a_group_that_has_none_is_named() -> None:
    with pytest.raises(UnknownName, match=r"'d5_cnn' is not .*; the nearest are"):
        create_encoder("escnn_d5_cnn-sixd_svd", image_size=64)


@pytest.fixture
def trained() -> PoseEncoder:
    """An encoder whose statistics and weights are no longer the first."""
    pytest.importorskip("escnn")
    torch.manual_seed(0)
    encoder = create_encoder("escnn_d4_cnn-qcqp_bingham", image_size=32, backbone_args=SMALL)
    optimiser = torch.optim.SGD(encoder.parameters(), 0.1)
    for _ in range(3):
        encoder(torch.randn(8, 1, 32, 32)).rotation[:, 0, 0].sum().backward()
        optimiser.step()
    return encoder.eval()


@pytest.mark.referee
@pytest.mark.parametrize("size", [72, 73])
@pytest.mark.parametrize("group", ["c2", "c4", "d2", "d4", "c8"])
def test_what_every_backbone_promises(group: str, size: int) -> None:
    pytest.importorskip("escnn")
    check_backbone(get_part("backbone", f"escnn_{group}_cnn").load(), image_size=size, width=0.1)


@pytest.mark.referee
def test_poses_move_with_the_image(trained: PoseEncoder) -> None:
    assert_equivariant(trained)


@pytest.mark.referee
def test_evaluation_saves_what_training_does(trained: PoseEncoder) -> None:
    """escnn's own modules have other keys then, and filters in them that no loading renews."""
    keys = list(trained.state_dict())
    assert keys == list(trained.train().state_dict())
    assert not [key for key in keys if "filter" in key or "basis" in key]
    learnt = {name for name, _ in trained.named_parameters()}
    assert all(key in learnt or ".running_" in key or "num_batches" in key for key in keys)


@pytest.mark.referee
def test_copied_saved_folded(trained: PoseEncoder, tmp_path: Path) -> None:
    """One and the same network; control: another one of its kind answers otherwise."""
    images = torch.randn(4, 1, 32, 32)
    expected = trained(images).raw
    save_pretrained(trained, tmp_path / "model")
    loaded = load_pretrained(f"local-dir:{tmp_path / 'model'}")
    plain = fold(trained)
    assert not [m for m in plain.modules() if type(m).__module__.startswith("escnn")]
    for other in (copy.deepcopy(trained), loaded, plain):
        torch.testing.assert_close(other(images).raw, expected, atol=1e-5, rtol=0)
    fresh = create_encoder(trained.name, image_size=32, backbone_args=SMALL).eval()
    assert float((fresh(images).raw - expected).detach().abs().max()) > 0.1
