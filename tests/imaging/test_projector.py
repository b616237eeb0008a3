"""Projections against real-space rotation and summation, and against RELION's own projections."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import roma
import scipy.ndimage
import starfile
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryozoo.imaging.projector import Projector
from cryozoo.imaging.volumes import Volume
from cryozoo.particles.ctf import make_ctf


def sum_of_rotated(volume: Tensor, rotation: Tensor) -> Tensor:
    """I(x, y) = sum over z of V(R^T (x, y, z)), by spline interpolation, origin at L // 2."""
    size = volume.shape[0]
    axis = np.arange(size) - size // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    points = np.stack([x, y, z], -1).reshape(-1, 3) @ rotation.numpy()
    values = scipy.ndimage.map_coordinates(volume.numpy(), points.T[::-1] + size // 2, order=5)
    return torch.from_numpy(values.reshape(size, size, size).sum(0))


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of each pair of images, (B,)."""
    a, b = a.flatten(1), b.flatten(1)
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def relative_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("size", [40, 41])
def test_agrees_with_rotation_and_summation(size: int) -> None:
    volume = Volume.phantom(size=size)
    torch.manual_seed(0)
    rotation = roma.random_rotmat(3)
    expected = torch.stack([sum_of_rotated(volume.data, r) for r in rotation])
    projector = Projector(volume)
    # 1.2 % is trilinear interpolation at padding 2; 0.5 % at padding 3.
    assert relative_error(projector(rotation), expected) < 0.015
    assert relative_error(Projector(volume, padding=3)(rotation), expected) < 0.008
    assert relative_error(projector(rotation.mT), expected) > 0.3


@pytest.mark.parametrize("size", [40, 41])
def test_shift_moves_the_content(size: int) -> None:
    projector = Projector(Volume.phantom(size=size, pixel_size=2.0))
    rotation = roma.random_rotmat(2)
    still = projector(rotation)
    moved = projector(rotation, torch.tensor([[6.0, 0.0], [0.0, -4.0]]))
    assert relative_error(moved[0], still[0].roll(3, 1)) < 1e-4
    assert relative_error(moved[1], still[1].roll(-2, 0)) < 1e-4


def test_image_box_and_pixel_size_are_free() -> None:
    volume = Volume.phantom(size=48, pixel_size=3.0)
    rotation = roma.random_rotmat(4)
    fine = Projector(volume)(rotation)
    wide = Projector(volume, image_size=60)(rotation)
    assert relative_error(wide[:, 6:54, 6:54], fine) < 0.02
    coarse = Projector(volume, image_size=24, pixel_size=6.0)(rotation)
    spectrum = torch.fft.fft2(torch.fft.ifftshift(fine, dim=(1, 2)))
    kept = torch.cat([torch.arange(12), torch.arange(-11, 0)])
    half = torch.fft.fft2(torch.fft.ifftshift(coarse, dim=(1, 2)))
    ring = (torch.fft.fftfreq(24, 1 / 24)[:, None] ** 2 + torch.fft.fftfreq(24, 1 / 24) ** 2) < 11.5**2
    small = torch.cat([torch.arange(12), torch.arange(13, 24)])
    mask = ring[small][:, small]
    # Sum over pixels of twice the size: each coarse pixel stands for four fine ones and is the mean of their integrals.
    a, b = spectrum[:, kept][:, :, kept][:, mask], half[:, small][:, :, small][:, mask] * 4
    assert relative_error(torch.view_as_real(b), torch.view_as_real(a)) < 1e-4


def test_gradients_reach_rotation_and_shift() -> None:
    projector = Projector(Volume.phantom(size=32))
    rotation = roma.random_rotmat(2).requires_grad_()
    shift = torch.zeros(2, 2, requires_grad=True)
    projector(rotation, shift, make_ctf(2)).square().sum().backward()
    for leaf in (rotation, shift):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        assert leaf.grad.abs().sum() > 0


def gradients(volume: Volume, leaves: dict[str, Tensor], *, detached: bool = False) -> dict[str, Tensor]:
    """Of a scalar of two images, in every leaf."""
    leaves = {name: value.clone().requires_grad_() for name, value in leaves.items()}
    scalar(volume, leaves, detached=detached).backward()
    return {name: value.grad for name, value in leaves.items() if value.grad is not None}


def scalar(volume: Volume, leaves: dict[str, Tensor], *, detached: bool = False) -> Tensor:
    """A sum over two images with weights that tell pixels apart."""
    data = leaves["volume"].detach() if detached else leaves["volume"]
    ctf = replace(make_ctf(2, defocus_v=9000.0, defocus_angle=25.0), defocus_u=leaves["defocus"])
    images = Projector(Volume(data, volume.pixel_size))(
        roma.rotvec_to_rotmat(leaves["rotation vector"]), leaves["shift"], ctf
    )
    weights = torch.randn(images.shape, dtype=images.dtype, generator=torch.Generator().manual_seed(0))
    return (weights * images + images**2 / 10).sum()


def leaves_of(volume: Volume, dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        "volume": volume.data.to(dtype),
        "rotation vector": torch.tensor([[0.3, -0.8, 1.1], [-1.9, 0.4, 0.2]], dtype=dtype),
        "shift": torch.tensor([[3.0, -7.0], [0.5, 12.0]], dtype=dtype),
        "defocus": torch.tensor([12000.0, 17000.0], dtype=dtype),
    }


@pytest.mark.parametrize("size", [16, 17])
def test_gradients_are_those_of_central_differences(size: int) -> None:
    volume = Volume.phantom(size=size, pixel_size=4.0)
    leaves = leaves_of(volume, torch.float64)
    found = gradients(volume, leaves)
    generator = torch.Generator().manual_seed(1)
    for name, step in (("volume", 1e-4), ("rotation vector", 1e-6), ("shift", 1e-3), ("defocus", 1e-1)):
        for _ in range(4):
            direction = torch.randn(leaves[name].shape, dtype=torch.float64, generator=generator)
            ahead, behind = (
                scalar(volume, {**leaves, name: leaves[name] + sign * step * direction}) for sign in (1, -1)
            )
            expected = float(ahead - behind) / (2 * step)
            assert float((found[name] * direction).sum()) == pytest.approx(expected, rel=1e-6), name
            wrong = found[name].flip(0)  # the control: those of the other image, or of the planes in reverse
            assert float((wrong * direction).sum()) != pytest.approx(expected, rel=1e-2), name


def test_a_detached_volume_has_no_gradient() -> None:
    volume = Volume.phantom(size=16, pixel_size=4.0)
    leaves = leaves_of(volume, torch.float32)
    assert set(gradients(volume, leaves)) == set(leaves)
    assert set(gradients(volume, leaves, detached=True)) == set(leaves) - {"volume"}


def test_double_precision_is_kept() -> None:
    volume = Volume.phantom(size=20, pixel_size=3.0)
    rotation, shift, ctf = roma.random_rotmat(3), torch.tensor([[1.0, 2.0]] * 3), make_ctf(3)
    single = Projector(volume)(rotation, shift, ctf)
    double = Projector(Volume(volume.data.double(), 3.0))(rotation, shift, ctf)
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    assert 1e-9 < relative_error(single, double) < 1e-5


def relion_matrices(angles: np.ndarray) -> Tensor:
    """RELION's matrices from rot, tilt, psi in degrees, by scipy."""
    return torch.from_numpy(
        Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix().transpose(0, 2, 1).copy()
    ).float()


@pytest.mark.parametrize(
    ("name", "offset"),
    [
        ("rln_proj_64", (-0.5, 0.5, -0.5)),
        ("rln_proj_64_centered", (0.0, 1.0, 0.0)),
        ("rln_proj_64_shifted", (0.0, 1.0, 0.0)),
    ],
)
def test_agrees_with_relions_projections_of_the_ribosome(
    data: Callable[[str], Path], name: str, offset: tuple[float, ...]
) -> None:
    """RELION projected this map resampled from 65 to 64 voxels; its centre is off ours by the stated half voxels.

    The shifted twins have origins of up to ten pixels: shift = -origin.
    """
    folder = data("particles/aspire_relion_project")
    table = list(starfile.read(folder / f"{name}.star", always_dict=True).values())[-1]
    rotation = relion_matrices(table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy(float))
    theirs = torch.from_numpy(mrcfile.read(folder / f"{name}.mrcs").astype(np.float32))
    map_data = mrcfile.read(data("maps/clean70S_ecoli_65.mrc")).astype(np.float32)
    projector = Projector(Volume(torch.from_numpy(map_data), 64 / 65), image_size=64, pixel_size=1.0)
    origin = torch.zeros(len(table), 2)
    if "rlnOriginX" in table:
        origin = torch.from_numpy(table[["rlnOriginX", "rlnOriginY"]].to_numpy(np.float32))

    def ours(rotation: Tensor, sign: float) -> Tensor:
        return projector(rotation, (rotation @ torch.tensor(offset))[:, :2] - sign * origin)

    assert correlation(ours(rotation, 1.0), theirs).min() > 0.999
    assert correlation(ours(rotation.mT, 1.0), theirs).mean() < 0.5
    if origin.any():
        assert correlation(ours(rotation, -1.0), theirs).mean() < 0.5


@pytest.mark.parametrize(("suffix", "padding"), [("_pfac2", 2), ("_pfac3", 3)])
def test_agrees_with_relions_projections_of_a_point(data: Callable[[str], Path], suffix: str, padding: int) -> None:
    """A point 17 voxels off the origin along x, with shifts and astigmatic CTF: the hardest, whitest spectrum there is.

    relion_project was run with the stated padding (its --pad), which decides the interpolation error.
    """
    folder = data("particles/simplecryoem_relion_project24")
    tables = starfile.read(folder / f"relion_proj_batch{suffix}.star", always_dict=True)
    table, optics = tables["particles"], tables["optics"].iloc[0]
    theirs = torch.from_numpy(mrcfile.read(folder / f"relion_proj_batch{suffix}.mrcs").astype(np.float32))
    rotation = relion_matrices(table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy(float))
    shift = -torch.from_numpy(table[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy(np.float32))
    ctf = make_ctf(
        len(table),
        **{
            name: torch.from_numpy(table[f"rln{column}"].to_numpy(np.float32))
            for name, column in (
                ("defocus_u", "DefocusU"),
                ("defocus_v", "DefocusV"),
                ("defocus_angle", "DefocusAngle"),
                ("phase_shift", "PhaseShift"),
            )
        },
        voltage=optics["rlnVoltage"],
        spherical_aberration=optics["rlnSphericalAberration"],
        amplitude_contrast=optics["rlnAmplitudeContrast"],
    )
    point = torch.zeros(64, 64, 64)
    point[32, 32, 49] = 1
    projector = Projector(Volume(point, optics["rlnImagePixelSize"]), padding=padding)
    right = correlation(projector(rotation, shift, ctf), theirs)
    assert right.mean() > 0.999
    assert right.min() > 0.998
    assert correlation(projector(rotation.mT, shift, ctf), theirs).mean() < 0.5
    assert correlation(projector(rotation, -shift, ctf), theirs).mean() < 0.5
    assert correlation(-projector(rotation, shift, ctf), theirs).mean() < -0.999  # the sign of the CTF is RELION's
