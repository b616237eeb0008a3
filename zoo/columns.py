"""Every number that is measured of an encoder, once: how cards, the command line and tables show it."""

from __future__ import annotations

from typing import Literal, NamedTuple

Better = Literal["lower", "higher"]
Kind = Literal["accuracy", "baseline", "effort", "size", "provenance"]


class Column(NamedTuple):
    """How one number is shown.

    Attributes:
        key: its name in ``metrics``.
        label: in cards, which show bare numbers: with the unit.
        line: at the command line.
        shown: format at the command line: with the unit.
        heading: in tables.
        digits: after the point in tables, of the mean over seeds and of the lowest and highest.
        better: which of two numbers; None where neither is.
        kind: what it tells of: the encoder, guessing, what was spent, how large the encoder is, where it was measured.
        scale: by which it is multiplied in tables.
    """

    key: str
    label: str
    line: str
    shown: str
    heading: str
    digits: int = 2
    better: Better | None = None
    kind: Kind = "accuracy"
    scale: float = 1.0


_LOWER: Better = "lower"
_HIGHER: Better = "higher"

_COLUMNS = (
    Column("n", "test images", "particles", "{}", "test images", 0, kind="effort"),
    Column("median_deg", "median angular error (degrees)", "median error", "{:.2f} deg", "median deg", 2, _LOWER),
    Column("mean_deg", "mean angular error (degrees)", "mean error", "{:.2f} deg", "mean deg", 2, _LOWER),
    *(
        Column(f"acc_{d}", f"share within {d} degrees", f"within {d} deg", "{:.1%}", f"% <= {d}", 1, _HIGHER, scale=100)
        for d in (5, 10, 15, 30)
    ),
    *(
        Column(
            f"chance_{kind}_deg",
            f"{kind} of random guesses (degrees)",
            f"{kind} of a random guess",
            "{:.1f} deg",
            heading,
            0,
            kind="baseline",
        )
        for kind, heading in (("median", "chance"), ("mean", "chance, mean deg"))
    ),
    Column(
        "shift_rmse_A",
        "shift error per axis (RMSE, Angstrom)",
        "shift error (RMS per axis)",
        "{:.2f} A",
        "shift A",
        2,
        _LOWER,
    ),
    Column(
        "shift_rmse_of_zero_A",
        "shift error of predicting none (RMSE, Angstrom)",
        "shift error of predicting none",
        "{:.2f} A",
        "no shift, A",
        kind="baseline",
    ),
    Column(
        "spearman",
        "rank correlation of confidence and error (-1 is perfect)",
        "confidence and error, Spearman",
        "{:.3f}",
        "Spearman",
        2,
        _LOWER,
    ),
    Column(
        "auroc_5deg",
        "AUROC of the confidence for errors up to 5 degrees",
        "confidence finds 5 deg, AUROC",
        "{:.3f}",
        "AUROC 5",
        2,
        _HIGHER,
    ),
    *(
        Column(
            f"{kind}_deg_kept_{share}",
            f"{kind} angular error of the {share} % most confident (degrees)",
            f"{kind} error of the surest {share} %",
            "{:.2f} deg",
            f"{kind} of surest {share} %",
            2,
            _LOWER,
        )
        for kind, share in (("mean", 75), ("median", 75), ("median", 50))
    ),
    Column(
        "nll",
        "negative log likelihood of the truth (0 is uniform)",
        "log likelihood, negative",
        "{:.2f}",
        "NLL",
        2,
        _LOWER,
    ),
    Column("ece", "expected calibration error of the density", "calibration error", "{:.3f}", "ECE", 3, _LOWER),
    *(
        Column(
            f"coverage_{share}",
            f"share of truths in the region that should hold {share} %",
            f"truths in the region of {share} %",
            "{:.1%}",
            f"% in {share} %",
            1,
            scale=100,
        )
        for share in (50, 90)
    ),
    Column(
        "residual",
        "mean squared residual of images against the learnt map (1 is their own variance)",
        "residual of images",
        "{:.4f}",
        "residual",
        4,
        _LOWER,
    ),
    *(
        Column(
            key,
            f"{kind} squared distance of rotations, frame and hand aligned first",
            f"{kind} squared distance, aligned",
            "{:.3f}",
            heading,
            3,
            _LOWER,
        )
        for key, kind, heading in (("mse", "mean", "MSE"), ("medse", "median", "MedSE"))
    ),
    Column("steps", "training steps", "steps", "{}", "steps", 0, kind="effort"),
    Column(
        "distance_mae_deg",
        "mean error of distances (degrees)",
        "mean error of distances",
        "{:.2f} deg",
        "distance deg",
        2,
        _LOWER,
    ),
    Column(
        "chance_distance_mae_deg",
        "mean error of always guessing the median distance (degrees)",
        "of always the median distance",
        "{:.2f} deg",
        "distance deg, chance",
        kind="baseline",
    ),
    Column("cpu_s", "training time (CPU seconds)", "CPU time", "{:.0f} s", "CPU s", 0, kind="effort"),
    Column("parameters", "parameters", "parameters", "{:,}", "parameters", 0, kind="size"),
    *(
        Column(key, key.replace("_", " "), key.replace("_", " "), "{}", key, 0, kind="provenance")
        for key in (
            "unfinished",
            "prolonged",
            "begun_from",
            "data_sha256",
            "seed",
            "cryozoo",
            "commit",
            "torch",
            "hardware",
            "threads",
            "processes",
        )
    ),
)
COLUMNS = {column.key: column for column in _COLUMNS}
"""By key, in the order in which they are shown."""


def columns(*kinds: Kind) -> list[Column]:
    """The columns of some kinds."""
    return [column for column in _COLUMNS if column.kind in kinds]
