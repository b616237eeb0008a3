"""The curve of residuals: zero where the group has the angle, and not elsewhere."""

import torch

from cryozoo.benchmarks.studies.equivariance import residuals_deg
from cryozoo.training.data import Simulated
from cryozoo.zoo.encoder import create_encoder


def test_residuals_vanish_for_the_angles_of_the_group() -> None:
    torch.manual_seed(0)
    simulator = Simulated("phantom:1").simulator(33, 6.0)
    encoder = create_encoder("test_c4_cnn-nined_svd", image_size=33, pixel_size=6.0).eval()
    plain = create_encoder("test_vgg_gem-nined_svd", image_size=33, pixel_size=6.0).eval()
    angles = (0, 45, 90, 180)
    turned = residuals_deg(encoder, simulator, angles, views=16).median(1).values
    assert turned[0] == 0
    # Rounding, and what the square grid's interpolation adds to projections of turned views.
    assert turned[2:].max() < 0.5
    assert turned[1] > 5 * turned[2:].max()
    assert residuals_deg(plain, simulator, angles, views=16).median(1).values[2:].min() > 10
