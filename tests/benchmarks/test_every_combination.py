"""Every backbone with every head and every loss: what may be put together trains, is saved, read and predicts."""

from dataclasses import replace

import pytest
import torch

from cryozoo import load_pretrained
from cryozoo.benchmarks.design import Design, product, why_impossible
from cryozoo.benchmarks.judge import judge
from cryozoo.benchmarks.task import Task
from cryozoo.training.trainer import train
from cryozoo.zoo.evaluate import predict_batches
from cryozoo.zoo.registry import list_parts

_SIZE = 32
_POSES = Task.from_dict(
    {
        "title": "A phantom",
        "image_size": _SIZE,
        "data": {"volume": "phantom:0", "snr": 1.0, "shift_sigma": 4.0, "images": 30, "split": [0.4, 0.2]},
        "pixel_size": 10.0,
        "training": {"batch_size": 6},
    },
    "phantom",
)
TASKS = [_POSES, *(replace(_POSES, metric=metric) for metric in ("distance_mae_deg", "mse"))]
BACKBONES = [*list_parts("backbone"), "timm_test_byobnet", "escnn_d4_cnn"]
MARKS: dict[str, list[pytest.MarkDecorator]] = {"test": [], "timm": [], "escnn": [pytest.mark.referee]}
LEAST = {"median_deg": 10, "distance_mae_deg": 5, "mse": 15}
"""Combinations of a head and a loss that answer by each metric, at least."""


@pytest.mark.parametrize(
    "backbone",
    [pytest.param(name, marks=MARKS.get(name.partition("_")[0], [pytest.mark.slow]), id=name) for name in BACKBONES],
)
def test_what_may_be_put_together_works(backbone, tmp_path):
    made = dict.fromkeys(LEAST, 0)
    args = {} if backbone.startswith(("test_", "timm_")) else {"backbone_args": {"width": 1 / 16}}
    combinations = product([backbone], list_parts("head"), list_parts("loss"))
    for number, plain in enumerate(combinations):
        design = Design.from_dict({**plain.to_dict(), **args})
        tasks = [task for task in TASKS if why_impossible(task, design) is None]
        assert len(tasks) <= 1, "a design answers by one metric"
        for task in tasks:
            folder = tmp_path / str(number)
            trained = train(design.recipe(task, 0, steps=2), folder)
            again = load_pretrained(f"local-dir:{folder / 'model'}")
            test = task.test()
            first, second = (predict_batches(encoder, test.images) for encoder in (trained.encoder, again))
            for one, other in zip(first, second, strict=True):
                assert (one is None) == (other is None)
                assert one is None or torch.allclose(one, other, atol=1e-5), design.label
            assert judge(task, design, second, test.pose)[task.metric] >= 0
            made[task.metric] += 1
    print(f"{backbone}: {sum(made.values())} of {len(combinations)} combinations, {made}")
    assert all(made[metric] >= least for metric, least in LEAST.items()), made


def test_all_that_is_registered_is_tried():
    names = {f"{backbone}-{head}" for backbone in list_parts("backbone") for head in list_parts("head")}
    designs = product(
        [b for b in BACKBONES if not b.startswith(("timm_", "escnn_"))], list_parts("head"), list_parts("loss")
    )
    assert {design.encoder for design in designs} == names
    assert {design.loss for design in designs} == set(list_parts("loss"))
