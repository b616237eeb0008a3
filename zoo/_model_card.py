"""The README.md of a saved encoder: a Hugging Face model card, generated from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .columns import Column, columns
from .entry import FRAME, Entry

MAP_PICTURE, NOISE_PICTURE = "map.png", "noise.png"
_THIS = "local-dir:PATH_OF_THIS_FOLDER"


def model_card(entry: Entry) -> str:
    """YAML front matter and Markdown; every number is one of the entry's."""
    parts = [f"---\n{_front_matter(entry)}\n---", f"# {entry.full_name}", _frame(entry), _use(entry)]
    if measured := _table(columns("accuracy") + columns("baseline"), entry.metrics):
        parts.append(f"## Accuracy on the test set\n\n{measured}")
    if entry.metrics.get("over_noise"):
        parts.append(f"## Accuracy over noise\n\n{_picture(entry, NOISE_PICTURE)}{_over_noise(entry)}")
    parts.append(f"## In other programs\n\n{_elsewhere(entry)}")
    if made := _table(columns("effort", "provenance"), entry.metrics):
        parts.append(f"## Where the numbers come from\n\n{made}")
    if entry.trained_with:
        parts.append("The training recipe is `trained_with` in `config.json`.")
    if entry.licences is not None or entry.citation is not None:
        parts.append(f"## Licences and citation\n\n{_licences(entry)}")
    return "\n\n".join(parts) + "\n"


def _front_matter(entry: Entry) -> str:
    from huggingface_hub.repocard_data import EvalResult, ModelCardData

    molecule = entry.molecule.name if entry.molecule else "not recorded"

    # By its configuration a data set is told from others; that of the training's test set has none.
    measured: dict[str | None, Mapping[str, Any]] = {None: entry.metrics}
    for snr, found in entry.metrics.get("over_noise", {}).get("at", {}).items():
        measured |= {f"SNR {snr}": found["alone"], f"SNR {snr}, poses refined": found["refined"]}
    results = [
        EvalResult(
            task_type="pose-estimation",
            task_name="pose estimation",
            dataset_type="cryo-em-particles",
            dataset_name=molecule,
            dataset_config=config,
            metric_type=column.key,
            metric_name=column.label,
            metric_value=metrics[column.key],
        )
        for config, metrics in measured.items()
        for column in columns("accuracy")
        if metrics.get(column.key) is not None
    ]
    licence = entry.licences and entry.licences.weights
    return ModelCardData(
        library_name="cryozoo",
        license=(licence or "BSD-3-Clause").lower(),
        tags=["cryozoo", "cryo-em", "pose-estimation", *entry.name.split("-")],
        model_name=entry.full_name if results else None,
        eval_results=results or None,
    ).to_yaml()


def pictures(entry: Entry) -> list[str]:
    """Files with pictures that the card of a published encoder shows."""
    drawn = {MAP_PICTURE: FRAME in entry.files, NOISE_PICTURE: bool(entry.metrics.get("over_noise"))}
    return [name for name, there in drawn.items() if there]


def _picture(entry: Entry, name: str) -> str:
    published = entry.source.startswith("hf-hub:") and name in pictures(entry)
    return f"![{name.partition('.')[0]}]({name})\n\n" if published else ""


def _frame(entry: Entry) -> str:
    molecule = entry.molecule
    if molecule is None:
        return (
            "A pose encoder for single-particle cryo-EM images. **The molecule it was trained on is not recorded**: in "
            "which frame its poses are given is not known, and poses of other molecules mean nothing."
        )
    return (
        f"A pose encoder for single-particle cryo-EM images of **{_plain(molecule.name)}** "
        f"({_plain(molecule.source)}, symmetry {_plain(molecule.symmetry)}).\n\n"
        "Poses are given in the frame of that molecule's map"
        + (f", a small copy of which is `{FRAME}`" if FRAME in entry.files else "")
        + ". **For images of another molecule they mean nothing**, "
        "however confident they look.\n\n" + _picture(entry, MAP_PICTURE)
    ).rstrip()


