import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryozoo.geometry.plane_groups import PlaneGroup, phi

NAMES = ["C1", "C2", "C3", "C4", "C8", "C12", "C64", "D1", "D2", "D4", "D5", "D8"]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_group(name: str) -> None:
    group = PlaneGroup(name)
    order = int(name[1:]) * (2 if name[0] == "D" else 1)
    assert len(group) == order == len(group.matrices)
    distance = (group.matrices[:, None] - group.matrices).abs().amax((-2, -1))
    assert float((distance + torch.eye(order)).min()) > 1e-3  # all different
    products = group.matrices[:, None] @ group.matrices
    torch.testing.assert_close(group.matrices[group.table], products, atol=1e-14, rtol=0)
    torch.testing.assert_close(group.matrices[group.inverse], group.matrices.mT, atol=1e-14, rtol=0)
    # A Latin square: every element once in each row and column.
    for lines in (group.table, group.table.T):
        assert torch.equal(lines.sort(1).values, torch.arange(order).expand(order, order))
    assert torch.equal(group.table[0], torch.arange(order))


@pytest.mark.parametrize("name", NAMES)
def test_elements_are_scipys_rotations_and_then_their_flips(name: str) -> None:
    group, rotations = PlaneGroup(name), int(name[1:])
    turns = Rotation.from_euler("z", np.arange(rotations)[:, None] * 2 * np.pi / rotations).as_matrix()
    np.testing.assert_allclose(group.phi[:rotations], turns, atol=1e-14)
    np.testing.assert_allclose(group.matrices[:rotations], turns[:, :2, :2], atol=1e-14)
    if name[0] == "D":
        # Mirroring y within the plane is half a turn about x in space.
        half_turn = Rotation.from_euler("x", np.pi).as_matrix()
        np.testing.assert_allclose(group.phi[rotations:], turns @ half_turn, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_phi_is_a_homomorphism_into_rotations(name: str) -> None:
    group = PlaneGroup(name)
    products = torch.einsum("aij,bjk->abik", group.phi, group.phi)
    torch.testing.assert_close(group.phi[group.table], products, atol=1e-14, rtol=0)
    torch.testing.assert_close(torch.linalg.det(group.phi), torch.ones(len(group), dtype=torch.float64))
    assert phi(group.matrices.float().reshape(-1, 1, 2, 2)).shape == (len(group), 1, 3, 3)


@pytest.mark.parametrize("name", ["C2", "C4", "D1", "D4", "C8", "D12"])
def test_right_angles_are_integers(name: str) -> None:
    group, rotations = PlaneGroup(name), int(name[1:])
    right = (torch.arange(len(group)) % rotations) * 4 % rotations == 0
    assert torch.equal(group.matrices[right], group.matrices[right].round())
    assert not torch.equal(group.matrices[~right], group.matrices[~right].round()) or bool(right.all())
    assert group.exact == (rotations in (1, 2, 4))


@pytest.mark.parametrize("name", ["", "D", "4", "C0", "C04", "C-4", "C65", "C100", "d4", "D4 ", "D4\n", "O2", "C4.0"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected C or D and a number of rotations up to 64"):
        PlaneGroup(name)
