"""The label algebra of augmentation, against the simulator: transformed images are projections at transformed poses."""

import math

import pytest
import roma
import torch
import torch.nn.functional as F
from torch import Tensor

from cryozoo.geometry.plane_groups import PlaneGroup, phi
from cryozoo.geometry.pose import Pose
from cryozoo.imaging.batch import Batch
from cryozoo.imaging.inplane import augment_d4, augment_rotate, transform_d4, transform_pose, turn
from cryozoo.imaging.projector import Projector
from cryozoo.imaging.simulate import inscribed_circle
from cryozoo.imaging.volumes import Volume
from cryozoo.particles.ctf import make_ctf


def correlation(a: Tensor, b: Tensor) -> Tensor:
    a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def scene(size: int, n: int) -> tuple[Projector, Pose, Tensor, Tensor]:
    torch.manual_seed(0)
    projector = Projector(Volume.phantom(size=size, pixel_size=2.0))
    pose = Pose(roma.random_rotmat(n), 4.0 * torch.randn(n, 2))
    assert pose.rotation is not None
    return projector, pose, projector(pose.rotation, pose.shift), inscribed_circle(size - 2 + size % 2)


@pytest.mark.parametrize("size", [40, 41])
@pytest.mark.parametrize("element", range(8))
def test_d4_elements_are_projections_at_transformed_poses(size: int, element: int) -> None:
    projector, pose, images, _ = scene(size, 6)
    moved = transform_pose(pose, PlaneGroup("D4").matrices.float()[element].expand(6, 2, 2))
    expected = projector(moved.rotation, moved.shift)
    torch.testing.assert_close(transform_d4(images, element), expected, atol=2e-3 * float(images.max()), rtol=0)


@pytest.mark.parametrize("size", [40, 41])
def test_seed_papers_flip_is_off_by_half_a_turn(size: int) -> None:
    """The control: pairing the y flip with the x flip's matrix, as published, does not give these images."""
    projector, pose, images, _ = scene(size, 6)
    assert pose.rotation is not None
    assert pose.shift is not None
    wrong = torch.diag(torch.tensor([-1.0, 1.0, -1.0])) @ pose.rotation
    flipped = transform_d4(images, 4)
    mirrored = pose.shift * torch.tensor([1.0, -1.0])
    assert correlation(flipped.flatten(1), projector(wrong, mirrored).flatten(1)).mean() < 0.8


def test_phi_is_a_homomorphism_into_rotations() -> None:
    planes = PlaneGroup("D4").matrices.float()
    for a in planes:
        torch.testing.assert_close(torch.linalg.det(phi(a)), torch.tensor(1.0))
        for b in planes:
            torch.testing.assert_close(phi(a @ b), phi(a) @ phi(b))
    assert len({tuple(p.flatten().tolist()) for p in planes}) == 8


@pytest.mark.parametrize("size", [40, 41])
@pytest.mark.parametrize("degrees", [-45.0, -20.0, 7.0, 45.0])
def test_turned_images_are_projections_at_turned_poses(size: int, degrees: float) -> None:
    projector, pose, images, _ = scene(size, 6)
    angle = torch.tensor(degrees).deg2rad()
    plane = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2).expand(6, 2, 2)
    moved = transform_pose(pose, plane)
    expected = projector(moved.rotation, moved.shift)
    assert (turn(images, angle.expand(6)) - expected).norm() < 0.02 * expected.norm()
    assert (images - expected).norm() > 0.1 * expected.norm()


def test_turned_noise_is_as_white_as_it_was() -> None:
    """The control, interpolation from neighbours, takes a quarter of its variance and most at high frequencies."""
    torch.manual_seed(0)
    noise = torch.randn(256, 32, 32)
    angle = torch.full((256,), 0.6)
    axis = torch.arange(32.0) - 16
    high = torch.hypot(*torch.meshgrid(axis, axis, indexing="ij")).round() == 14

    def power(images: Tensor) -> Tensor:
        spectrum = torch.fft.fftshift(torch.fft.fft2(images * inscribed_circle(32)), dim=(-2, -1))
        return (spectrum.abs() ** 2)[:, high].mean()

    plane = torch.tensor([[math.cos(0.6), -math.sin(0.6), 0], [math.sin(0.6), math.cos(0.6), 0]]).expand(256, 2, 3)
    grid = F.affine_grid(plane, [256, 1, 32, 32], align_corners=False)
    neighbours = F.grid_sample(noise[:, None], grid, mode="bicubic", align_corners=False)[:, 0]
    assert 0.95 < power(turn(noise, angle)) / power(noise) < 1.05
    assert power(neighbours) / power(noise) < 0.8


def test_random_augmentations_keep_images_and_poses_together() -> None:
    projector, pose, images, _ = scene(40, 32)
    torch.manual_seed(1)
    batch = Batch(images[:, None], pose)
    moved = augment_d4(batch)
    turned, target = moved.images, moved.pose
    torch.testing.assert_close(turned[:, 0], projector(target.rotation, target.shift), atol=0.01, rtol=0)
    assert not torch.equal(turned[:, 0], images)
    moved = augment_rotate(batch)
    turned, target = moved.images, moved.pose
    circle = inscribed_circle(40)
    assert correlation(turned[:, 0][:, circle], projector(target.rotation, target.shift)[:, circle]).min() > 0.999
    assert correlation(turned[:, 0][:, circle], images[:, circle]).mean() < 0.9


def test_the_axis_of_the_astigmatism_moves_along() -> None:
    """Images with an astigmatic CTF, whose tails stay in the box; the control keeps the axis."""
    projector, pose, _, _ = scene(40, 8)
    circle = inscribed_circle(40)
    ctf = make_ctf(8, defocus_u=8000.0, defocus_v=1000.0, defocus_angle=torch.linspace(0, 170, 8))
    torch.manual_seed(2)
    for augment in (augment_d4, augment_rotate):
        moved = augment(Batch(projector(pose.rotation, pose.shift, ctf)[:, None], pose, ctf))
        for optics, right in ((moved.ctf, True), (ctf, False)):
            seen = projector(moved.pose.rotation, moved.pose.shift, optics)
            found = correlation(moved.images[:, 0][:, circle], seen[:, circle])
            assert (found.min() > 0.999) == right
