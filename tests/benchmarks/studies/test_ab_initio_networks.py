"""What the study of ab initio networks compares, and how it counts."""

import pytest

from cryozoo.benchmarks.studies import ab_initio_networks as study
from cryozoo.training.beginning import check_names
from cryozoo.zoo.cost import multiply_accumulates
from cryozoo.zoo.encoder import create_encoder


@pytest.mark.parametrize("design", study.DESIGNS)
def test_designs_can_be_made(design):
    encoder, loss, fields = study.DESIGNS[design]
    recipe = study.recipe_of(study.TASKS[1], encoder, loss, seed=3, **fields)
    check_names(recipe)
    assert recipe.is_ab_initio
    assert recipe.shift
    assert recipe.data.images == 12_000


def test_encoders_do_as_much_work():
    """Within a factor of 1.4: to those that are equivariant, an even image is extended by a row and a column."""
    macs = [
        multiply_accumulates(create_encoder(name, image_size=32, backbone_args=args))
        for name, args in study.ENCODERS.values()
    ]
    assert max(macs) < 1.4 * min(macs)


def test_what_has_converged_is_counted():
    history = [{"step": 100, "mse": 3.0, "cpu_s": 7.0}, {"step": 200, "mse": 0.09, "cpu_s": 14.0}]
    metrics = {"mse": 0.08, "medse": 0.02, "median_deg": 6.0, "acc_15": 0.9, "steps": 200, "cpu_s": 14.0}
    found = study.learning(history, metrics, before=100.0)
    assert found["converged_step"] == 200
    assert found["converged_cpu_s"] == 114.0
    named = {"map": "70S ribosome", "snr": 1.0, "shift_A": 0.0, "design": "D4, L2", "commit": "c", "hardware": "h"}
    never = {**found, "converged_step": None, "converged_cpu_s": None}
    rows = [{**named, **run, "resolution_A": 21.0} for run in (found, never)]
    text = study.table({"rows": rows, "seconds": 240.0})
    assert "| 70S ribosome | 1 | 0 | D4, L2 | 1 of 2 | 200 | 114 |" in text
