"""References of half maps: noise of the empty box goes, the molecule stays, also where it is weak."""

import pytest
import torch

from cryozoo.imaging.fsc import fourier_shell_correlation
from cryozoo.imaging.half_maps import agreement, half_references, joined_reference
from cryozoo.imaging.reconstruct import Reconstruction
from cryozoo.imaging.volumes import Volume

SIZE, PIXEL, DIAMETER = 48, 4.0, 130.0


def made(noise: float, seed: int = 0) -> tuple[Reconstruction, torch.Tensor, torch.Tensor]:
    """Half maps of a strong ball and a weak one in white noise, the truth, and where there is density."""
    axis = torch.arange(SIZE) - SIZE // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    generator = torch.Generator().manual_seed(seed)
    texture = 1 + torch.randn(SIZE, SIZE, SIZE, generator=generator).clamp(-1, 1)
    strong, weak = ((x - 6) ** 2 + y**2 + z**2 < 25), ((x + 6) ** 2 + y**2 + z**2 < 25)
    truth = texture * (strong + 0.3 * weak)
    k = torch.fft.fftfreq(SIZE)
    round_band = (k[:, None, None] ** 2 + k[:, None] ** 2 + k**2).sqrt() < 0.45
    truth = torch.fft.ifftn(torch.fft.fftn(truth) * round_band).real
    halves = [truth + noise * torch.randn(truth.shape, generator=generator) for _ in range(2)]
    first, second = (Volume(half.float(), PIXEL) for half in halves)
    fsc = fourier_shell_correlation(first.data, second.data)
    nothing = torch.zeros(1)
    mean = Volume((first.data + second.data) / 2, PIXEL)
    return Reconstruction(mean, (first, second), (1, 1), fsc, nothing, nothing), truth, strong | weak


def test_the_empty_box_goes_and_weak_density_stays():
    found, _, inside = made(0.5)
    share, fsc = agreement(found, DIAMETER)
    weak = inside & (torch.arange(SIZE) < SIZE // 2)
    assert float(share[weak].median()) > 0.3
    assert float(share[~inside].median()) < 0.02
    assert float(share.min()) >= 0
    assert float(share.max()) <= 1
    assert float(fsc[5:15].mean()) > float(found.fsc[5:15].mean()) + 0.1


def test_references_are_nearer_to_the_truth_than_half_maps_and_the_joined_one_is_nearest():
    found, truth, _ = made(0.5)
    far = [float((volume.data - truth).square().mean()) for volume in found.half_maps]
    near = [float((volume.data - truth).square().mean()) for volume in half_references(found, DIAMETER)]
    joined = float((joined_reference(found, DIAMETER).data - truth).square().mean())
    assert max(near) < 0.3 * min(far)
    assert joined < min(near)


def test_without_noise_nothing_is_taken():
    """The control: halves that agree keep all that the sphere holds."""
    found, truth, inside = made(0.0)
    share, _ = agreement(found, DIAMETER)
    assert float(share[inside].min()) == pytest.approx(1, abs=1e-3)
    kept = half_references(found, DIAMETER)[0].data
    assert float((kept - truth)[inside].square().mean() / truth[inside].square().mean()) < 0.02


def test_noise_alone_leaves_nearly_nothing():
    found, _, _ = made(0.0)
    generator = torch.Generator().manual_seed(5)
    first, second = (Volume(torch.randn(SIZE, SIZE, SIZE, generator=generator), PIXEL) for _ in range(2))
    fsc = fourier_shell_correlation(first.data, second.data)
    nothing = torch.zeros(1)
    noise = Reconstruction(found.map, (first, second), (1, 1), fsc, nothing, nothing)
    power = float(half_references(noise, DIAMETER)[0].data.square().mean())
    assert power < 0.01 * float(first.data.square().mean())
