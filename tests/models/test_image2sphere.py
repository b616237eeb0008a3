"""Image2Sphere of e3nn and timm; ``make referee`` has e3nn, the suite only what is said where it is missing."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cryozoo.testing import check_backbone
from cryozoo.zoo.encoder import create_encoder
from cryozoo.zoo.pretrained import load_pretrained, save_pretrained
from cryozoo.zoo.registry import get_part

SMALL: dict[str, Any] = {"lmax": 3, "channels": 8, "filters": 2, "resolution": 4}
NAME = "image2sphere_test_resnet-so3_harmonic"


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "e3nn", None)
    with pytest.raises(ImportError, match=r"image2sphere_ backbones need e3nn.*pip install 'cryozoo\[image2sphere\]'"):
        create_encoder(NAME, image_size=64)


@pytest.mark.referee
def test_what_every_backbone_promises() -> None:
    pytest.importorskip("e3nn")
    make = get_part("backbone", "image2sphere_resnet10t").load()

    def begun(*args: Any, **more: Any) -> torch.nn.Module:
        """timm's residual branches begin at zero, where nothing before them has a gradient."""
        backbone = make(*args, **more)
        with torch.no_grad():
            for parameter in backbone.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return backbone

    check_backbone(begun, image_size=64, **SMALL)


@pytest.mark.referee
def test_turned_functions_on_the_sphere_give_turned_functions_of_rotations() -> None:
    """By e3nn's Wigner-D matrices, with what the network puts on the sphere replaced; control: without turning."""
    o3 = pytest.importorskip("e3nn.o3")
    backbone = get_part("backbone", "image2sphere_test_resnet").load()(64, **{**SMALL, "resolution": 12})
    spheres = torch.randn(2, 8, 16)
    turn = o3.rand_matrix()
    degrees = range(4)
    wigner = torch.block_diag(*(o3.Irrep(degree, 1).D_from_matrix(turn) for degree in degrees))
    acting = torch.block_diag(*(torch.kron(o3.Irrep(d, 1).D_from_matrix(turn), torch.eye(2 * d + 1)) for d in degrees))

    def of(x: torch.Tensor) -> torch.Tensor:
        """What follows the sphere: its harmonics are made the identity, so that x is what is put there."""
        backbone.harmonics = torch.eye(16)
        backbone.encoder, backbone.to_sphere = torch.nn.Identity(), torch.nn.Identity()
        backbone.places = torch.stack([torch.linspace(-1, 1, 33)[1::2], torch.zeros(16)], 1)[None, :, None]
        return backbone(x[:, :, None]).view(2, 2, -1)

    with torch.no_grad():
        expected, found = of(spheres) @ acting.T, of(spheres @ wigner.T)
    assert float((found - expected).abs().max()) < 0.02 * float(expected.abs().max())
    assert float((found - of(spheres)).detach().abs().max()) > 0.2 * float(expected.abs().max())


@pytest.mark.referee
def test_saved_and_read(tmp_path: Path) -> None:
    """Tables of grids are not saved."""
    pytest.importorskip("e3nn")
    torch.manual_seed(0)
    encoder = create_encoder(NAME, image_size=64, backbone_args=SMALL, head_args={"lmax": 3}).eval()
    images = torch.randn(3, 1, 64, 64)
    save_pretrained(encoder, tmp_path / "model")
    again = load_pretrained(f"local-dir:{tmp_path / 'model'}")
    torch.testing.assert_close(again(images).raw, encoder(images).raw, atol=1e-5, rtol=0)
    assert not [name for name in encoder.state_dict() if "grid" in name]


@pytest.mark.referee
def test_what_it_cannot_be_is_refused() -> None:
    pytest.importorskip("e3nn")
    with pytest.raises(ValueError, match="keeps no map of an eighth"):
        create_encoder("image2sphere_test_vit-so3_harmonic", image_size=64)
    with pytest.raises(ValueError, match="resolution 4"):
        create_encoder(NAME, image_size=64, backbone_args={"resolution": 4})
