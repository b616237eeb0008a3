import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import integrate
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryozoo.geometry import (
    chance_level,
    closest_mate,
    euler_to_matrix,
    geodesic_distance,
    point_group,
    random_rotations,
    restrict,
    symmetric_distance,
)

ORDERS = {"C1": 1, "C2": 2, "C3": 3, "C7": 7, "C31": 31, "D1": 2, "D2": 4, "D3": 6, "D7": 14, "T": 12, "O": 24}
ORDERS |= {"I": 60, "I1": 60, "I2": 60, "I3": 60, "I4": 60}
EYE = torch.eye(3, dtype=torch.float64)


def _random(n: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return random_rotations(n, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _contains(group: Tensor, elements: Tensor, tolerance: float = 1e-13) -> bool:
    return bool(((elements[:, None] - group).abs().amax((-2, -1)).amin(1) < tolerance).all())


def _turn(fold: int, axis: list[float]) -> Tensor:
    unit = np.array(axis) / np.linalg.norm(axis)
    return torch.from_numpy(Rotation.from_rotvec(unit * 2 * np.pi / fold).as_matrix())[None]


@pytest.mark.parametrize("name", ORDERS)
def test_is_a_group_of_rotations(name: str) -> None:
    group = point_group(name)
    assert group.dtype == torch.float64
    assert group.shape == (ORDERS[name], 3, 3)
    assert torch.equal(group[0], EYE)
    assert (group.mT @ group - EYE).abs().max() < 1e-14
    assert (torch.linalg.det(group) - 1).abs().max() < 1e-14
    distance = (group[:, None] - group).abs().amax((-2, -1)) + torch.eye(len(group))
    assert distance.min() > 0.1 / len(group)  # no element twice
    assert _contains(group, (group[:, None] @ group).flatten(0, 1))
    assert _contains(group, group.mT)


@pytest.mark.parametrize(
    ("name", "angles"),
    [
        ("C7", {0: 1, 51.43: 2, 102.86: 2, 154.29: 2}),
        ("D2", {0: 1, 180: 3}),
        ("D7", {0: 1, 51.43: 2, 102.86: 2, 154.29: 2, 180: 7}),
        ("T", {0: 1, 120: 8, 180: 3}),
        ("O", {0: 1, 90: 6, 120: 8, 180: 9}),
        *[(name, {0: 1, 72: 12, 120: 20, 144: 12, 180: 15}) for name in ("I", "I1", "I2", "I3", "I4")],
    ],
)
def test_rotation_angles(name: str, angles: dict[float, int]) -> None:
    found = np.degrees(Rotation.from_matrix(point_group(name).numpy()).magnitude()).round(2)
    assert Counter(found.tolist()) == angles


# The axes of RELION, given in its own source with these digits; for I they are redundant (three generators).
RELION_AXES: dict[str, list[tuple[int, list[float]]]] = {
    "C5": [(5, [0, 0, 1])],
    "D7": [(7, [0, 0, 1]), (2, [1, 0, 0])],
    "T": [(3, [0, 0, 1]), (2, [0, 0.816496, 0.577350])],
    "O": [(3, [1, 1, 1]), (4, [0, 0, 1])],
    "I": [(2, [0, 0, 1]), (5, [0.525731114, 0, 0.850650807]), (3, [0, 0.356822076, 0.934172364])],
    "I1": [(2, [1, 0, 0]), (5, [0.850650807, 0, -0.5257311143]), (3, [0.934172364, 0.3568220765, 0])],
    "I3": [
        (2, [-0.5257311143, 0, 0.850650807]),
        (5, [0, 0, 1]),
        (3, [-0.491123478, 0.356822076, 0.7946544754]),
    ],
    "I4": [
        (2, [0.5257311143, 0, 0.850650807]),
        (5, [0.894427193, 0, 0.447213591]),
        (3, [0.491123478, 0.356822076, 0.7946544754]),
    ],
}


@pytest.mark.parametrize("name", RELION_AXES)
def test_axes_are_those_of_relion(name: str) -> None:
    for fold, axis in RELION_AXES[name]:
        assert _contains(point_group(name), _turn(fold, axis), 2e-6)


@pytest.mark.parametrize(
    ("small", "large"),
    [("C3", "C6"), ("C7", "D7"), ("D2", "D4"), ("D1", "D5"), ("D4", "O"), ("D2", "O"), ("C3", "T"), ("C2", "I")]
    + [("D2", "I2"), ("D2", "I1"), ("C5", "I3"), ("C5", "I4")],
)
def test_subgroups(small: str, large: str) -> None:
    assert _contains(point_group(large), point_group(small))
    assert not _contains(point_group(small), point_group(large))


def test_icosahedral_settings_are_turned_versions_of_one_another() -> None:
    i2 = point_group("I2")
    assert torch.equal(i2, point_group("i"))
    for name, degrees in (("I1", 90), ("I3", -31.7174744), ("I4", 31.7174744)):
        turn = torch.from_numpy(Rotation.from_euler("y", degrees, degrees=True).as_matrix())
        assert _contains(point_group(name), turn @ i2 @ turn.T, 1e-8)
        assert not _contains(point_group(name), i2)
    assert not _contains(point_group("I3"), point_group("I4"))


@pytest.mark.parametrize("name", ["", "C", "C0", "D-1", "I5", "Oh", "C1000", "X2", "Cs", "C2v", " C2"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected Cn, Dn"):
        point_group(name)


def _relion_group(name: str, folder: Path) -> Tensor:
    command = ["relion_refine", "--print_symmetry_ops", "--sym", name, "--o", str(folder / "run")]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    number = r"\s+(\S+)"
    found = re.findall(r"R\(\d+\)=" + number * 9, text)
    return torch.tensor([[float(x) for x in match] for match in found], dtype=torch.float64).reshape(-1, 3, 3)


@pytest.mark.referee
@pytest.mark.skipif(shutil.which("relion_refine") is None, reason="relion_refine is not on PATH")
@pytest.mark.parametrize(
    "name", ["C1", "C2", "C5", "C31", "D1", "D2", "D3", "D7", "T", "O", "I", "I1", "I2", "I3", "I4"]
)
def test_elements_are_those_that_relion_prints(name: str, tmp_path: Path) -> None:
    theirs, ours = _relion_group(name, tmp_path), point_group(name)
    assert len(theirs) == len(ours)
    # RELION prints five digits and knows its axes to six
    assert _contains(ours, theirs, 2e-5)
    assert _contains(theirs, ours, 2e-5)


@pytest.mark.parametrize("name", ["C1", "C4", "D2", "T", "O", "I", "I3"])
def test_symmetric_distance_and_closest_mate_against_loops(name: str) -> None:
    group = point_group(name)
    a, b = _random(40, 1), _random(40, 2)
    distance, mates = symmetric_distance(a, b, group), closest_mate(a, b, group)
    for i in range(40):
        mated = Rotation.from_matrix(b[i].numpy()) * Rotation.from_matrix(group.numpy())
        angles = (Rotation.from_matrix(a[i].numpy()).inv() * mated).magnitude()
        assert distance[i].item() == pytest.approx(angles.min(), abs=1e-13)
        assert (mates[i].numpy() == pytest.approx(mated[int(angles.argmin())].as_matrix(), abs=1e-14)) is True
    assert torch.allclose(symmetric_distance(b, a, group), distance, atol=1e-14, rtol=0)
    for g in group[:: max(1, len(group) // 5)]:
        assert (symmetric_distance(a @ g, b, group) - distance).abs().max() < 1e-13
        assert (symmetric_distance(a, a @ g, group)).max() < 1e-13
    pairwise = symmetric_distance(a[:, None].float(), b.float(), group)
    assert pairwise.shape == (40, 40)
    assert pairwise.dtype == torch.float32
    assert (pairwise.diagonal() - distance).abs().max() < 1e-6


def test_symmetry_acts_on_the_object_not_on_the_image() -> None:
    # Turning a C4 object by 90 degrees about its own axis (rot) changes nothing; turning the image (psi) does.
    angles = torch.tensor([[0.3, 1.2, 0.4], [0.3 + torch.pi / 2, 1.2, 0.4], [0.3, 1.2, 0.4 + torch.pi / 2]])
    original, turned_object, turned_image = euler_to_matrix(angles.double())
    group = point_group("C4")
    assert symmetric_distance(original, turned_object, group) < 1e-6
    assert symmetric_distance(original, turned_image, group) > 0.3


def test_symmetric_distance_gradient() -> None:
    group = point_group("O")
    a, b = _random(5, 3), _random(5, 4)
    assert torch.autograd.gradcheck(
        lambda x, y: symmetric_distance(x, y, group), (a.requires_grad_(), b.requires_grad_()), atol=1e-7
    )
    c = a.detach().clone().requires_grad_()
    symmetric_distance(c, a.detach() @ group[5], group).sum().backward()
    assert c.grad is not None
    assert c.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["C1", "C2", "C3", "D2", "D7", "T", "O", "I"])
def test_restrict(name: str, dtype: torch.dtype) -> None:
    group = point_group(name)
    tolerance = 50 * torch.finfo(dtype).eps
    rotations = _random(300, 5, dtype)
    inside = restrict(rotations, group)
    assert inside.dtype == dtype
    nearest = symmetric_distance(rotations, torch.eye(3, dtype=dtype), group)
    assert (geodesic_distance(inside, torch.eye(3, dtype=dtype)) - nearest).max() < torch.finfo(dtype).eps ** 0.5
    assert symmetric_distance(inside, rotations, group).max() < tolerance
    for g in group.to(dtype):
        assert (restrict(rotations @ g, group) - inside).abs().max() < tolerance
    assert (restrict(inside, group) - inside).abs().max() < tolerance


@pytest.mark.parametrize("name", ["C2", "C3", "D2", "D7", "T", "O", "I"])
def test_restrict_on_the_border_does_not_depend_on_the_mate(name: str) -> None:
    # Halfway to any element of the group is equally far from the identity and from that element.
    group = point_group(name)
    rotvecs = Rotation.from_matrix(group[1:].numpy()).as_rotvec()
    halfway = torch.from_numpy(Rotation.from_rotvec(rotvecs / 2).as_matrix())
    inside = restrict(halfway, group)
    noise = torch.from_numpy(Rotation.random(len(group), rng=np.random.default_rng(0)).as_matrix())
    for g, turn in zip(group, noise, strict=True):
        noisy = turn.T @ (turn @ halfway @ g)  # the same rotation, rounded differently
        assert (restrict(noisy, group) - inside).abs().max() < 1e-13


def _chance_cyclic(n: int) -> float:
    """cos(d / 2) = c cos(a / 2) with c^2 uniform in [0, 1] (tilt) and a uniform in [-pi / n, pi / n] (in plane)."""

    def distance(a: float, squared: float) -> float:
        return 2 * np.arccos(np.sqrt(squared) * np.cos(a / 2))

    return integrate.dblquad(distance, 0, 1, 0, np.pi / n)[0] * n / np.pi


def test_chance_level_of_cyclic_groups_is_the_integral() -> None:
    assert _chance_cyclic(1) == pytest.approx(np.pi / 2 + 2 / np.pi, abs=1e-7)
    for n in (1, 2, 3, 4, 9):
        found = chance_level(point_group(f"C{n}"))
        assert np.degrees(found.mean) == pytest.approx(np.degrees(_chance_cyclic(n)), abs=0.003)
    median = chance_level(point_group("C1")).median
    assert (median - np.sin(median)) / np.pi == pytest.approx(0.5, abs=2e-4)


@pytest.mark.parametrize(
    ("name", "field", "tolerance"),
    # the field's tables; they were drawn at random, and the first is off by half a degree (see above)
    [("C1", 127.0, 0.6), ("C2", 102.4, 0.15), ("C3", 96.2, 0.1), ("D2", 75.4, 0.3), ("D7", 59.5, 0.15)]
    + [("O", 40.7, 0.05), ("I", 29.5, 0.05), ("I3", 29.5, 0.05)],
)
def test_chance_level_against_scipy_and_the_literature(name: str, field: float, tolerance: float) -> None:
    found = chance_level(point_group(name))
    assert np.degrees(found.mean) == pytest.approx(field, abs=tolerance)
    reference = Rotation.create_group("C1" if name == "C1" else name[0] if name[0] in "TOI" else name)
    draws = np.degrees(Rotation.random(20_000, rng=np.random.default_rng(0)).reduce(right=reference).magnitude())
    error = 4 * draws.std() / len(draws) ** 0.5
    assert np.degrees(found.mean) == pytest.approx(draws.mean(), abs=error)
    assert np.degrees(found.median) == pytest.approx(np.median(draws), abs=2 * error)
