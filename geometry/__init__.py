"""SO(3): conventions, conversions, distances, sampling, grids, point groups, alignment of pose sets."""

from .. import __version__ as __version__  # fails loudly when this folder is imported as a top-level package
from .distances import chordal_distance, geodesic_distance, quaternion_distance
from .rotations import (
    euler_to_matrix,
    gram_schmidt,
    matrix_to_euler,
    matrix_to_quaternion,
    matrix_to_rotvec,
    matrix_to_sixd,
    quaternion_to_matrix,
    rotvec_to_matrix,
    special_procrustes,
)

__all__ = [
    "chordal_distance",
    "euler_to_matrix",
    "geodesic_distance",
    "gram_schmidt",
    "matrix_to_euler",
    "matrix_to_quaternion",
    "matrix_to_rotvec",
    "matrix_to_sixd",
    "quaternion_distance",
    "quaternion_to_matrix",
    "rotvec_to_matrix",
    "special_procrustes",
]
