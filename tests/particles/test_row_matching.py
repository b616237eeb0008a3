"""Rows of two tables that are of the same image, in every way in which their names can differ."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryozoo.particles.errors import BadInput, BadInputWarning
from cryozoo.particles.poses import PoseTable
from cryozoo.particles.row_matching import matched_poses
from cryozoo.particles.star import StarBlock, StarFile
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
    return matched_poses(given, wanted, 6, "particles.star").poses.rotation


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
        BadInputWarning,
        match=r"poses\.star: the two files differ in the names .* rows of the same number .*particles\.star",
    ):
        found = matched(poses(table(*known)), table(*wanted).subset(ORDER))
    np.testing.assert_array_equal(found, ROTATION)


@pytest.mark.parametrize(("wanted", "known"), [(None, table("a.mrcs")), (table("a.mrcs"), None), (None, None)])
def test_without_names_rows_go_by_number(wanted, known):
    with pytest.warns(BadInputWarning, match=r"no names of particles in common: rows of the same number are taken"):
        np.testing.assert_array_equal(matched(poses(known), wanted), ROTATION)


def test_poses_that_are_from_no_file_go_by_number():
    """Who made them in memory knows what they are of."""
    np.testing.assert_array_equal(matched(PoseTable(ROTATION), table("a.mrcs")), ROTATION)


def test_an_image_in_several_rows():
    """Of a table with itself; of the table with one pose for both; but not of one that leaves a choice."""
    twice = replace(table("a.mrcs"), index=np.arange(6) // 2)
    np.testing.assert_array_equal(matched(poses(twice), twice), ROTATION)
    np.testing.assert_array_equal(matched(poses(table("a.mrcs")), twice), ROTATION[np.arange(6) // 2])
    with pytest.raises(BadInput, match=r"poses\.star: 1@a\.mrcs in several rows; expected one row for every particle"):
        matched(poses(twice), twice.subset(ORDER))


def test_images_without_a_pose():
    rows = np.array([5, 3, 0])
    few = PoseTable(ROTATION[rows], particles=table("sub/a.mrcs").subset(rows), source="poses.star")
    with pytest.warns(
        BadInputWarning, match=r"no pose, by the names .*: left out \(3 times, first: row 2 of particles"
    ):
        found = matched_poses(few, table("a.mrcs"), 6, "particles.star")
    assert found.rows.tolist() == [0, 3, 5]
    np.testing.assert_array_equal(found.poses.rotation, ROTATION[[0, 3, 5]])
    with pytest.raises(BadInput, match=r"3 poses; expected 6 as in particles\.star, or names of the same images"):
        matched(few, table("c.mrcs"))


def cryosparc(uid: list[int]) -> ParticleTable:
    fields = np.zeros(len(uid), dtype=[("uid", "u8")])
    fields["uid"] = uid
    return ParticleTable(Path("particles.cs"), len(uid), origin=fields)


def relion(**columns: Any) -> ParticleTable:
    block = StarBlock.from_columns("particles", {f"rln{name}": values for name, values in columns.items()})
    return ParticleTable(Path("particles.star"), len(block), origin=StarFile([block]), block="particles")


MICROGRAPHS = {"MicrographName": ["a", "a", "b", "b", "c", "c"], "CoordinateX": [1.5, 2, 3, 4, 5, 5]}


@pytest.mark.parametrize(
    "particles",
    [
        cryosparc([90, 12, 55, 3, 2**63, 7]),
        relion(TomoParticleName=[f"TS_01/{k}" for k in range(6)]),
        relion(**MICROGRAPHS, CoordinateY=[9, 9, 9, 9, 9, 8]),
        relion(ParticleName=[f"p{k}" for k in range(6)]),
        relion(TomoName=list("aabbcc"), CoordinateX=[1] * 6, CoordinateY=[1] * 6, CoordinateZ=[1, 2, 1, 2, 1, 2]),
    ],
)
def test_other_names_of_particles(particles):
    np.testing.assert_array_equal(matched(poses(particles), particles.subset(ORDER)), ROTATION[ORDER])


def test_places_that_several_particles_share_name_none():
    particles = relion(**MICROGRAPHS, CoordinateY=[9, 9, 9, 9, 9, 9])
    with pytest.raises(BadInput, match=r"poses\.star: 5\.0, 9\.0 of c in several rows"):
        matched(poses(particles), particles.subset(ORDER))


def test_micrographs_in_another_folder():
    own = relion(**MICROGRAPHS, CoordinateY=range(6))
    moved = relion(**MICROGRAPHS | {"MicrographName": [f"job002/{m}" for m in "aabbcc"]}, CoordinateY=range(6))
    np.testing.assert_array_equal(matched(poses(own), moved.subset(ORDER)), ROTATION[ORDER])


@pytest.mark.parametrize("order", [np.arange(6), ORDER])
def test_particles_that_were_picked_anew_are_numbered_anew(order):
    """Half of the places are others, and files and numbers are called the same: places decide."""
    known = relion(**MICROGRAPHS, CoordinateY=[9, 9, 9, 9, 9, 8], ImageName=[f"{k}@job3/a.mrcs" for k in range(1, 7)])
    known = replace(known, files=("job3/a.mrcs",), file=np.zeros(6, dtype=np.int64), index=np.arange(6))
    block = known.origin.blocks["particles"].with_columns({"rlnCoordinateX": np.array([1.5, 77, 3, 78, 5, 79])})
    wanted = replace(known, files=("job9/a.mrcs",), origin=StarFile([block])).subset(order)
    with pytest.warns(BadInputWarning, match=r"no pose, by places on micrographs: left out \(3 times"):
        found = matched_poses(poses(known), wanted, 6, "particles.star")
    np.testing.assert_array_equal(order[found.rows] % 2, 0)
    np.testing.assert_array_equal(found.poses.rotation, ROTATION[order[found.rows]])


def test_row_numbers_as_uid_name_nothing():
    """As tables made here have them: two such of different origin have the same numbers."""
    with pytest.warns(BadInputWarning, match="rows of the same number"):
        np.testing.assert_array_equal(
            matched(poses(cryosparc([1, 2, 3, 4, 5, 6])), cryosparc([9, 8, 7, 6, 5, 4])), ROTATION
        )


def test_names_of_images_go_before_uid_and_spellings_are_one_name():
    particles = replace(table("sub/../a.mrcs"), origin=cryosparc([6, 5, 4, 3, 2, 9]).origin)
    other = replace(table("./a.mrcs").subset(ORDER), origin=cryosparc([60, 5, 4, 3, 2, 9]).origin)
    np.testing.assert_array_equal(matched(poses(particles), other), ROTATION[ORDER])
