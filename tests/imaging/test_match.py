"""Search and steps together: scores against sums over samples, poses against the truth and the Cramer-Rao bound."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from cryozoo.geometry.distances import geodesic_distance
from cryozoo.geometry.point_groups import point_group, symmetric_distance
from cryozoo.geometry.sampling import random_rotations
from cryozoo.imaging.cramer_rao import cramer_rao_bound
from cryozoo.imaging.map_alignment import transform_map
from cryozoo.imaging.match import Matcher, Matches
from cryozoo.imaging.noise import RadialNoise
from cryozoo.imaging.pose_search import PoseSearch, distinct
from cryozoo.imaging.projector import Projector
from cryozoo.imaging.simulate import Imaging, Simulator
from cryozoo.imaging.volumes import Volume
from cryozoo.particles.ctf import make_ctf

SIZE, PIXEL = 32, 6.0
VOLUME = Volume.phantom(size=SIZE, pixel_size=PIXEL)


@pytest.fixture(scope="module")
def matcher() -> Matcher:
    return Matcher(VOLUME, SIZE, PIXEL, reach=18.0)


def simulator(**imaging: Any) -> Simulator:
    return Simulator(VOLUME, Imaging(shift_sigma=6.0, **imaging))


def degrees(found: Tensor, true: Tensor) -> Tensor:
    return geodesic_distance(found.double(), true.double()).rad2deg()


class TestSearch:
    def test_scores_are_those_of_sums_over_the_samples(self, matcher: Matcher) -> None:
        """At some cells of the grid, with CTF and coloured noise, from the projector's own images."""
        search = matcher.search
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(2, SIZE, SIZE, generator=generator)
        ctf = make_ctf(2, defocus_u=torch.tensor([9000.0, 15000.0]))
        weight = torch.rand(2, len(search.radius), generator=generator) + 0.5
        products, norm = search._products(search.samples(images), ctf(search.frequency), weight)
        scores = products / norm[:, None, :, None]
        area = search._area[:, None].expand(-1, search.angles // 2).flatten() / (search.angles // 2)
        samples = search.samples(images)
        for b, s, d, a in ((0, 0, 0, 0), (1, 3, 5, 7), (0, 11, 77, 40), (1, 20, 150, 23)):
            turn = torch.tensor(2 * math.pi * a / search.angles)
            plane = torch.tensor([[turn.cos(), -turn.sin(), 0], [turn.sin(), turn.cos(), 0], [0, 0, 1]])
            rotation = (plane @ search.directions[d])[None]
            projection = Projector(VOLUME)(rotation, search.shifts[s][None])
            template = search.samples(projection)[0] * ctf(search.frequency)[b]
            w = area * weight[b].repeat_interleave(search.angles // 2)
            expected = (w * (template.conj() * samples[b]).real).sum() / (w * template.abs() ** 2).sum().sqrt()
            spread = scores[b].std()
            assert (
                float((scores[b, s, d, a] - expected).abs() / spread) < 0.1
            )  # the search interpolates the map's transform, too

    def test_samples_are_those_of_the_transform(self, matcher: Matcher) -> None:
        """Of an image that has nothing beyond the rings, for what lies there is cut off before."""
        search = matcher.search
        images = Projector(VOLUME)(random_rotations(2, generator=torch.Generator().manual_seed(4)).float())
        x = (torch.arange(SIZE) - SIZE // 2) * PIXEL
        grid = torch.stack(torch.meshgrid(x, x, indexing="xy"), -1).flatten(0, 1)
        wave = torch.polar(torch.ones(()), -2 * torch.pi * (search.frequency @ grid.T))
        expected = images.flatten(1).to(torch.complex64) @ wave.T
        assert (search.samples(images) - expected).norm() < 0.02 * expected.norm()

    @pytest.mark.parametrize("name", ["C1", "C3", "D2", "O"])
    def test_every_direction_has_a_mate_in_the_asymmetric_unit(self, name: str) -> None:
        group = point_group(name)
        search = PoseSearch(SIZE, PIXEL, diameter=120.0, reach=10.0, group=group)
        every = PoseSearch(SIZE, PIXEL, diameter=120.0, reach=10.0).directions[:, 2]
        assert len(search.directions) < 2.2 * len(every) / len(group) + 1
        mates = (search.directions[:, 2].double() @ group).flatten(0, 1)
        # No further than the grid's own points are from what lies between them.
        assert (every.double() @ mates.T).amax(1).min() > math.cos(0.21)

    def test_distinct_poses_are_the_best_of_their_neighbourhoods(self) -> None:
        generator = torch.Generator().manual_seed(2)
        rotation = random_rotations(60, generator=generator).view(2, 30, 3, 3)
        chosen = distinct(rotation, 30, 1.0)
        for row in range(2):
            kept: list[int] = []
            for k in range(30):
                apart = [float(geodesic_distance(rotation[row, k], rotation[row, j])) for j in kept]
                if all(d > 1.0 for d in apart):
                    kept.append(k)
            assert chosen[row, : len(kept)].tolist() == kept
            assert (chosen[row, len(kept) :] == 0).all()


class TestMatch:
    def test_poses_reach_the_bound(self, matcher: Matcher) -> None:
        task = simulator(snr=0.5, defocus=(8000.0, 15000.0))
        batch = task(96, torch.Generator().manual_seed(0))
        noise = RadialNoise.white(task.noise_sigma, SIZE, PIXEL)
        found = matcher.match(batch.images[:, 0], batch.ctf, noise)
        error = degrees(found.rotation, batch.pose.rotation)
        bound = cramer_rao_bound(
            task.projector, batch.pose.rotation, task.noise_sigma, shift=batch.pose.shift, ctf=batch.ctf
        ).angles()
        assert error.median() < 1.25 * bound.rad2deg().median()
        assert (error < 10).float().mean() > 0.97
        sure = found.probability > 0.995  # of others, what may be turned round is all there is to see
        rms = float(found.error[sure].square().mean().sqrt().rad2deg())
        assert rms == pytest.approx(float(error[sure].square().mean().sqrt()), rel=0.3)

    def test_the_posterior_lies_about_the_truth_as_wide_as_errors_are(self, matcher: Matcher) -> None:
        task = simulator(snr=0.5, defocus=(8000.0, 15000.0))
        batch = task(48, torch.Generator().manual_seed(5))
        assert batch.pose.rotation is not None
        noise = RadialNoise.white(task.noise_sigma, SIZE, PIXEL)
        drawn = matcher.posterior(batch.images[:, 0], batch.ctf, noise, 32)
        torch.testing.assert_close(drawn.weight.sum(1), torch.ones(48, dtype=torch.float64))
        of_modes = drawn.probability.sum(1)
        assert (of_modes < 1 + 1e-9).all()
        assert of_modes.mean() > 0.97  # what is left lies near poses of the grid
        apart = degrees(drawn.rotation, batch.pose.rotation[:, None])
        square = (drawn.weight * apart.square()).sum(1)
        found = matcher.match(batch.images[:, 0], batch.ctf, noise)
        error = degrees(found.rotation, batch.pose.rotation)
        sure = found.probability > 0.995
        # From the truth, poses of the posterior are as far as the estimate is, and as far again as it is from them.
        ratio = square[sure].mean() / error[sure].square().mean()
        assert float(ratio) == pytest.approx(2, rel=0.3)
        others = degrees(drawn.rotation, batch.pose.rotation.roll(1, 0)[:, None])
        assert (drawn.weight * others.square()).sum(1).median() > 1000 * square.median()  # the control

    def test_particles_off_the_centre_get_a_second_look(self, matcher: Matcher) -> None:
        """Beyond the reach of the first look the best pose within it is nowhere near."""
        task = simulator(snr=1.0)
        batch = task(8, torch.Generator().manual_seed(3))
        images = batch.images[:, 0].roll(round(1.5 * matcher.reach / PIXEL), -1)
        noise = RadialNoise.white(task.noise_sigma, SIZE, PIXEL)
        found = matcher.match(images, None, noise)
        assert (degrees(found.rotation, batch.pose.rotation) < 10).float().mean() > 0.8

    def test_mirrored_images_are_not_matched(self, matcher: Matcher) -> None:
        """The control: with the wrong sign of one axis hardly a pose is right."""
        task = simulator(snr=2.0)
        batch = task(32, torch.Generator().manual_seed(1))
        noise = RadialNoise.white(task.noise_sigma, SIZE, PIXEL)
        found = matcher.match(batch.images[:, 0].flip(-1).roll(1, -1), None, noise)
        assert (degrees(found.rotation, batch.pose.rotation) < 10).float().mean() < 0.2

    def test_noise_is_estimated_from_the_images(self, matcher: Matcher) -> None:
        """Coloured noise of ten times the power at low frequencies: known to a few per cent, and used."""
        task = simulator(snr=1.0)
        generator = torch.Generator().manual_seed(2)
        batch = task(128, generator, noise=0.0)
        spectrum = torch.fft.rfft2(task.noise_sigma * torch.randn(128, SIZE, SIZE, generator=generator))
        k = torch.stack(torch.meshgrid(torch.fft.rfftfreq(SIZE), torch.fft.fftfreq(SIZE), indexing="xy"), -1).norm(
            dim=-1
        )
        colour = 1 + 9 * torch.exp(-((k / 0.1) ** 2))
        images = batch.images[:, 0] + torch.fft.irfft2(spectrum * colour.sqrt(), s=(SIZE, SIZE))
        noise, found = matcher.estimate_noise(images, None)
        radius = matcher.likelihood.radius
        expected = (task.noise_sigma * SIZE) ** 2 * (1 + 9 * torch.exp(-((radius * PIXEL / 0.1) ** 2)))
        ratio = noise.power(radius)[radius > 3 / (SIZE * PIXEL)] / expected[radius > 3 / (SIZE * PIXEL)]
        assert (ratio - 1).abs().median() < 0.06
        aware = degrees(found.rotation, batch.pose.rotation).median()
        white = matcher.match(images, None, RadialNoise.white(float(images.std()), SIZE, PIXEL))
        assert aware < degrees(white.rotation, batch.pose.rotation).median()

    def test_one_mate_of_a_symmetric_molecule_and_no_doubt_about_it(self) -> None:
        group = point_group("D2")
        plain = Volume.phantom(size=SIZE, pixel_size=PIXEL, seed=3)
        turned = [transform_map(plain, g.float(), torch.zeros(3)).data for g in group]
        volume = Volume(torch.stack(turned).mean(0), PIXEL)
        task = Simulator(volume, Imaging(snr=1.0, shift_sigma=4.0))
        batch = task(48, torch.Generator().manual_seed(0))
        noise = RadialNoise.white(task.noise_sigma, SIZE, PIXEL)
        found = Matcher(volume, SIZE, PIXEL, group=group.float(), reach=12.0).match(batch.images[:, 0], None, noise)
        error = symmetric_distance(found.rotation.double(), batch.pose.rotation.double(), group).rad2deg()
        assert error.median() < 6
        assert found.probability.median() > 0.95

    def test_an_ambiguous_view_shows(self) -> None:
        """Of a map that is nearly the same after half a turn about z two poses fit, and the better one may be wrong."""
        plain = Volume.phantom(size=SIZE, pixel_size=PIXEL, seed=3)
        half_turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
        turned = transform_map(plain, half_turn, torch.zeros(3)).data
        volume = Volume(0.53 * plain.data + 0.47 * turned, PIXEL)
        task = Simulator(volume, Imaging(snr=0.5))
        batch = task(160, torch.Generator().manual_seed(5))
        noise = RadialNoise.white(task.noise_sigma, SIZE, PIXEL)
        found = Matcher(volume, SIZE, PIXEL, reach=6.0).match(batch.images[:, 0], None, noise)
        right = degrees(found.rotation, batch.pose.rotation) < 15
        assert 0.4 < right.float().mean() < 0.97
        assert float(found.probability.mean()) == pytest.approx(float(right.float().mean()), abs=0.15)
        assert found.error[right].median() < found.error[~right].median()


def test_refining_is_climbing_from_given_poses(matcher: Matcher) -> None:
    task = simulator(snr=1.0)
    batch = task(64, torch.Generator().manual_seed(3))
    noise = RadialNoise.white(task.noise_sigma, SIZE, PIXEL)
    rotation, shift = batch.pose.rotation, batch.pose.shift
    assert rotation is not None
    assert shift is not None
    found: Matches = matcher.refine(batch.images[:, 0], rotation, shift + 3, None, noise)
    searched = matcher.match(batch.images[:, 0], None, noise)
    same = degrees(found.rotation, searched.rotation) < 1
    assert same.float().mean() > 0.9
    assert (found.probability == 1).all()


def test_power_between_shells() -> None:
    noise = RadialNoise(torch.tensor([1.0, 2.0, 4.0]), 10.0)
    assert noise.power(torch.tensor([0.0, 0.1, 0.15, 0.2, 0.9])).tolist() == pytest.approx([2, 2, 3, 4, 4])
    rows = RadialNoise(torch.tensor([[1.0, 2.0], [5.0, 7.0]]), 10.0).rows(torch.tensor([1, 0, 1]))
    assert rows.power(torch.tensor([0.1])).flatten().tolist() == [7, 2, 7]


def test_shells_without_samples_have_those_of_their_neighbours() -> None:
    samples = torch.tensor([[1.0, 3.0, 2.0]]).to(torch.complex64)
    noise = RadialNoise.of_samples(samples, torch.tensor([0.1, 0.1, 0.3]), 10.0)
    assert noise.shells.tolist() == [5, 5, 5, 4]


def test_an_image_without_signal_is_not_known(matcher: Matcher) -> None:
    images = torch.zeros(2, SIZE, SIZE)
    images[1] = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    found = matcher.match(images, None, RadialNoise.white(1.0, SIZE, PIXEL))
    assert found.rotation.isfinite().all()
    assert found.error.isfinite().all()
    assert (found.error > 0.3).all()
