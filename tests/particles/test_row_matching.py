"""Rows of two tables that are of the same image, in every way in which their names can differ."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryozoo.particles.errors import BadInput, BadInputWarning
from cryozoo.particles.poses import PoseTable
from cryozoo.particles.row_matching import matched_poses
from cryozoo.particles.table import ParticleTable

ROTATION = Rotation.random(6, rng=np.random.default_rng(0)).as_matrix()
ORDER = np.array([3, 0, 5, 1, 2, 4])


def table(*names: str) -> ParticleTable:
    """Six particles, in the files named ``names``, in turn."""
    n = np.arange(6)
    return ParticleTable(Path("particles.star"), 6, files=names, file=n % len(names), index=n // len(names))


def poses(particles: ParticleTable | None) -> PoseTable:
    return PoseTable(ROTATION, particles=particles, source="poses.star")


def matched(given: PoseTable, wanted: ParticleTable | None) -> np.ndarray:
    return matched_poses(given, wanted, 6, "particles.star").rotation


@pytest.mark.parametrize(
    ("wanted", "known"),
    [
        (["a.mrcs"], ["a.mrcs"]),
        (["sub/a.mrcs"], ["a.mrcs"]),
        (["a.mrcs", "b.mrcs"], ["job1/a.mrcs", "/job2/b.mrcs"]),
        (["one/a.mrcs", "two/a.mrcs"], ["one/a.mrcs", "two/a.mrcs"]),
    ],
)
def test_names_decide(wanted, known):
    np.testing.assert_array_equal(matched(poses(table(*known)), table(*wanted).subset(ORDER)), ROTATION[ORDER])
    np.testing.assert_array_equal(matched(poses(table(*known)), table(*wanted)), ROTATION)


@pytest.mark.parametrize(
    ("wanted", "known"),
    [
        (["a.mrcs"], ["c.mrcs"]),
        (["a.mrcs", "b.mrcs"], ["one/a.mrcs", "two/a.mrcs"]),
        (["one/a.mrcs", "two/a.mrcs"], ["three/a.mrcs", "four/a.mrcs"]),
    ],
)
def test_names_without_anything_in_common(wanted, known):
    with pytest.warns(
        BadInputWarning, match=r"poses\.star: names no image .* rows of the same number .*particles\.star"
    ):
        found = matched(poses(table(*known)), table(*wanted).subset(ORDER))
    np.testing.assert_array_equal(found, ROTATION)


@pytest.mark.parametrize(("wanted", "known"), [(None, table("a.mrcs")), (table("a.mrcs"), None), (None, None)])
def test_without_names_rows_go_by_number(wanted, known):
    np.testing.assert_array_equal(matched(poses(known), wanted), ROTATION)


def test_an_image_in_several_rows():
    """Of a table with itself; of the table with one pose for both; but not of one that leaves a choice."""
    twice = replace(table("a.mrcs"), index=np.arange(6) // 2)
    np.testing.assert_array_equal(matched(poses(twice), twice), ROTATION)
    np.testing.assert_array_equal(matched(poses(table("a.mrcs")), twice), ROTATION[np.arange(6) // 2])
    with pytest.raises(BadInput, match=r"poses\.star: 1@a\.mrcs in several rows; expected one row for every image, or"):
        matched(poses(twice), twice.subset(ORDER))


def test_images_without_a_pose():
    few = PoseTable(ROTATION[:5], particles=table("sub/a.mrcs").subset(np.arange(5)), source="poses.star")
    with pytest.raises(
        BadInput, match=r"poses\.star, row 6 of particles\.star: no row for 6@a\.mrcs; expected one for"
    ):
        matched(few, table("a.mrcs"))
    with pytest.raises(BadInput, match=r"5 poses; expected 6 as in particles\.star, or the same image names"):
        matched(few, table("c.mrcs"))
