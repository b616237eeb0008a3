"""Image2Sphere (Klee et al. 2023, ICLR): the map of a residual network, put on a sphere, becomes functions on SO(3).

``image2sphere_<architecture of timm>``, as a peer: CESPED and CryoPARES have it. e3nn and timm are imported when one is
asked for. Its last SO(3) convolution, to the coefficients of a density, is the encoder's linear layer.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..geometry.constants import Constants
from ..geometry.grids import healpix_directions
from ._shape import unsaved
from .timm_backbone import TimmBackbone, import_timm

_INSTALL = "pip install 'cryozoo[image2sphere]'"
_STRIDE = 8  # pixels of the image for one of the map


class Image2Sphere(Constants):
    """Feature map, seen as the visible half of a sphere; harmonics; S2 convolution to SO(3); a ReLU there.

    Args:
        arch: timm's name of a network that can keep a map of an eighth of the image, such as ``resnet18``.
        image_size: pixels, 32 or more.
        in_chans: channels of the image.
        lmax: highest degree.
        channels: of the map, when it is put on the sphere.
        filters: functions on SO(3).
        resolution: of e3nn's grid, on which the ReLU sees them; more than ``lmax``.

    Attributes:
        num_features: filters times the coefficients of each.
        group: None; a turned image gives a turned function on SO(3) but for the pixels of the map.

    Raises:
        ImportError: e3nn or timm is missing or broken.
        ValueError: the architecture keeps no such map.
    """

    group: str | None = None
    harmonics: Tensor
    places: Tensor

    def __init__(
        self,
        arch: str,
        image_size: int,
        in_chans: int = 1,
        *,
        lmax: int = 6,
        channels: int = 128,
        filters: int = 8,
        resolution: int = 8,
    ) -> None:
        super().__init__()
        e3nn = _import_e3nn()
        if not (2 <= lmax < resolution <= 32 and image_size >= 32):
            found = f"lmax {lmax}, resolution {resolution} and images of {image_size} pixels"
            raise ValueError(f"{found}, expected 2 <= lmax < resolution <= 32, and 32 pixels or more")
        try:
            options: dict[str, Any] = {"num_classes": 0, "global_pool": "", "output_stride": _STRIDE}
            self.encoder = import_timm().create_model(arch, in_chans=in_chans, **options)
            width = self.encoder.num_features
        except (TypeError, NotImplementedError, AssertionError) as error:
            raise ValueError(f"{arch} keeps no map of an eighth of the image ({error}); resnet18 does") from error
        self.to_sphere = nn.Conv2d(width, channels, 1)
        points = healpix_directions(3).float()
        points, degrees = points[points[:, 2] > 0], list(range(lmax + 1))
        harmonics = e3nn.o3.spherical_harmonics(degrees, points, normalize=True, normalization="component")
        # Weighed by the cosine of the angle to the viewing direction, which at the rim is 0.
        self.set_constants(harmonics=points[:, 2:] * harmonics / len(points), places=points[None, :, None, :2])
        self.filters = nn.Parameter(torch.randn(channels, filters, (lmax + 1) ** 2))
        self.degrees = [2 * degree + 1 for degree in degrees]
        self.activation = e3nn.nn.SO3Activation(lmax, lmax, torch.relu, resolution)
        unsaved(self.activation)
        self.num_features = filters * sum(n**2 for n in self.degrees)

    @staticmethod
    def names() -> list[str]:
        """All architectures of timm."""
        return TimmBackbone.names()

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_chans, L, L) -> features (B, num_features)."""
        seen = self.to_sphere(self.encoder(images))
        on_sphere = F.grid_sample(seen.float(), self.places.expand(len(seen), -1, -1, -1), align_corners=False)
        on_sphere = (on_sphere.squeeze(3) @ self.harmonics).split(self.degrees, 2)
        filters = (self.filters / len(self.filters) ** 0.5).split(self.degrees, 2)
        # F(R) = <x, D(R) psi>, of which a turned x gives the turned function
        products = [torch.einsum("bcm,con->bomn", x, psi).flatten(2) for x, psi in zip(on_sphere, filters, strict=True)]
        return self.activation(torch.cat(products, 2)).flatten(1)


def _import_e3nn() -> ModuleType:
    try:
        import e3nn
        import e3nn.nn
        import e3nn.o3
    except Exception as error:
        found = f"({type(error).__name__}: {error})"
        raise ImportError(f"image2sphere_ backbones need e3nn, which cannot be imported {found}: {_INSTALL}") from error
    return e3nn
