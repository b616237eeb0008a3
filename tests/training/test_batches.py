"""Batches: no training step has the random numbers of another, of another recipe's, or of what is held out."""

import itertools

import pytest
import torch

from cryozoo.training.batches import FIXED_SEED, TEST_SEED, VALIDATION_SEED, epoch_seed, step_seed
from cryozoo.training.data import Simulated


def test_seeds_differ_in_what_the_generator_takes_of_them():
    steps = (0, 1, 2, 3, 1000, 2**23 - 1)
    seeds = [VALIDATION_SEED, TEST_SEED, FIXED_SEED]
    seeds += [step_seed(seed, step) for seed, step in itertools.product((0, 1, 2, 255), steps)]
    seeds += [epoch_seed(seed, epoch) for seed, epoch in itertools.product((0, 1, 2, 255), (0, 1, 1000, 2**22 - 1))]
    first = {float(torch.rand(1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)) for seed in seeds}
    assert len(first) == len(seeds)
    assert max(seeds) < 2**32


def test_a_control_that_fails():
    """What the generator does not take makes no difference: a seed must not count on more than 32 bits."""
    numbers = [torch.rand(3, generator=torch.Generator().manual_seed(seed)) for seed in (2, 2**40 + 2)]
    assert torch.equal(*numbers)


@pytest.mark.parametrize("images", [None, 40])
def test_recipes_of_two_seeds_see_other_batches(images):
    batches = []
    for seed in (0, 1):
        data = Simulated("phantom:0", images=images).open(16, 10.0, torch.device("cpu"), seed)
        torch.manual_seed(step_seed(seed, 0))
        batches.append(data.batch(0, 8).images)
    assert not torch.equal(*batches)
