"""The study of the whole way: how it counts, and how it compares maps."""

import pytest
import torch

from cryozoo.benchmarks.studies import ab_initio as study
from cryozoo.imaging.volumes import Volume

RUN = {"median_deg": 1.1, "bound_median_deg": 1.0, "acc_5": 0.99, "resolution_A": 15.0, "best_resolution_A": 14.5}


def test_what_was_found_is_counted():
    named = {"map": "beta-galactosidase", "symmetry": "D2", "snr": 0.1, "commit": "c", "hardware": "h"}
    far = {**RUN, "median_deg": 1.3, "half_maps_A": 14.0, "cpu_s": 300.0}
    near = {**RUN, "half_maps_A": 13.0, "cpu_s": 310.0}
    refused = {"refused": "nothing that the images have in common", "bound_median_deg": 1.0, "cpu_s": 90.0}
    text = study.table({"images": 10_000, "rows": [{**named, **run} for run in (near, far, refused)]})
    assert "| beta-galactosidase | D2 | 0.1 | 1 of 3, 1 refused | 1.20 (1.10 to 1.30) | 1.00 (1.00 to 1.00) |" in text


def test_maps_of_other_voxels_are_compared():
    """A map of voxels twice as wide, turned and mirrored, correlates with the fine one as far as it goes."""
    fine = Volume.phantom(size=48, pixel_size=4.0)
    coarse = fine.coarsen(24)
    turned = Volume(torch.rot90(coarse.data.flip(0).roll(1, 0), 1, (1, 2)).roll(1, 1), coarse.pixel_size)
    assert study.against(turned, fine) == pytest.approx(16, rel=0.15)
    noise = Volume(torch.randn(24, 24, 24, generator=torch.Generator().manual_seed(0)), 8.0)
    assert study.against(noise, fine) > 40
