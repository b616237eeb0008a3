"""What a study measured, and its table: ``results/NAME.json`` and ``.md``, the second made from the first alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from ...particles.files import atomic_write, write_json
from ..runs import RESULTS, markdown_table

STUDIES = (
    "ab_initio",
    "ab_initio_decoders",
    "ab_initio_networks",
    "ab_initio_others",
    "cryoai_step",
    "ctf_snr",
    "half_precision",
    "matching",
    "matching_junk",
    "matching_limit",
    "matching_mismatch",
    "matching_newcomer",
    "matching_noise",
    "matching_relion",
    "matching_stacks",
    "overhead",
    "pretrained",
    "pretrained_relion",
    "reconstruction",
    "recovery",
    "recovery_moves",
    "so3_harmonic",
    "steerable_speed",
    "strangers",
    "training_step",
    "transfer",
)


def figure_table(figures: Mapping[str, Any]) -> str:
    """A row for each figure."""
    rows = [[key, f"{value:.4g}" if isinstance(value, float) else str(value)] for key, value in figures.items()]
    return markdown_table(["figure", "value"], rows)


def study_table(name: str) -> str:
    """The table of a study that has been run: by its module's ``table(figures)``, or a row for each figure."""
    figures = json.loads((RESULTS / f"{name}.json").read_text())
    table: str = getattr(import_module(f".{name}", __package__), "table", figure_table)(figures)
    return table


def measured_before(name: str, **settings: object) -> list[dict[str, Any]]:
    """The rows of a study that were measured with the same settings; a row carries the commit that measured it."""
    kept = RESULTS / f"{name}.json"
    before = json.loads(kept.read_text()) if kept.exists() else {}
    return before.get("rows", []) if settings.items() <= before.items() else []


def measured_at(rows: list[dict[str, Any]]) -> str:
    """The commits and the hardware of rows that carry them."""
    return "commits " + ", ".join(sorted({f"{row['commit']} ({row['hardware']})" for row in rows}))


def write_figures(name: str, figures: Mapping[str, Any]) -> None:
    """Write what the study ``name`` measured, and its table; print the table."""
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / f"{name}.json", figures, overwrite=True)
    text = study_table(name)
    with atomic_write(RESULTS / f"{name}.md", overwrite=True) as file:
        file.write(text.encode())
    print(text)
