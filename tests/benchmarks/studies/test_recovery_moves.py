"""What the moves of recovery are worth is measured by leaving them out, and nothing else."""

import pytest

from cryozoo.benchmarks.studies.recovery import Case, run
from cryozoo.benchmarks.studies.recovery_moves import MOVES, ablation, run_without, table

AROUND = Case(100, 0.6, views="around one direction")


def test_moves_are_watched_and_left_out() -> None:
    whole, considered = run_without(AROUND, 5, ())
    assert considered == {"mirrored"}
    assert whole["E_OR"] == run(AROUND, 5)["E_OR"]
    without, considered = run_without(AROUND, 5, MOVES)
    assert considered == {"mirrored"}
    assert without["E_OR"] > 1.05 * whole["E_OR"]
    assert run_without(Case(150, 0.2, each=60, wrong=0.1), 0, MOVES)[1] == {"replaced"}


def test_a_move_alone_is_left_out_only_where_all_of_them_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors made up: leaving out all of them doubles that of the second set, and mirroring is why."""
    asked = []

    def made_up(case: Case, seed: int, left_out: tuple[str, ...]) -> tuple[dict[str, float], set[str]]:
        asked.append((seed, left_out))
        worse = seed == 1 and "mirrored" in left_out
        return {"E_OR": 0.2 if worse else 0.1, "seconds": 1.0}, {"mirrored", "unrolled"}

    monkeypatch.setattr("cryozoo.benchmarks.studies.recovery_moves.run_without", made_up)
    row = ablation(AROUND, 2)
    assert row["all"]["E_OR"] == row["no replaced"]["E_OR"] == row["no unrolled"]["E_OR"] == [0.1, 0.1]
    assert row["none"]["E_OR"] == row["no mirrored"]["E_OR"] == [0.1, 0.2]
    assert asked == [(0, ()), (0, MOVES), (1, ()), (1, MOVES), (1, ("mirrored",)), (1, ("unrolled",))]
    assert "| 0.100 / 0.100 | 0.150 / 0.200 | same | 0.150 / 0.200 | same |" in table({"rows": [row]})
