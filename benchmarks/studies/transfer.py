"""What an encoder of other molecules is worth to a molecule that it never saw.

    python -m cryozoo.benchmarks.studies.transfer FOLDER [SEEDS]

Pretrains one D4 backbone on 24 molecules, one of them drawn for every step and each with a last layer of its own. Five
others that it never saw, nor relatives of them, are then learnt from there, from the backbone of one encoder of the
zoo, and from scratch: median error of new images after every 100 steps. Also asked, without any training: does the
similarity of features tell pairs of images whose viewing directions are near, of molecules that were never seen?

The backbone is kept in FOLDER; runs that were measured are not measured again. Prints two tables and writes them to
``results/transfer.json`` and ``.md``. On one thread.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...zoo.provenance import provenance
from ..runs import markdown_table, spread
from .figures import measured_at, measured_before, write_figures

if TYPE_CHECKING:
    from torch import Tensor

    from ...training.recipe import Recipe
    from ...zoo.encoder import PoseEncoder

# No ribosomes and no relatives of the unseen ones: polymerases, kinases, topoisomerases, synthetases.
SEEN = (
    *("1bvs_3pfi_v2", "1i84", "1qgk", "1qvr", "2hpi", "2xwu", "3al0", "3f2b", "3puz", "4q4h", "4tqu", "4wsb"),
    *("4x4n", "5aor", "5e02", "5fkw", "5mg3", "5x3x", "5xu1", "6a69", "6c26", "dnaj"),
    *("MG_218_MONOMER_int", "MG_355_HEXAMER_sw"),
)
UNSEEN = {
    "70S ribosome": "4v89",
    "RNA polymerase II": "5flm",
    "mTOR": "4jsv",
    "gyrase": "6rkw",
    "IleRS and tRNA": "1ffy",
}
ONE = "beta_galactosidase"
_SCRATCH, _ONE, _MANY = "from scratch", "from one encoder", "from 24 molecules"
_SNR = 0.3
_PRETRAINING, _STEPS, _EVERY, _BATCH = 2400, 400, 100, 32
_PAIRED, _NEAR_DEG = 384, 15.0


def recipe_of(structure: str, held_out: int = 512, **fields: Any) -> Recipe:
    """The recipe that ``train --map`` would make, with fewer images a step and one SNR."""
    from ...training.data import Simulated
    from ...training.from_map import recipe_from_map

    recipe = recipe_from_map(f"structures/{structure}.npz")
    assert isinstance(recipe.data, Simulated)
    data = replace(recipe.data, imaging=replace(recipe.data.imaging, snr=_SNR), held_out=held_out)
    return replace(recipe, data=data, batch_size=_BATCH, steps=_STEPS, validate_every=_EVERY, **fields)


def pretrain(folder: Path, steps: int = _PRETRAINING) -> dict[str, Any]:
    """Train a backbone on the molecules that are seen; the encoder is left in ``folder/model``."""
    from .molecules import train_on_molecules

    metrics = train_on_molecules([recipe_of(name, held_out=64) for name in SEEN], folder, steps=steps).metrics
    return {key: metrics[key] for key in ("median_deg", "steps", "cpu_s")}


def curve(structure: str, start: str | None, seed: int) -> dict[str, Any]:
    """Median error in degrees after every 100 steps; and at the end of what was kept."""
    from ...training.trainer import train

    begun: dict[str, Any] = {} if start is None else {"init": start, "init_part": "backbone"}
    result = train(recipe_of(structure, seed=seed, **begun), device="cpu")
    curve = {str(row["step"]): row["median_deg"] for row in result.history}
    return {"median_deg": curve, "cpu_s": result.metrics["cpu_s"]}


def near_pairs(structure: str, encoders: Mapping[str, PoseEncoder]) -> dict[str, float]:
    """AUROC of "viewing directions within 15 degrees", seen from behind too, by the similarity of two images.

    Features, or pixels, of one image are compared with those of the other in all eight positions of D4.
    """
    import torch

    from ...imaging.inplane import transform_d4
    from ...training.data import Simulated
    from ...zoo.evaluate import auroc

    recipe = recipe_of(structure, held_out=_PAIRED)
    assert isinstance(recipe.data, Simulated)
    batch = recipe.data.open(recipe.image_size, recipe.pixel_size, torch.device("cpu")).validation
    assert batch.pose.rotation is not None
    views = batch.pose.rotation[:, 2].double()
    first, second = torch.triu_indices(len(views), len(views), 1)
    near = (views @ views.T).abs()[first, second] > math.cos(math.radians(_NEAR_DEG))
    moved = [transform_d4(batch.images, element) for element in range(8)]
    found = {"share_near": float(near.double().mean())}

    def told_by(vectors: Callable[[Tensor], Tensor]) -> float:
        unit = torch.nn.functional.normalize(torch.stack([vectors(images) for images in moved]), dim=-1)
        similarity = (unit @ unit[0].T).amax(0)[first, second]
        area = auroc(similarity.double().numpy(), near.numpy())
        assert area is not None
        return area

    # Images as coarse as noise is least in the way; the mean is zero already.
    found["pixels"] = told_by(lambda images: torch.nn.functional.avg_pool2d(images, 4).flatten(1))
    for name, encoder in encoders.items():
        encoder.eval()

        def features(images: Tensor, encoder: PoseEncoder = encoder) -> Tensor:
            with torch.no_grad():
                return torch.cat([encoder.features(part) for part in images.split(64)])

        found[name] = told_by(features)
    return found


def measure(folder: str, seeds: int = 3) -> dict[str, Any]:
    """All of it."""
    import torch

    from ...zoo.encoder import create_encoder
    from ...zoo.pretrained import load_pretrained

    torch.set_num_threads(1)
    here = provenance()  # before any result is written, which changes the checkout
    settings = {"steps": _STEPS, "pretraining": _PRETRAINING, "batch": _BATCH}
    rows = measured_before("transfer", **settings)
    figures: dict[str, Any] = {**settings, "rows": rows}
    done = {(row["what"], row["molecule"], row.get("seed")) for row in rows}

    def add(what: str, molecule: str | None, found: Mapping[str, Any], **more: Any) -> None:
        rows.append({"what": what, "molecule": molecule, **more, **found, **here})
        write_figures("transfer", figures)

    many = f"local-dir:{Path(folder) / 'model'}"
    pretrained = pretrain(Path(folder))
    if ("pretraining", None, None) not in done:
        add("pretraining", None, pretrained)
    for molecule, structure in UNSEEN.items():
        if ("near pairs", molecule, None) not in done:
            recipe = recipe_of(structure)
            fresh = create_encoder(recipe.encoder, image_size=recipe.image_size, pixel_size=recipe.pixel_size or 1.0)
            encoders = {_SCRATCH: fresh, _ONE: load_pretrained(ONE), _MANY: load_pretrained(many)}
            add("near pairs", molecule, near_pairs(structure, encoders))
    for seed in range(seeds):
        for molecule, structure in UNSEEN.items():
            for what, start in ((_SCRATCH, None), (_ONE, ONE), (_MANY, many)):
                if (what, molecule, seed) not in done:
                    add(what, molecule, curve(structure, start, seed), seed=seed)
    return figures


def table(figures: dict[str, Any]) -> str:
    """Markdown."""
    rows = figures["rows"]
    points = [str(step) for step in range(_EVERY, figures["steps"] + 1, _EVERY)]
    lines = []
    for molecule in UNSEEN:
        for what in (_SCRATCH, _ONE, _MANY):
            runs = [row for row in rows if (row["what"], row["molecule"]) == (what, molecule)]
            if runs:
                cells = [spread([run["median_deg"][step] for run in runs], 1) for step in points]
                lines.append([molecule, what, str(len(runs)), *cells])
    text = markdown_table(["molecule, never seen", "backbone", "seeds", *(f"{step} steps" for step in points)], lines)
    text += (
        f"\nMedian error in degrees of 512 new images (mean over seeds, lowest to highest); {figures['batch']} images "
        f"a step, SNR {_SNR:g}, with CTF and shifts; chance is 132 degrees.\n\n"
    )
    pairs = [row for row in rows if row["what"] == "near pairs"]
    header = ["molecule, never seen", "pairs that are near, %", "pixels"]
    header += [f"features {what}" for what in (_SCRATCH, _ONE, _MANY)]
    columns = ("pixels", _SCRATCH, _ONE, _MANY)
    text += markdown_table(
        header,
        [
            [row["molecule"], f"{100 * row['share_near']:.1f}", *(f"{row[name]:.3f}" for name in columns)]
            for row in pairs
        ],
    )
    pretraining = next(row for row in rows if row["what"] == "pretraining")
    return text + (
        f"\nAUROC of similarity for viewing directions within {_NEAR_DEG:g} degrees; chance is 0.5. Pretraining: "
        f"{pretraining['steps']:,} steps on {len(SEEN)} molecules, {pretraining['cpu_s'] / 60:.0f} CPU minutes, "
        f"{pretraining['median_deg']:.1f} degrees on them in the end; {measured_at(rows)}.\n"
    )


def main() -> None:
    """Measure, print, write."""
    folder, *seeds = sys.argv[1:]
    write_figures("transfer", measure(folder, *map(int, seeds)))


if __name__ == "__main__":
    main()
