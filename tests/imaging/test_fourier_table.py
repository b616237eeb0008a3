"""The table against a transform that is known in closed form, and against the projector."""

import pytest
import torch

from cryozoo.geometry.sampling import random_rotations
from cryozoo.imaging.fourier_table import FourierTable
from cryozoo.imaging.projector import Projector
from cryozoo.imaging.volumes import Volume

SIZE = 32


def blobs() -> tuple[torch.Tensor, torch.Tensor]:
    """Two Gaussians off the centre: their density, and the function that is its transform (k in steps of the box)."""
    axis = torch.arange(SIZE) - SIZE // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    places, sigma = torch.tensor([[3.0, -2.0, 1.0], [-4.0, 1.0, 5.0]]), 1.5
    squares = [((x - p[0]) ** 2 + (y - p[1]) ** 2 + (z - p[2]) ** 2) / (2 * sigma**2) for p in places]
    return torch.exp(-squares[0]) + 0.5 * torch.exp(-squares[1]), places


def transform(k: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    k = k / SIZE
    envelope = (2 * torch.pi * 1.5**2) ** 1.5 * torch.exp(-2 * (torch.pi * 1.5) ** 2 * k.square().sum(-1))
    waves = torch.polar(torch.tensor([1.0, 0.5]).expand(len(k), 2), -2 * torch.pi * k @ places.T)
    return envelope * waves.sum(-1)


@pytest.mark.parametrize("highest", [6.0, 9.3])
def test_values_and_derivatives(highest: float) -> None:
    density, places = blobs()
    table = FourierTable(density, highest, gradient=True)
    direction = torch.nn.functional.normalize(torch.randn(200, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    k = direction * torch.linspace(0, highest, 200)[:, None]
    k.requires_grad_()
    expected = transform(k, places)
    slopes = [torch.autograd.grad(part.sum(), k, retain_graph=True)[0] for part in (expected.real, expected.imag)]
    found = table(k.detach(), gradient=True)
    slope = torch.complex(*slopes)
    for value, exact in ((found[:, 0], expected), (found[:, 1:], slope)):
        assert (value - exact).abs().max() < 0.03 * exact.abs().max()
        assert (value - exact).norm() < 0.02 * exact.norm()
    torch.testing.assert_close(table(k.detach())[:, 0], found[:, 0], rtol=0, atol=0)


def test_it_is_what_the_projector_interpolates() -> None:
    volume = Volume.phantom(size=SIZE, pixel_size=4.0)
    projector = Projector(volume)
    rotation = random_rotations(3, generator=torch.Generator().manual_seed(1)).float()
    expected = projector.spectrum(rotation)
    rows, columns = projector.inside.unbind(-1)
    k = projector.frequency[rows, columns]
    box = SIZE * volume.pixel_size
    found = FourierTable(volume.data, 0.5 * SIZE)((k @ rotation[:, :2]) * box)[..., 0]
    centre = torch.polar(torch.ones(len(k)), 2 * torch.pi * k.sum(1) * (SIZE // 2 * volume.pixel_size))
    expected = expected[:, rows, columns] * centre
    assert (found - expected).abs().max() < 2e-3 * expected.abs().max()  # grid_sample rounds its coordinates
    assert (found - expected).norm() < 1e-3 * expected.norm()


def test_no_points() -> None:
    assert FourierTable(torch.randn(8, 8, 8), 3.0, gradient=True)(torch.zeros(2, 0, 3), gradient=True).shape == (
        2,
        0,
        4,
    )
