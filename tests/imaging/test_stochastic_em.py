"""Poses drawn from a posterior, against one that is computed image by image; and a phantom found from nothing."""

import math

import pytest
import torch

from cryozoo.geometry.rotations import rotvec_to_matrix
from cryozoo.geometry.sampling import random_rotations
from cryozoo.imaging.map_alignment import align_map
from cryozoo.imaging.pose_search import PoseSearch
from cryozoo.imaging.projector import Projector
from cryozoo.imaging.simulate import Imaging, Simulator
from cryozoo.imaging.stochastic_em import Stage, StochasticEM
from cryozoo.imaging.volumes import Volume

SIZE, PIXEL = 24, 8.0


def test_poses_are_drawn_from_the_posterior_on_the_grid() -> None:
    """Of every pose of the grid the likelihood, by projections and sums over the Fourier samples of the images."""
    volume = Volume.phantom(size=SIZE, pixel_size=PIXEL)
    generator = torch.Generator().manual_seed(0)
    search = PoseSearch(SIZE, PIXEL, diameter=150.0, reach=20.0, order=1, highest=0.02).look_at(
        volume, random_rotations(1, generator=generator)[0]
    )
    projector = Projector(volume)
    true, sigma = random_rotations(12, generator=generator), 20.0
    images = projector(true) + sigma * torch.randn(12, SIZE, SIZE, generator=generator)
    weight = torch.full((12, len(search.radius)), 1 / (sigma * SIZE) ** 2)
    drawn = search.draw(search.samples(images), None, weight, 4000, generator)

    turns = torch.zeros(search.angles, 3)
    turns[:, 2] = 2 * math.pi / search.angles * torch.arange(search.angles)
    grid = (rotvec_to_matrix(turns)[None] @ search.directions[:, None]).flatten(0, 1)
    frequency = torch.stack(
        torch.meshgrid(torch.fft.rfftfreq(SIZE, PIXEL), torch.fft.fftfreq(SIZE, PIXEL), indexing="xy"), -1
    )
    radius = frequency.norm(dim=-1)
    inside = (radius < 0.02) & (radius > 0.5 / (SIZE * PIXEL))
    share = torch.where(frequency[..., 0] == 0, 0.5, 1.0)[inside] / (sigma * SIZE) ** 2
    logs = []
    for shift in search.shifts:
        seen = torch.fft.rfft2(projector(grid, shift.expand(len(grid), 2)))[:, inside]
        of_images = torch.fft.rfft2(images)[:, inside]
        product = ((of_images * share) @ seen.mH).real
        logs.append(2 * product - (seen.abs().square() * share).sum(1))
    log = torch.stack(logs, 1).double()  # (images, shifts, poses)
    evidence = log.flatten(1).logsumexp(1) - math.log(log[0].numel())
    assert (drawn.evidence - evidence).abs().mean() < 0.15 * evidence.mean()
    assert (drawn.evidence - evidence).mean().abs() < 0.1 * evidence.mean()

    # How often each direction was drawn: the posterior, but for what rings and squares differ by.
    expected = log.flatten(1).softmax(1).unflatten(1, log.shape[1:]).sum(1).unflatten(1, (-1, search.angles)).sum(2)
    view = (drawn.rotation[:, :, 2] @ search.directions[:, 2].T).argmax(2)
    found = torch.stack([row.bincount(minlength=len(search.directions)) for row in view]) / 4000
    assert (found - expected).abs().sum(1).mean() < 0.3  # of at most 2
    assert (found - expected.roll(1, 0)).abs().sum(1).mean() > 0.8  # those of other images are not these


@pytest.mark.parametrize("with_ctf", [False, True])
def test_a_phantom_is_found_from_nothing(with_ctf: bool) -> None:
    volume = Volume.phantom(size=SIZE, pixel_size=PIXEL)
    imaging = Imaging(snr=1.0, shift_sigma=6.0, defocus=(1e4, 3e4) if with_ctf else None)
    batch = Simulator(volume, imaging)(1200, torch.Generator().manual_seed(0))
    run = StochasticEM(batch.images[:, 0], PIXEL, batch.ctf, diameter=120.0, reach=10.0, trained=1000)
    for stage in (Stage(4.0, 1, 40), Stage(6.0, 1, 60)):
        run.begin(stage)
        for _ in range(stage.steps):
            run.step()
        run.estimate_noise()
    assert run.volume is not None
    found = align_map(run.volume, volume)
    assert found.correlation > 0.8
    # Images that it has not seen fit better than noise; noise does not.
    _, _, unseen = run.poses(torch.arange(1000, 1200))
    assert unseen.mean() > 5 * unseen.std() / len(unseen) ** 0.5
    level = batch.images[:200].std() * torch.randn(200, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    _, _, noise = run.poses_of(level, None if batch.ctf is None else batch.ctf[:200])
    assert noise.mean() < 0
