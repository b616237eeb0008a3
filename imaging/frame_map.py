"""The map in whose frame an encoder answers, small enough to travel with the weights."""

from __future__ import annotations

import math

from .extent import measure_extent
from .fourier import crop_or_zero_pad
from .volumes import Volume

_ROOM = 1.1  # diameters along an edge


def make_frame_map(volume: Volume, pixel_size: float) -> Volume:
    """A map no finer than images show it whose pixels are ``pixel_size`` Angstrom wide, in a box about the molecule.

    Its origin is that of ``volume``; its values are numbers of half precision, the largest of them 1.
    """
    size = 2 * math.ceil(volume.size * volume.pixel_size / pixel_size / 2)
    coarse = volume.coarsen(size) if size < volume.size else volume
    # Of an atomic model, too, what is seen, which a few atoms farther out are not.
    diameter = measure_extent(Volume(coarse.data, coarse.pixel_size)).diameter
    box = 2 * math.ceil(_ROOM * diameter / coarse.pixel_size / 2)
    data = crop_or_zero_pad(coarse.data, min(box, coarse.size))
    return Volume((data / data.abs().max()).half().float(), coarse.pixel_size)
