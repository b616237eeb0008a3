"""Modes judged by poses that are drawn, beside sums over a dense grid of poses."""

import math

import pytest
import torch

from cryozoo.geometry.rotations import rotvec_to_matrix
from cryozoo.geometry.sampling import random_rotations
from cryozoo.imaging.pose_likelihood import Placed, PoseLikelihood
from cryozoo.imaging.pose_posterior import Grid, Modes
from cryozoo.imaging.simulate import Imaging, Simulator
from cryozoo.imaging.volumes import load_volume

SIZE, PIXEL = 32, 8.0


@pytest.fixture(scope="module")
def scene() -> tuple[PoseLikelihood, torch.Tensor, torch.Tensor, Placed]:
    """Faint images of a phantom, and the modes that are reached from their true poses."""
    volume = load_volume("phantom:0", image_size=SIZE, pixel_size=PIXEL)
    simulator = Simulator(volume, Imaging(snr=0.3, shift_sigma=8.0), image_size=SIZE, pixel_size=PIXEL)
    batch = simulator(12, torch.Generator().manual_seed(0))
    likelihood = PoseLikelihood(volume, SIZE, PIXEL)
    sigma = simulator.noise_sigma * SIZE
    samples = likelihood.samples(batch.images[:, 0]) / sigma
    transfer = torch.full(samples.shape, 1 / sigma)
    placed = likelihood.at(batch.pose.rotation.float(), batch.pose.shift.float(), samples, transfer)
    return likelihood, samples, transfer, likelihood.climb(placed, samples, transfer, 12)


def test_the_spread_is_that_of_the_likelihood(scene) -> None:
    """Summed with many random poses around each mode, the Gaussian of Laplace twice as wide."""
    likelihood, samples, transfer, placed = scene
    modes = Modes(placed, len(samples), samples.shape[1], None)
    found = modes.sampled(likelihood, samples, transfer)
    root = 2 * torch.linalg.cholesky(modes.covariance[:, 0])
    generator = torch.Generator().manual_seed(1)
    square = torch.zeros(len(samples), dtype=torch.float64)
    total = torch.zeros_like(square)
    for _ in range(4000):
        z = torch.randn(len(samples), 5, generator=generator, dtype=torch.float64)
        step = (root @ z[..., None])[..., 0]
        rotation = rotvec_to_matrix(step[:, :3]).float() @ placed.rotation
        score = likelihood.score(rotation, placed.shift + step[:, 3:].float(), samples, transfer).double()
        weight = ((score - placed.score) / 2 + z.square().sum(1) / 2).exp()
        total += weight
        square += weight * step[:, :3].square().sum(1)
    expected = (square / total).sqrt()
    ratio = (found.error.double() / expected).log()
    assert int((ratio.abs() < 0.25).sum()) >= 11  # one has a second mode that was not given, just beside the first
    assert abs(float(ratio.median())) < 0.12
    narrow = (modes.covariance.diagonal(dim1=2, dim2=3)[:, 0, :3].sum(1) / 4).sqrt()
    assert float((narrow / expected).log().median()) < -0.5  # the control: half of Laplace's width is not


def test_a_mode_twice_is_one_mode(scene) -> None:
    likelihood, samples, transfer, placed = scene
    twice = torch.arange(len(samples)).repeat_interleave(2)
    one, two = (
        Modes(placed, len(samples), samples.shape[1], None),
        Modes(placed[twice], len(samples), samples.shape[1], None),
    )
    for judge in ("judged", "sampled"):
        arguments = () if judge == "judged" else (likelihood, samples, transfer)
        a, b = getattr(one, judge)(*arguments), getattr(two, judge)(*arguments)
        torch.testing.assert_close(a.probability, b.probability)
        torch.testing.assert_close(a.error, b.error)


def test_two_modes_are_as_probable_as_their_likelihoods(scene) -> None:
    """A second mode, far from the first one and as high in a likelihood that has two of them."""
    likelihood, samples, transfer, placed = scene
    far = rotvec_to_matrix(torch.tensor([0.0, 0.0, math.pi / 2])) @ placed.rotation
    there = likelihood.at(far, placed.shift, samples, transfer)
    both = Placed(*(torch.stack([getattr(p, n) for p in (placed, there)], 1).flatten(0, 1) for n in vars(placed)))
    found = Modes(both, len(samples), samples.shape[1], None).judged()
    score = torch.stack([placed.score, there.score], 1)
    volume = Modes(both, len(samples), samples.shape[1], None).covariance.logdet()
    expected = ((score.double() + volume) / 2).softmax(1).amax(1).float()
    torch.testing.assert_close(found.probability, expected)


def test_a_grid_tells_of_modes_that_were_not_found(scene) -> None:
    """All modes that are given lie a quarter of a turn from the true ones, which are near poses of the grid."""
    likelihood, samples, transfer, placed = scene
    generator = torch.Generator().manual_seed(2)
    quarter = rotvec_to_matrix(torch.tensor([0.0, 0.0, math.pi / 2]))
    wrong = likelihood.climb(
        likelihood.at(quarter @ placed.rotation, placed.shift, samples, transfer), samples, transfer, 12
    )
    count, near = len(samples), 40
    turn = rotvec_to_matrix(0.1 * torch.randn(count, near, 3, generator=generator)) @ placed.rotation[:, None]
    others = random_rotations(count * near, generator=generator).float().unflatten(0, (count, near))
    rotation = torch.cat([others, turn], 1)
    shift = placed.shift[:, None] + 4 * torch.randn(count, 2 * near, 2, generator=generator)
    grid = Grid(rotation, shift, turn=0.1, move=4.0)
    modes = Modes(wrong, count, samples.shape[1], None)
    found, blind = (modes.sampled(likelihood, samples, transfer, g) for g in (grid, None))
    away = modes.turns(placed.rotation.double()[:, None])[:, 0, 0].norm(dim=-1).float()
    lost = away > 0.5  # from the others, steps lead to the true mode
    assert int(lost.sum()) >= 6
    torch.testing.assert_close(found.error[lost], away[lost], rtol=0.15, atol=0)
    assert (found.probability[lost] < 0.05).all()
    assert (blind.error[lost] < 0.5 * away[lost]).all()
    # Where the modes were found it changes little.
    right = Modes(placed, count, samples.shape[1], None)
    with_grid, without = (right.sampled(likelihood, samples, transfer, g) for g in (grid, None))
    assert float((with_grid.error / without.error).log().abs().median()) < 0.15
