"""SO(3): conventions, distances, sampling, grids, point groups, alignment of pose sets."""

from .. import __version__ as __version__  # fails loudly when this folder is imported as a top-level package
from .alignment import FrameAlignment, O4Alignment, align_frames, align_o4
from .distances import chordal_distance, geodesic_distance, quaternion_distance
from .grids import healpix_directions, so3_grid
from .harmonics.wigner import WignerD, wigner_d
from .plane_groups import PlaneGroup
from .point_groups import ChanceLevel, chance_level, closest_mate, point_group, restrict, symmetric_distance
from .pose import Pose, join_poses
from .rotations import (
    davenport_matrix,
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
from .sampling import random_quaternions, random_rotations

__all__ = [
    "ChanceLevel",
    "FrameAlignment",
    "O4Alignment",
    "PlaneGroup",
    "Pose",
    "WignerD",
    "align_frames",
    "align_o4",
    "chance_level",
    "chordal_distance",
    "closest_mate",
    "davenport_matrix",
    "euler_to_matrix",
    "geodesic_distance",
    "gram_schmidt",
    "healpix_directions",
    "join_poses",
    "matrix_to_euler",
    "matrix_to_quaternion",
    "matrix_to_rotvec",
    "matrix_to_sixd",
    "point_group",
    "quaternion_distance",
    "quaternion_to_matrix",
    "random_quaternions",
    "random_rotations",
    "restrict",
    "rotvec_to_matrix",
    "so3_grid",
    "special_procrustes",
    "symmetric_distance",
    "wigner_d",
]