def _use(entry: Entry) -> str:
    size = entry.image_size
    published = entry.source.startswith("hf-hub:")
    name = f'"{entry.source}", revision="main"' if published else f'"{_THIS}"'
    refine = ', refine="frame"' if FRAME in entry.files else ""
    return (
        "```python\n"
        "import cryozoo\n\n"
        f"encoder = cryozoo.load_pretrained({name})\n"
        f'poses = encoder.predict("particles.star"{refine})\n'
        'poses.save("poses.star")  # RELION; .cs is cryoSPARC, .pkl cryoDRGN and DRGN-AI, .npz numpy\n'
        "```\n\n"
        f"Images are resampled to {size} x {size} pixels of {entry.pixel_size:g} Angstrom; particles are bright. "
        + ("Phases are flipped by the CTF of the table. " if entry.ctf == "phase_flip" else "")
        + f"{entry.parameters:,} parameters."
    )


def _elsewhere(entry: Entry) -> str:
    """How poses, or the network, get into other programs."""
    name = f"{entry.source}@COMMIT" if entry.source.startswith("hf-hub:") else _THIS
    refine = " --refine frame" if FRAME in entry.files else ""
    return "\n".join(
        [
            "```sh",
            f"cryozoo predict particles.star --encoder {name}{refine} -o poses.star",
            f"cryozoo export {name} -o encoder.onnx",
            "```",
            "",
            "| program | what it takes |",
            "|---|---|",
            "| RELION | `poses.star` in place of the particles; local searches (`--sigma_ang`) begin there |",
            "| cryoSPARC | `poses.star` by Import Particle Stack, or `-o poses.cs` beside the job's .cs |",
            "| cryoDRGN, DRGN-AI | `-o poses.pkl` |",
            "| PyTorch without cryozoo | `cryozoo export ... -o encoder.pt2`, then `torch.export.load` |",
            "| ONNX Runtime | `encoder.onnx` |",
            "| numpy | `-o poses.npz` |",
        ]
    )


def _licences(entry: Entry) -> str:
    stated = [] if entry.licences is None else [(k, v) for k, v in vars(entry.licences).items() if v is not None]
    lines = [f"- {kind}: {_plain(licence)}" for kind, licence in stated]
    if entry.citation is not None:
        lines.append(f"- please cite for the data: {_plain(entry.citation)}")
    return "\n".join(lines)


def _table(shown: list[Column], values: Mapping[str, Any]) -> str:
    rows = [(column.label, values[column.key]) for column in shown if values.get(column.key) is not None]
    if not rows:
        return ""
    lines = (f"| {label} | {_plain(f'{v:.4g}' if isinstance(v, float) else v)} |" for label, v in rows)
    return "\n".join(["| | |", "|---|---|", *lines])


def _over_noise(entry: Entry) -> str:
    """Of new particles: as they are predicted, and refined against the map that is here."""
    measured = entry.metrics["over_noise"]
    lines = [
        "| SNR | median deg | % <= 10 | refined: median deg | % <= 10 | best possible, median deg | chance |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for snr, found in measured["at"].items():
        cells = [
            cell
            for how in ("alone", "refined")
            for cell in (f"{found[how]['median_deg']:.2f}", f"{100 * found[how]['acc_10']:.1f}")
        ]
        last = f"{found['bound_median_deg']:.2f}", f"{found['alone']['chance_median_deg']:.0f}"
        lines.append("| " + " | ".join([snr, *cells, *last]) + " |")
    where = (
        f"{measured['images']:,} new particles at each SNR, seed {measured['seed']}, white noise, shifts and CTF as in "
    )
    where += f"training; refined against `frame.mrc`; commit {measured['commit']}, {measured['hardware']}."
    return "\n".join(lines) + "\n\n" + where


def _plain(value: Any) -> str:
    """One line that Markdown takes literally."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in " ".join(str(value).split()))
