"""``cryozoo reconstruct``: particle images and their poses in, a density map out."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from .common import (
    INPUT,
    SHARED_REFERENCE,
    Run,
    check_map,
    check_output,
    check_suffix,
    overwrite_option,
    run_options,
    stack_options,
    symmetry_option,
    verb,
)


@verb("reconstruct", short_help="A density map from images and poses.")
@click.argument("particles", type=INPUT)
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), metavar="MAP", help="The map, .mrc.")
@click.option("--poses", type=INPUT, metavar="FILE", help="Poses, if not those of the particles' table.")
@click.option("--halves", is_flag=True, help="Write the unfiltered half maps too: MAP_half1.mrc, MAP_half2.mrc.")
@symmetry_option
@click.option("--random-halves", is_flag=True, help="Split the images at random although the table has half-sets.")
@click.option("--seed", type=click.IntRange(0), default=0, metavar="N", help="Of random half-sets.")
@click.option("--fom-weighting", is_flag=True, help="Weight images with their confidence (rlnParticleFigureOfMerit).")
@stack_options
@overwrite_option
@run_options
def reconstruct(
    particles: Path,
    out: Path,
    poses: Path | None,
    halves: bool,
    symmetry: str,
    random_halves: bool,
    seed: int,
    fom_weighting: bool,
    opened: dict[str, Any],
    overwrite: bool,
    run: Run,
) -> None:
    """Reconstruct a density map from PARTICLES (.star, .cs or .mrcs) with known poses, shifts and CTF.

    The half-sets are those of the table (rlnRandomSubset), else random; the map is filtered by their agreement.
    """
    check_map(out)
    inputs = [particles]
    if poses is not None:
        check_suffix(poses)
        inputs.append(poses)
    names = [out.with_name(f"{out.stem}_half{k}{out.suffix}") for k in (1, 2)] if halves else []
    for path in (out, *names):
        check_output(path, overwrite=overwrite, inputs=inputs)
    device = run.device()

    from ..imaging.reconstruct import reconstruct as average
    from ..particles.mrc_writer import write_volume
    from ..particles.poses import PoseTable
    from ..particles.stack import ParticleStack

    stack = ParticleStack.open(particles, **opened)
    inputs += stack.image_files
    for path in (out, *names):
        check_output(path, overwrite=overwrite, inputs=inputs)
    given = None
    if poses is not None:
        given = PoseTable.load(poses, image_size=stack.image_size, pixel_size=stack.pixel_size)
    result = average(
        stack,
        given,
        symmetry=symmetry,
        fom_weighting=fom_weighting,
        random_halves=random_halves,
        seed=seed,
        device=device,
        progress=run.progress,
    )
    maps = dict(zip((*names, out), (*result.half_maps[: len(names)], result.map), strict=True))
    # All of them or none, and what they replace stays until then.
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.stem}-") as scratch:
        for path, volume in maps.items():
            write_volume(Path(scratch) / path.name, volume.data.numpy(), volume.pixel_size)
        for path in maps:
            check_output(path, overwrite=overwrite, inputs=inputs)
            os.replace(Path(scratch) / path.name, path)
    first, second = result.counts
    size, pixel = result.map.size, result.map.pixel_size
    click.echo(f"{first + second:,} images ({first:,} and {second:,}) in {size}^3 voxels of {pixel:g} A: {out}")
    source = result.ctf_source
    click.echo(
        f"CTF: corrected, with that of {source}" if source else "CTF: not corrected, as no table has a whole one"
    )
    halves_of = result.half_sets_source
    click.echo(f"half-sets: {f'those of {halves_of}' if halves_of else f'random, with seed {seed}'}")
    shells = range(1, min(round(size * pixel / result.resolution), size // 2) + 1)
    reached = sum(s**2 * float(result.coverage[s]) for s in shells) / sum(s**2 for s in shells)
    if result.fsc[1] < 0.143:
        click.echo("the halves do not agree in any shell: there is no resolution, only noise")
        return
    click.echo(f"the halves agree to {result.resolution:.2f} A (FSC 0.143, no mask)")
    click.echo(SHARED_REFERENCE)
    click.echo(f"images reach {reached:.1%} of Fourier space up to there")
