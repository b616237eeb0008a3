"""How far a molecule reaches from the centre of its box, and whether images can hold it.

Projections turn about the centre of the box, so what counts is the distance from there. What reaches beyond the box of
an image comes in again on the opposite side.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

from ..particles.errors import BadInput, BadInputWarning
from .masks import blurred, otsu_threshold
from .volumes import Volume

# Share of the molecule's voxels that its diameter holds; the others may be specks of noise.
_INSIDE = 0.999
# A molecule that fills more of the box than this has hardly room for shifts and for the spread of the CTF.
_ROOMY = 0.9
# Share of the diameter by which a molecule may be off-centre before messages mention it.
_CENTRED = 0.05


class Extent(NamedTuple):
    """How far a molecule reaches; in Angstrom.

    Attributes:
        diameter: twice the distance from the centre of the box to the molecule's outermost part.
        offset: distance of the molecule's own centre from that of the box.
    """

    diameter: float
    offset: float


def measure_extent(volume: Volume) -> Extent:
    """The extent of a molecule: of atoms exactly, of a map to a few per cent.

    A map is blurred to 15 Angstrom, or a sixteenth of its box, and parted in two as :func:`mask_from_map` does it; the
    diameter holds 99.9 % of the inside. Noise in each voxel of twice the molecule's own deviation does little harm; a
    map with more of it measures too large, unless it is masked.
    """
    if volume.reach is not None:
        return Extent(2 * volume.reach, 0.0)  # atoms are placed with their centre of mass at that of the box
    plain = Volume(volume.data.detach().cpu(), volume.pixel_size)
    density = blurred(plain, max(15.0, volume.size * volume.pixel_size / 16))
    # A map without any contrast is inside as a whole.
    positions = (density >= otsu_threshold(density)).nonzero() - volume.size // 2
    squared = positions.square().sum(dim=1)
    outermost = squared.kthvalue(math.ceil(_INSIDE * len(squared))).values.item()
    offset = positions.double().mean(dim=0).norm().item()
    return Extent(2 * math.sqrt(outermost) * volume.pixel_size, offset * volume.pixel_size)


def check_fits(volume: Volume, image_size: int, pixel_size: float, *, name: str) -> None:
    """Refuse images that cannot hold a molecule.

    Args:
        volume: the molecule.
        image_size: box of the images in pixels.
        pixel_size: Angstrom per pixel of the images.
        name: of the volume, for messages.

    Raises:
        BadInput: its diameter is larger than the box.

    Warns:
        BadInputWarning: it fills more than 0.9 of the box.
    """
    diameter, offset = measure_extent(volume)
    box = image_size * pixel_size
    if diameter <= _ROOMY * box:
        return
    found = f"a molecule of {diameter:.0f} A in images of {box:.0f} A ({image_size} pixels of {pixel_size:g} A)"
    if offset > _CENTRED * diameter:
        found += f"; it is {offset:.0f} A off the centre of its map"
    if diameter <= box:
        warnings.warn(BadInputWarning(f"{name}: {found}; that leaves little room for shifts"), stacklevel=3)
        return
    expected = f"at least {math.ceil(diameter / pixel_size)} pixels, or larger ones than {diameter / image_size:.3g} A"
    hint = "what is outside would come in again on the opposite side; allow_wrap simulates that, too"
    raise BadInput(name, found, expected=expected, hint=hint)
