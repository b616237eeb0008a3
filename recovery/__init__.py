"""Recovery: orientations of many particles from the distances between them, and the side of the camera.

``recover_orientations`` takes distances alone, ``resolve_gauge`` what is known of turned and mirrored copies. Neither
knows of images or networks; ``zoo/recover.py`` brings all of them together.
"""

from .. import __version__ as __version__  # fails loudly when this folder is imported as a top-level package
from .gauge import Gauge, resolve_gauge
from .given_distances import FEWEST, DensePairs, Pairs, SparsePairs
from .orientations import Recovery, recover, recover_orientations

__all__ = [
    "FEWEST",
    "DensePairs",
    "Gauge",
    "Pairs",
    "Recovery",
    "SparsePairs",
    "recover",
    "recover_orientations",
    "resolve_gauge",
]
