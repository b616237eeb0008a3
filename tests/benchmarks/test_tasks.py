"""Tasks and designs: what is asked, what is tried, and what cannot be."""

import itertools
import json

import pytest
import torch

from cryozoo.benchmarks.design import Design, product, why_impossible
from cryozoo.benchmarks.judge import judge
from cryozoo.benchmarks.task import Task, list_tasks
from cryozoo.geometry.pose import Pose
from cryozoo.geometry.sampling import random_rotations
from cryozoo.particles.errors import BadInput
from cryozoo.training.batches import step_seed
from cryozoo.zoo.registry import list_parts

PLAIN = {
    "title": "A phantom",
    "image_size": 32,
    "data": {"volume": "phantom:0", "snr": 1.0, "shift_sigma": 4.0, "held_out": 20},
    "pixel_size": 10.0,
    "budget": 1.0,
}
TASK = Task.from_dict(PLAIN, "phantom")


@pytest.mark.parametrize("name", list_tasks())
def test_tasks_are_whole(name):
    task = Task.load(name)
    assert Task.from_dict(task.to_dict(), name) == task
    assert task.title.isprintable()


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(BadInput, match=r"70s_snr0\.5"):
        Task.load("70s_snr0.6")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"budget": 0}, "budget"),
        ({"metric": "accuracy"}, "metric"),
        ({"data": {"snr": 1.0}}, "data"),
        ({"colour": "red"}, "colour"),
        ({"image_size": "64"}, "image_size"),
    ],
)
def test_a_bad_field_is_named(change, field):
    with pytest.raises(BadInput, match=field):
        Task.from_dict({**PLAIN, **change}, "phantom")


def test_an_unseen_molecule_judges():
    """It is another one than designs are trained on, with the same imaging; its own symmetry and bound count."""
    unseen = Task.from_dict({**PLAIN, "test_volume": "phantom:1"}, "unseen")
    assert unseen.data == TASK.data
    assert not torch.equal(unseen.test().images, TASK.test().images)
    other = Task.from_dict({**PLAIN, "data": {**PLAIN["data"], "volume": "phantom:1"}}, "other")
    assert torch.equal(unseen.test().images, other.test().images)
    assert unseen.digest != TASK.digest
    with pytest.raises(BadInput, match="test_volume"):
        Task.from_dict({**PLAIN, "data": {"particles": "a.star"}, "test_volume": "phantom:1"}, "unseen")


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(PLAIN))
    assert Task.load(path).name == "mine"


def test_the_digest_is_of_what_answers_depend_on():
    changed = [Task.from_dict({**PLAIN, **change}, "phantom") for change in ({"budget": 2.0}, {"shift": False})]
    assert len({task.digest for task in (TASK, *changed)}) == 3
    assert Task.from_dict({**PLAIN, "title": "Said otherwise"}, "other").digest == TASK.digest


def test_another_budget_is_another_task():
    assert TASK.within(1.0) is TASK
    assert TASK.within(2.0).name == "phantom_2s"


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "model.npz"
    path.write_bytes(b"content")
    data = {**PLAIN["data"], "volume": str(path)}
    with pytest.raises(BadInput, match="sha256"):
        Task.from_dict({**PLAIN, "data": data, "data_sha256": "0" * 64}, "mine").check_data()


def test_the_test_set_is_no_training_set():
    test = TASK.test()
    data = TASK.data.open(32, 10.0, torch.device("cpu"), 0)
    assert torch.equal(test.images, TASK.test().images)
    for step in range(3):
        torch.manual_seed(step_seed(0, step))
        batch = data.batch(step, 20)
        assert not torch.isclose(batch.pose.rotation[:, None], test.pose.rotation).all((-1, -2)).any()


def test_designs_are_the_product():
    designs = product(["a", "b"], ["x"], ["l", "m"])
    assert [(d.encoder, d.loss) for d in designs] == [("a-x", "l"), ("a-x", "m"), ("b-x", "l"), ("b-x", "m")]


def test_labels_tell_designs_apart():
    plain = Design("test_vgg_gem-sixd_svd", "chordal")
    labels = {plain.label}
    for args in ({"loss_args": {"norm": "l1"}}, {"training": {"lr": 0.1}}, {"backbone_args": {"dropout": 0.1}}):
        labels.add(Design.from_dict({**plain.to_dict(), **args}).label)
    assert len(labels) == 4
    assert plain.label == "test_vgg_gem-sixd_svd+chordal"


def test_what_the_task_says_no_design_changes():
    with pytest.raises(BadInput, match="steps is the task's"):
        Design("test_vgg_gem-sixd_svd", "chordal", training={"steps": 9}).recipe(TASK, 0)


@pytest.mark.parametrize(
    ("design", "why"),
    [
        (Design("test_vgg_gem-sixd_svd", "chordal"), None),
        (Design("test_vgg_gem-qcqp_bingham", "bingham_nll"), None),
        (Design("test_vgg_gem-sixd_svd", "bingham_nll"), "BinghamNLL: needs"),
        (Design("test_vgg_gem-embedding", "chordal"), "gives no rotation"),
        (Design("test_vgg_gem-embedding", "siamese_distance"), "the task asks for median_deg"),
        (Design("test_vgg_gem-sixd_svd", "reconstruction_l2"), "the task asks for median_deg"),
        (Design("test_vgg_gem-sixd_svd", "chordal", loss_args={"nosuch": 1}), "nosuch"),
    ],
)
def test_what_cannot_be_says_why(design, why):
    said = why_impossible(TASK, design)
    assert said is None if why is None else why in said


def test_every_combination_of_rotation_heads_and_losses_is_decided():
    """Of the registered heads with the registered losses, those that can be are these."""
    possible = {
        (head, loss)
        for head, loss in itertools.product(list_parts("head"), list_parts("loss"))
        if why_impossible(TASK, Design(f"test_vgg_gem-{head}", loss)) is None
    }
    rotations = set(list_parts("head")) - {"embedding"}
    likelihoods = itertools.product(("qcqp_bingham", "nined_svd"), ("bingham_nll", "rotation_laplace"))
    densities = {("so3_harmonic", "so3_nll"), *likelihoods}
    assert densities <= possible
    for loss in ("chordal", "geodesic"):
        assert {(head, loss) for head in rotations - {"so3_harmonic"}} <= possible


def test_true_poses_are_judged_perfect_and_random_ones_at_chance():
    truth = TASK.test().pose
    design = Design("test_vgg_gem-sixd_svd", "chordal")
    assert judge(TASK, design, truth, truth)["median_deg"] < 1e-3
    guessed = Pose(random_rotations(20, generator=torch.Generator().manual_seed(1)))
    assert judge(TASK, design, guessed, truth)["median_deg"] > 60


def test_predictions_of_other_particles_are_refused():
    truth = TASK.test().pose
    design = Design("test_vgg_gem-sixd_svd", "chordal")
    with pytest.raises(BadInput, match="19 particles"):
        judge(TASK, design, truth.rows(slice(19)), truth)
    with pytest.raises(BadInput, match="without rotations"):
        judge(TASK, design, Pose(None, raw=torch.zeros(20, 3)), truth)
