"""Are images that show no particle, or not only one, told from particles, and do these keep their poses beside them?

    python -m cryozoo.benchmarks.studies.matching_junk [PARTICLES]

Particles of the 70S ribosome with CTF, and a fifth as many images of each of five kinds of junk, in the same noise,
matched together. Prints one table and writes it to ``results/matching_junk.json`` and ``.md``.
"""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...zoo.provenance import provenance
from ..runs import markdown_table
from .figures import write_figures

if TYPE_CHECKING:
    from torch import Tensor

    from ...particles.stack import ParticleStack

_SIZE, _PIXEL, _SNR = 64, 5.0, 0.1
_MAP, _OTHER = "maps/clean70S_ecoli_65.mrc", "structures/5a1a.npz"
KINDS = ("noise alone", "a bright disc (ice)", "an edge (carbon)", "another molecule", "two particles, 80 A apart")


def _images(folder: Path, particles: int, each: int, seed: int) -> ParticleStack:
    """Write and open the particles, and then the junk, kind after kind."""
    import torch

    from ...geometry.sampling import random_rotations
    from ...imaging.projector import Projector
    from ...imaging.simulate import Imaging, Simulator, inscribed_circle
    from ...imaging.simulate_files import write_simulated_stack
    from ...imaging.volumes import load_volume
    from ...particles.mrc_writer import write_stack
    from ...particles.stack import ParticleStack

    def volume(name: str) -> Any:
        return load_volume(name, image_size=_SIZE, pixel_size=_PIXEL)

    imaging = Imaging(snr=_SNR, shift_sigma=10.0, defocus=(10_000.0, 30_000.0))
    simulator = Simulator(volume(_MAP), imaging, image_size=_SIZE, pixel_size=_PIXEL)
    write_simulated_stack(folder / "all.mrcs", simulator, particles + len(KINDS) * each, seed=seed)
    stack = ParticleStack.open(folder / "all.star")
    assert stack.ctf is not None
    images = torch.from_numpy(stack.images(range(len(stack))))
    generator = torch.Generator().manual_seed(seed)
    axis = torch.arange(_SIZE) - _SIZE // 2.0
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    turn = math.tau * torch.rand(each, generator=generator)
    towards = torch.stack([turn.cos(), turn.sin()], -1)
    sigma = simulator.noise_sigma
    for kind, name in enumerate(KINDS):
        rows = slice(particles + kind * each, particles + (kind + 1) * each)
        noise = sigma * torch.randn(each, _SIZE, _SIZE, generator=generator)
        rotation, ctf = random_rotations(each, generator=generator), stack.ctf[rows].to(torch.float32)

        def projected(name: str, shift: Tensor, rotation: Tensor = rotation, ctf: Any = ctf) -> Tensor:
            return Projector(volume(name), image_size=_SIZE, pixel_size=_PIXEL)(rotation, shift, ctf)

        if name.startswith("noise"):
            images[rows] = noise
        elif name.startswith("a bright"):
            from_centre = (grid - 15 * towards[:, None, None]).norm(dim=-1)
            images[rows] = noise + 2 * sigma * (from_centre < 10)
        elif name.startswith("an edge"):
            images[rows] = noise + 1.5 * sigma * ((grid * towards[:, None, None]).sum(-1) > 5)
        elif name.startswith("another"):
            other = projected(_OTHER, 10 * torch.randn(each, 2, generator=generator))
            images[rows] = noise + _SNR**0.5 * sigma * other / other[:, inscribed_circle(_SIZE)].std()
        else:
            images[rows] += projected(_MAP, 80 * towards)
    write_stack(folder / "all.mrcs", images.numpy(), _PIXEL, overwrite=True)
    return ParticleStack.open(folder / "all.star")


def run(particles: int, seed: int) -> dict[str, Any]:
    """Of one seed."""
    import warnings

    import numpy as np

    from ...particles.errors import BadInputWarning
    from ...zoo.evaluate import auroc
    from ...zoo.match import match
    from ...zoo.match_checks import looks_like_no_particle

    each = particles // 5
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore", BadInputWarning)
        stack = _images(Path(name), particles, each, seed)
        alone = match(stack.subset(np.arange(particles)), _MAP)
        found = match(stack, _MAP)
    assert stack.poses is not None
    flagged = looks_like_no_particle(found.matches).numpy()
    measures = {
        "score": found.matches.score.numpy(),
        "merit": found.matches.merit.numpy(),
        "probability": found.matches.probability.numpy(),
        "expected": -found.matches.error.numpy(),
    }
    kinds = []
    for kind, label in enumerate(KINDS):
        rows = slice(particles + kind * each, particles + (kind + 1) * each)
        is_particle = np.r_[np.ones(particles, dtype=bool), np.zeros(each, dtype=bool)]
        areas = {key: auroc(np.r_[v[:particles], v[rows]], is_particle) for key, v in measures.items()}
        kinds.append({"kind": label, "flagged": float(flagged[rows].mean()), **areas})
    errors = {}
    for key, rotation in (("alone", alone.rotation), ("beside", found.rotation[:particles])):
        trace = np.einsum("nij,nij->n", rotation, stack.poses.rotation[:particles])
        error = np.rad2deg(np.arccos(np.clip((trace - 1) / 2, -1, 1)))
        errors[key] = {"median_deg": float(np.median(error)), "within_5": float((error <= 5).mean())}
    return {"kinds": kinds, "flagged": float(flagged[:particles].mean()), **errors}


def measure(particles: int = 300, seeds: int = 3) -> dict[str, Any]:
    """All seeds."""
    here = provenance()
    return {"seeds": [run(particles, seed) for seed in range(seeds)], "particles": particles, **here}


def table(figures: dict[str, Any]) -> str:
    """Markdown; means over the seeds."""
    seeds = figures["seeds"]

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    rows = []
    for kind, label in enumerate(KINDS):
        of_kind = [seed["kinds"][kind] for seed in seeds]
        areas = (mean([k[key] for k in of_kind]) for key in ("merit", "score", "probability", "expected"))
        rows.append([label, *(f"{area:.3f}" for area in areas), f"{100 * mean([k['flagged'] for k in of_kind]):.0f}"])
    rows.append(["particles", "", "", "", "", f"{100 * mean([seed['flagged'] for seed in seeds]):.1f}"])
    alone, beside = (
        f"{mean([seed[key]['median_deg'] for seed in seeds]):.2f} degrees, "
        f"{100 * mean([seed[key]['within_5'] for seed in seeds]):.1f} % within 5"
        for key in ("alone", "beside")
    )
    header = ["images", "AUROC of the merit", "score", "probability", "expected error", "% counted as no particles"]
    return markdown_table(header, rows) + (
        f"\n{figures['particles']:,} particles at SNR {_SNR:g}, defocus 1 to 3 um, and {figures['particles'] // 5} "
        f"images of each kind of junk; {len(seeds)} seeds; chance is 0.5. The particles alone: {alone}; beside the "
        f"junk: {beside}. Commit {figures['commit']}; {figures['hardware']}.\n"
    )


def main() -> None:
    """Measure, print, write."""
    write_figures("matching_junk", measure(*map(int, sys.argv[1:])))


if __name__ == "__main__":
    main()
