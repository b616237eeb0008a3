"""What the moves of :mod:`cryozoo.recovery.moves` are worth: recovery with all, with none, and without each.

    python -m cryozoo.benchmarks.studies.recovery_moves

Of the cases of the recovery study, those that ask for moves most: few pairs that are partly wrong (3 sets), and views
that crowd (10 sets). Each move alone is left out of those sets that the absence of all changes by more than a
hundredth, and that considered it. Writes ``results/recovery_moves.json`` and ``.md``.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from ...zoo.provenance import provenance
from ..runs import markdown_table
from .figures import write_figures
from .recovery import Case, run

MOVES = ("replaced", "mirrored", "unrolled")

# And how many sets of each.
_CASES = [
    (Case(5000, 0.2, each=100, wrong=0.5), 3),
    (Case(5000, 0.2, each=100, wrong=0.3, saturates=2.0), 3),
    (Case(1650, 0.6, views="around one direction"), 10),
    (Case(1650, 0.2, saturates=1.5, views="around one direction"), 10),
    (Case(1650, 0.6, views="around two directions"), 10),
    (Case(1650, 0.2, saturates=1.5, views="around two directions"), 10),
]


def run_without(case: Case, seed: int, left_out: tuple[str, ...]) -> tuple[dict[str, float], set[str]]:
    """The figures of a run without some moves, and the moves that it considered."""
    from ...recovery import orientations

    considered: set[str] = set()

    def watched(name: str) -> Any:
        move = getattr(orientations, name)

        def consider(*args: Any) -> Any:
            considered.add(name)
            if name not in left_out:
                return move(*args)
            return [] if name == "unrolled" else (args[1], 0)

        return consider

    with ExitStack() as stack:
        for name in MOVES:
            stack.enter_context(patch.object(orientations, name, watched(name)))
        return run(case, seed), considered


def ablation(case: Case, seeds: int) -> dict[str, Any]:
    """Errors and CPU seconds of every set, with all moves, with none, and without each."""
    variants = {"all": (), "none": MOVES, **{f"no {name}": (name,) for name in MOVES}}
    runs: dict[str, list[dict[str, float]]] = {variant: [] for variant in variants}
    for seed in range(seeds):
        done: dict[frozenset[str], dict[str, float]] = {}
        full, considered = run_without(case, seed, ())
        for variant, left_out in variants.items():
            matters = frozenset(left_out) & considered
            if len(left_out) == 1 and abs(runs["none"][seed]["E_OR"] - full["E_OR"]) < 0.01 * full["E_OR"]:
                matters = frozenset()
            if matters not in done:
                done[matters] = run_without(case, seed, left_out)[0] if matters else full
            runs[variant].append(done[matters])
    figures = {
        variant: {key: [round(r[key], 5) for r in rows] for key in ("E_OR", "seconds")}
        for variant, rows in runs.items()
    }
    return {**vars(case), **figures}


def measure() -> dict[str, Any]:
    """All figures."""
    import torch

    torch.set_num_threads(1)
    return {**provenance(), "rows": [ablation(case, sets) for case, sets in _CASES]}


def line(row: dict[str, Any]) -> list[str]:
    """A line of the table."""
    variants = ["all", "none", *(f"no {name}" for name in MOVES)]
    errors = [row[variant]["E_OR"] for variant in variants]
    seconds = [statistics.mean(row[variant]["seconds"]) for variant in variants[:2]]
    return [
        str(row["particles"]),
        row["views"],
        str(row["each"] or "all"),
        f"{row['deviation']:.1f}",
        f"{row['wrong']:.0%}",
        str(row["saturates"] or "-"),
        *(f"{statistics.median(of):.3f} / {max(of):.3f}" for of in errors[:2]),
        *("same" if of == errors[0] else f"{statistics.median(of):.3f} / {max(of):.3f}" for of in errors[2:]),
        *(f"{mean:.2f}" for mean in seconds),
    ]


def table(figures: dict[str, Any]) -> str:
    """Markdown."""
    header = ["P", "views", "distances of each", "deviation", "wrong", "saturates at", "all moves", "no moves"]
    header += [*(f"no `{name}`" for name in MOVES), "CPU seconds, all", "CPU seconds, none"]
    rows = markdown_table(header, [line(row) for row in figures["rows"]])
    return (
        "E_OR in radians, median / largest of 3 sets with few pairs, of 10 of crowded views (seeds from 0). CPU "
        f"seconds depend on what else the machine does; compare them within a row.\n\n{rows}"
    )


def main() -> None:
    """Measure, print, write."""
    write_figures("recovery_moves", measure())


if __name__ == "__main__":
    main()
