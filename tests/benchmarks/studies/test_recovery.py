"""The recovery benchmark spoils distances as it says, and its bound is the textbook's where there is one."""

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from cryozoo.benchmarks.studies import recovery, recovery_adam
from cryozoo.benchmarks.studies.recovery import PAPER, Case, alignment, measure, run, table
from cryozoo.geometry import quaternion_distance, quaternion_to_matrix, random_quaternions
from cryozoo.recovery import DensePairs


@pytest.mark.parametrize("deviation", [0.1, 0.4, 0.8])
def test_bound_of_normal_errors_is_the_closed_form(deviation: float) -> None:
    expected = deviation * math.sqrt(3 / 1649) * math.sqrt(8 / math.pi)
    assert Case(1650, deviation, clipped=False).bound() == pytest.approx(expected, rel=1e-3)


def test_bound_of_clipped_errors_is_that_of_censored_data() -> None:
    s = 0.8

    def information(d: float) -> float:
        low, high = -d / s, (math.pi - d) / s
        inside = quad(lambda z: z * z * norm.pdf(z), low, high)[0]
        return (inside + norm.pdf(low) ** 2 / norm.cdf(low) + norm.pdf(high) ** 2 / norm.sf(high)) / s**2

    mean = quad(lambda d: information(d) * (1 - math.cos(d)) / math.pi, 0, math.pi)[0]
    expected = math.sqrt(3 / (mean * 1649)) * math.sqrt(8 / math.pi)
    assert Case(1650, s).bound() == pytest.approx(expected, rel=1e-3)


def test_bound_grows_with_all_that_spoils() -> None:
    clean = Case(1650, 0.2).bound()
    assert Case(1650, 0.2, wrong=0.3).bound() > clean / math.sqrt(0.7)
    assert Case(1650, 0.2, saturates=1.2).bound() > 2 * clean
    assert Case(1650, 0.2, each=100).bound() == pytest.approx(clean * math.sqrt(1649 / 100))
    assert Case(1650, 0.0).bound() == 0


def test_estimates_are_spoilt_as_the_case_says() -> None:
    d = torch.linspace(0.5, 2.5, 200_000, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    errors = Case(1650, 0.1, clipped=False).estimate(d, generator) - d
    assert errors.std().item() == pytest.approx(0.1, rel=0.01)
    wrong = (Case(1650, 0.0, wrong=0.3).estimate(d, generator) - d).abs() > 1e-9
    assert wrong.double().mean().item() == pytest.approx(0.3, abs=0.01)
    clipped = Case(1650, 0.8).estimate(d, generator)
    assert clipped.min() == 0
    assert clipped.max() == math.pi
    assert Case(1650, 0.0, saturates=1.2).estimate(d, generator).max() < 1.2


def test_a_run_is_near_its_bound() -> None:
    case = Case(300, 0.3, clipped=False)
    figures = run(case, 0)
    assert figures["E_OR"] == pytest.approx(case.bound(), rel=0.1)
    assert figures["L_OR"] == pytest.approx(0.09, rel=0.03)
    few = Case(300, 0.2, each=100)
    assert few.bound() < run(few, 0)["E_OR"] < 1.2 * few.bound()


def test_adam_lowers_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    q = random_quaternions(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = quaternion_distance(q[:, None], q)
    losses = []
    for batches in (1, 300):
        monkeypatch.setattr(recovery_adam, "_MOST", batches)
        found = recovery_adam.adam(DensePairs(exact), seed=0)
        assert (found.norm(dim=1) - 1).abs().max() < 1e-12
        losses.append((exact - quaternion_distance(found[:, None], found)).square().mean().item())
    assert losses[1] < 0.2 * losses[0]


def test_alignment_finds_what_many_starts_find() -> None:
    assert [row[1] for row in alignment(100, 1)] == ["1 of 1"] * 5


def test_tables_hold_every_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery_adam, "_MOST", 3)
    monkeypatch.setattr(recovery, "PAPER", {s: PAPER[s] for s in (0.0, 0.8)})
    monkeypatch.setattr(recovery, "_ALL_PAIRS", [(0.2, 0.0, None)])
    monkeypatch.setattr(recovery, "_FEW_PAIRS", [(0.2, 0.1, None)])
    monkeypatch.setattr(recovery, "_UNEVEN", [(0.2, None)])
    monkeypatch.setattr(recovery, "alignment", lambda particles: [["0.0", "1 of 1", "1.0"]])
    text = table(measure(200, 1))
    assert text.count("\n| spectral | 200 |") == text.count("\n| adam | 200 |") == 2
    assert "0.639 / 0.194" in text
    assert "| 200 | 100 | 0.2 | 10% |" in text
    assert "| around two directions | 0.2 | - |" in text


def test_views_are_as_they_say() -> None:
    generator = torch.Generator().manual_seed(0)
    up = {
        views: quaternion_to_matrix(Case(20_000, 0.0, views=views).orientations(generator))[:, 2, 2]
        for views in recovery.VIEWS
    }
    assert up["even"].mean().abs() < 0.02
    assert up["around one direction"].mean().item() == pytest.approx(math.exp(-(0.5**2) / 2), abs=0.01)
    assert up["across one direction"].std().item() == pytest.approx(0.03, rel=0.05)
    assert (up["around two directions"] > 0.7).double().mean().item() == pytest.approx(0.5, abs=0.01)
