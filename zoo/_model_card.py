"""The README.md of a saved encoder: a Hugging Face model card, generated from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from .entry import Entry, Molecule

_LABELS = {
    "median_deg": "median angular error (degrees)",
    "mean_deg": "mean angular error (degrees)",
    "acc_5": "share within 5 degrees",
    "acc_10": "share within 10 degrees",
    "acc_15": "share within 15 degrees",
    "acc_30": "share within 30 degrees",
    "shift_rmse_A": "shift error per axis (RMSE, Angstrom)",
    "spearman": "rank correlation of confidence and error (-1 is perfect)",
    "auroc_5deg": "AUROC of the confidence for errors up to 5 degrees",
    "mean_deg_kept_75": "mean angular error of the 75 % most confident (degrees)",
    "median_deg_kept_75": "median angular error of the 75 % most confident (degrees)",
    "median_deg_kept_50": "median angular error of the 50 % most confident (degrees)",
}
_BASELINES = {
    "chance_median_deg": "median of random guesses (degrees)",
    "chance_mean_deg": "mean of random guesses (degrees)",
    "shift_rmse_of_zero_A": "shift error of predicting none (RMSE, Angstrom)",
}
_PROVENANCE = {
    "n": "test images",
    "steps": "training steps",
    "cpu_s": "training time (CPU seconds)",
    "seed": "seed",
    "cryozoo": "cryozoo",
    "commit": "commit",
    "torch": "torch",
    "hardware": "hardware",
    "threads": "threads",
}


def model_card(entry: Entry) -> str:
    """YAML front matter and Markdown; every number is one of the entry's."""
    front = yaml.safe_dump(_front_matter(entry), sort_keys=False, allow_unicode=True)
    parts = [f"---\n{front}---", f"# {entry.full_name}", _frame(entry.molecule), _use(entry)]
    if measured := _table({**_LABELS, **_BASELINES}, entry.metrics):
        parts.append(f"## Accuracy on the test set\n\n{measured}")
    if made := _table(_PROVENANCE, entry.metrics):
        parts.append(f"## Where the numbers come from\n\n{made}")
    if entry.trained_with:
        parts.append("The training recipe is `trained_with` in `config.json`.")
    return "\n\n".join(parts) + "\n"


def _front_matter(entry: Entry) -> dict[str, Any]:
    metrics = entry.metrics
    front: dict[str, Any] = {
        "library_name": "cryozoo",
        "license": "bsd-3-clause",
        "tags": ["cryozoo", "cryo-em", "pose-estimation", *entry.name.split("-")],
    }
    results = [{"type": k, "name": _LABELS[k], "value": metrics[k]} for k in _LABELS if metrics.get(k) is not None]
    if results:
        result = {
            "task": {"type": "pose-estimation", "name": "pose estimation"},
            "dataset": {"type": "cryo-em-particles", "name": _trained_on(entry)},
            "metrics": results,
        }
        front["model-index"] = [{"name": entry.full_name, "results": [result]}]
    return front


def _trained_on(entry: Entry) -> str:
    return entry.molecule.name if entry.molecule else "not recorded"


def _frame(molecule: Molecule | None) -> str:
    if molecule is None:
        return (
            "A pose encoder for single-particle cryo-EM images. **The molecule it was trained on is not recorded**: in "
            "which frame its poses are given is not known, and poses of other molecules mean nothing."
        )
    return (
        f"A pose encoder for single-particle cryo-EM images of **{_plain(molecule.name)}** "
        f"({_plain(molecule.source)}, symmetry {_plain(molecule.symmetry)}).\n\n"
        "Poses are given in the frame of that molecule's map. **For images of another molecule they mean nothing**, "
        "however confident they look."
    )


def _use(entry: Entry) -> str:
    size = entry.image_size
    return (
        "```python\n"
        "import cryozoo\n\n"
        'encoder = cryozoo.load_pretrained("local-dir:PATH_OF_THIS_FOLDER")\n'
        'encoder.predict("particles.star").save("poses.star")\n'
        "```\n\n"
        f"Images are resampled to {size} x {size} pixels of {entry.pixel_size:g} Angstrom; particles are bright. "
        f"{entry.parameters:,} parameters."
    )


def _table(labels: Mapping[str, str], values: Mapping[str, Any]) -> str:
    rows = [(label, values[key]) for key, label in labels.items() if values.get(key) is not None]
    if not rows:
        return ""
    shown = (f"| {label} | {_plain(f'{v:.4g}' if isinstance(v, float) else v)} |" for label, v in rows)
    return "\n".join(["| | |", "|---|---|", *shown])


def _plain(value: Any) -> str:
    """One line that Markdown takes literally."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in " ".join(str(value).split()))
