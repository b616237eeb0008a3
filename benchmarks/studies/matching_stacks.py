"""How fast, and in how much memory, poses of large stacks come from disk.

    python -m cryozoo.benchmarks.studies.matching_stacks

Tables of 100,000 particles of 64 pixels and 20,000 of 256, which share some thousand images. Of each, ``predict`` (the
embedded encoder), ``predict --refine`` and ``match`` work through a part, ``--shard 1/N``, as whole commands on one
thread; the time of a whole stack is extrapolated from that of the part. Prints one table and writes it to
``results/matching_stacks.json`` and ``.md``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from ...zoo.provenance import provenance
from ..runs import markdown_table
from .figures import write_figures
from .timing import run_command

_ENCODER = "vgg_gem-qcqp_bingham.phantom_64"
_IMAGES = 2_000
# Pixels, Angstrom per pixel, particles; and into how many parts the table is cut for each command.
_STACKS = ((64, 5.0, 100_000), (256, 1.25, 20_000))
_PARTS = {"predict": (20, 10), "predict --refine": (50, 40), "match": (100, 80)}


def _prepare(folder: Path, size: int, pixel: float, particles: int) -> None:
    """A map, and a table whose rows name the same images again and again."""
    import numpy as np

    from ...imaging.simulate import Imaging, Simulator
    from ...imaging.simulate_files import write_simulated_stack
    from ...imaging.volumes import Volume
    from ...particles.mrc_writer import write_volume
    from ...particles.poses import load_table
    from ...particles.relion import new_star

    volume = Volume.phantom(size=size, pixel_size=pixel)
    write_volume(folder / "map.mrc", volume.data.numpy(), pixel)
    images = _IMAGES if size < 128 else _IMAGES // 4
    imaging = Imaging(snr=0.1 * (64 / size) ** 2, shift_sigma=10.0)
    write_simulated_stack(folder / "images.mrcs", Simulator(volume, imaging), images)
    table = load_table(folder / "images.star")
    new_star(table.subset(np.arange(particles) % images)).write(folder / "particles.star")


def measure() -> dict[str, Any]:
    """All stacks and commands."""
    rows = []
    for stack, (size, pixel, particles) in enumerate(_STACKS):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            _prepare(folder, size, pixel, particles)
            encoder, map_name = f"--encoder {_ENCODER}", "map.mrc"
            options = {
                "predict": f"predict particles.star {encoder}",
                "predict --refine": f"predict particles.star {encoder} --refine {map_name}",
                "match": f"match particles.star --map {map_name}",
            }
            for label in _PARTS:
                words = options[label]
                parts = _PARTS[label][stack]
                few, part = (
                    run_command(f"cryozoo {words} --shard 1/{shards} -o poses.star --overwrite", folder)
                    for shards in (particles // 64, parts)
                )
                done = particles // parts
                rows.append(
                    {
                        "pixels": size,
                        "particles": particles,
                        "command": label,
                        "done": done,
                        "seconds": part.wall_s,
                        "start_seconds": few.wall_s,
                        "images_per_s": (done - 64) / (part.wall_s - few.wall_s),
                        "memory_gb": part.peak_gb,
                    }
                )
                print(rows[-1], file=sys.stderr, flush=True)
    return {"rows": rows, **provenance(), "threads": 1}


def table(figures: dict[str, Any]) -> str:
    """Markdown."""
    rows = [
        [
            f"{row['command']}, {row['pixels']} pixels",
            f"{row['done']:,}",
            f"{row['start_seconds']:.0f}",
            f"{row['images_per_s']:.0f}",
            f"{(row['start_seconds'] + row['particles'] / row['images_per_s']) / 60:.0f}",
            f"{row['memory_gb']:.2f}",
        ]
        for row in figures["rows"]
    ]
    whole = " and ".join(f"{particles:,} of {size} pixels" for size, _, particles in _STACKS)
    header = ["command", "particles done", "s for the first 64", "images/s", "minutes for all", "peak memory GB"]
    return markdown_table(header, rows) + (
        f"\nAll are {whole}; the minutes are extrapolated from the particles that were done. The first 64 take the "
        "start of the program and the estimate of the noise, too. One thread; "
        f"commit {figures['commit']}; {figures['hardware']}.\n"
    )


def main() -> None:
    """Measure, print, write."""
    write_figures("matching_stacks", measure())


if __name__ == "__main__":
    main()
