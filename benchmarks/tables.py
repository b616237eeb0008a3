"""Tables of the suites, made from their result files alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..training.data import Simulated
from ..training.recipe import Recipe
from ..zoo.columns import COLUMNS
from ..zoo.cost import multiply_accumulates
from ..zoo.encoder import create_encoder
from .runs import Result, bound_median_deg, load_results, markdown_table, spread

ENCODERS = "encoders"
"""Name of the short table, of the best encoders of two suites."""


def training_table(suite: str) -> str:
    """One row per setting (encoder, size, loss, data, steps), seeds pooled: accuracy, bound, confidence, cost."""
    records = load_results(suite)
    rows = _rows(records)
    same = {name for name in rows[0] if name in _SETTINGS and len({row[name] for row in rows}) == 1}
    header = [name for name in rows[0] if name not in same and any(row[name] for row in rows)]
    table = markdown_table(header, [[row[name] for name in header] for row in rows])
    common = "; ".join(f"{name} {rows[0][name]}" for name in rows[0] if name in same and rows[0][name])
    return f"{table}\n{_footer(records)}" + (f"The same in all rows: {common}.\n" if common else "")


def encoder_table() -> str:
    """The best settings at SNR 0.5 with new images at every step and three seeds, in a few columns."""
    records = [
        record
        for suite in ("heads_70s", "equivariant_70s")
        for record in load_results(suite)
        if record.data.imaging.snr == 0.5 and record.data.new_images
    ]
    rows = [row for row in _rows(records) if row["seeds"] == "0, 1, 2"][:_BEST]
    header = ["encoder", "loss", "median deg", "% <= 5", "bound", "M parameters"]
    table = markdown_table(header, [[row[name] for name in header] for row in rows])
    particles, seconds = records[0].metrics["n"], max(record.metrics["cpu_s"] for record in records)
    return (
        f"{table}\nE. coli 70S ribosome in noise (SNR 0.5), 64 pixels, trained for at most {seconds:,.0f} CPU seconds "
        f"on one thread. Median angle to the truth, share of particles within 5 degrees, and the median that the "
        f"Cramer-Rao bound allows, over {particles:,} particles that were never trained on; mean (lowest to highest) "
        "of three seeds.\n"
    )


def _rows(records: list[Result]) -> list[dict[str, str]]:
    """Cells by heading, one row per setting, ordered by SNR, images and median."""
    settings: dict[tuple[Any, ...], list[Result]] = {}
    for record in records:
        recipe, data, parameters = record.recipe, record.data, record.metrics["parameters"]
        loss = " ".join([recipe.loss, *(str(v) for v in recipe.loss_args.values())])
        key = (
            recipe.encoder,
            parameters,
            loss,
            data.imaging.snr_range,
            data.images,
            data.augment,
            data.ctf,
            recipe.steps,
        )
        settings.setdefault(key, []).append(record)
    bounds: dict[str, float] = {}
    rows = []
    for (encoder, parameters, loss, snr, _, augment, ctf, steps), pooled in sorted(
        settings.items(), key=lambda item: (-item[0][3][0], item[0][4] or 0, _best_median(item[1]))
    ):
        first, data = pooled[0].recipe, pooled[0].data
        task = str((data, first.image_size, first.pixel_size))
        if task not in bounds:
            bounds[task] = bound_median_deg(data, first.image_size, first.pixel_size)
        metrics = [record.metrics for record in pooled]

        rows.append(
            {
                "encoder": encoder,
                "M parameters": f"{parameters / 1e6:.2f}",
                "GMACs": f"{_multiply_accumulates(first) / 1e9:.3f}",
                "loss": loss,
                "SNR": " to ".join(f"{value:g}" for value in dict.fromkeys(snr)),
                "CTF": ctf if pooled[0].data.imaging.defocus else "",
                "training images": training_images(pooled[0].data),
                "augmentation": augment,
                **_over_seeds(metrics, "median_deg", "mean_deg", "acc_5", "acc_10", "acc_15"),
                "bound": f"{bounds[task]:.2f}",
                **_over_seeds(metrics, "chance_median_deg", "shift_rmse_A", "spearman"),
                **_over_seeds([m for m in metrics if _tells_at_5_degrees(m)], "auroc_5deg"),
                **_over_seeds(metrics, "mean_deg_kept_75", "nll", "ece"),
                **{f"CPU s to {d} deg": _seconds_to(pooled, d) for d in (15, 10)},
                **_over_seeds(metrics, "cpu_s"),
                "steps": str(steps),
                "seeds": ", ".join(str(m["seed"]) for m in metrics),
            }
        )
    return rows


def _over_seeds(metrics: list[dict[str, Any]], *keys: str) -> dict[str, str]:
    """Cells by heading; empty where no seed has the number."""
    values = {key: [m[key] * COLUMNS[key].scale for m in metrics if m.get(key) is not None] for key in keys}
    return {COLUMNS[key].heading: spread(v, COLUMNS[key].digits) if v else "" for key, v in values.items()}


_SETTINGS = (
    "M parameters",
    "GMACs",
    "loss",
    "SNR",
    "CTF",
    "training images",
    "augmentation",
    "bound",
    "chance",
    "steps",
)
"""Columns that a table does without where all rows agree."""

_BEST = 8
"""Rows of the short table."""

_FEWEST = 20


def _tells_at_5_degrees(metrics: dict[str, Any]) -> bool:
    """Whether enough particles are on either side of 5 degrees for an AUROC to mean something."""
    return min(metrics["acc_5"], 1 - metrics["acc_5"]) * metrics["n"] >= _FEWEST


def _best_median(records: list[Result]) -> float:
    return min(record.metrics["median_deg"] for record in records)


def _multiply_accumulates(recipe: Recipe) -> int:
    return multiply_accumulates(
        create_encoder(
            recipe.encoder,
            image_size=recipe.image_size,
            backbone_args=recipe.backbone_args,
            head_args=recipe.head_args,
        )
    )


def _seconds_to(records: list[Result], degrees: float) -> str:
    """CPU seconds until a validation first had a median so small; empty unless it happened with every seed.

    Also empty where validations are more than 500 steps apart, too far for seconds to mean much.
    """
    if any(record.recipe.validate_every > 500 for record in records):
        return ""
    first = [
        next((row["cpu_s"] for row in record.history if row.get("median_deg", 180) <= degrees), None)
        for record in records
    ]
    reached = [seconds for seconds in first if seconds is not None]
    return spread(reached, 0) if len(reached) == len(first) else ""


def training_images(data: Simulated) -> str:
    """How many there are, or "on the fly" where they are new at every step."""
    return "on the fly" if data.training_images is None else str(data.training_images)


def _footer(records: list[Result]) -> str:
    def distinct(read: Callable[[dict[str, Any]], Any]) -> str:
        return ", ".join(sorted({str(read(record.metrics)) for record in records}))

    return (
        f"Held-out particles: {distinct(lambda m: m['n'])}. Bound and chance: median angle in degrees of an estimator "
        "at the Cramer-Rao bound of the simulated task, and of a random guess. AUROC where at least "
        f"{_FEWEST} particles are off by more than 5 degrees, and as many by less. "
        f"Commit {distinct(lambda m: m['commit'])}; {distinct(lambda m: m['hardware'])}, "
        f"{distinct(lambda m: m['threads'])} thread(s); torch {distinct(lambda m: m['torch'])}.\n"
    )
