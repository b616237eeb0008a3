"""What the moves of recovery are worth is measured by leaving them out, and nothing else."""

import pytest

from cryozoo.benchmarks.studies.recovery import Case, run
from cryozoo.benchmarks.studies.recovery_moves import MOVES, ablation, run_without, table

# Views whose estimates saturate: a link, thin axes, mirrored tilts and a circle to unroll.
AROUND = Case(150, 0.2, saturates=1.5, views="around one direction")


def test_moves_are_watched_and_left_out() -> None:
    whole, considered = run_without(AROUND, 0, ())
    assert considered == {"mirrored", "unrolled"}
    assert whole["E_OR"] == run(AROUND, 0)["E_OR"]
    without, considered = run_without(AROUND, 0, ("unrolled",))
    assert considered == {"mirrored", "unrolled"}
    assert without["seconds"] < whole["seconds"]
    assert run_without(Case(60, 0.2, each=40, wrong=0.4), 0, MOVES)[1] == {"replaced"}


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
