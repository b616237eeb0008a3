"""``cryozoo simulate``: a stack of noisy projections of a volume, with its STAR file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..particles.errors import BadInput
from .common import (
    INPUT,
    PIXEL_SIZE,
    Number,
    check_output,
    overwrite_option,
    progress_option,
    threads_option,
    verb,
    wants_progress,
)

if TYPE_CHECKING:
    from ..imaging.volumes import Volume
    from ..particles.ctf import CTF
    from ..particles.poses import PoseTable

SHIFT = Number(least=0, most=1000, unit="Angstrom")
DEFOCUS = Number(least=100, most=100_000, unit="Angstrom; 1.5 micrometres are 15,000")


@verb("simulate", short_help="Images of a volume, with known poses.")
@click.option("--volume", required=True, metavar="MAP", help="A map, an atomic model, or phantom:SEED.")
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="The stack; its .star is put beside it."
)
@click.option("-n", "count", type=click.IntRange(1, 100_000_000), metavar="N", help="How many, at random orientations.")
@click.option("--poses", type=INPUT, metavar="FILE", help="Take angles and shifts from a table instead.")
@click.option("--ctf", is_flag=True, help="Take the CTF from the file of the poses too.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, help="Of all random numbers.")
@click.option(
    "--snr", type=Number(0, most=1e9), help="Variance of the signal over that of the noise.  [default: no noise]"
)
@click.option("--shift-sigma", type=SHIFT, metavar="A", help="Standard deviation of random shifts.")
@click.option("--defocus", type=DEFOCUS, nargs=2, metavar="LOW HIGH", help="Random defocus, in Angstrom.")
@click.option("--size", type=click.IntRange(8, 4096), metavar="L", help="Box of the images.  [default: of the map]")
@click.option("--pixel-size", type=PIXEL_SIZE, metavar="A", help="Of the images.  [default: of the map]")
@click.option("--voxel-size", type=PIXEL_SIZE, metavar="A", help="Of the map, instead of what its header says.")
@click.option("--allow-wrap", is_flag=True, help="Let a molecule larger than the box come in on the opposite side.")
@overwrite_option
@threads_option
@progress_option
def simulate(
    volume: str,
    out: Path,
    count: int | None,
    poses: Path | None,
    ctf: bool,
    seed: int,
    snr: float | None,
    shift_sigma: float | None,
    defocus: tuple[float, float] | None,
    size: int | None,
    pixel_size: float | None,
    voxel_size: float | None,
    allow_wrap: bool,
    overwrite: bool,
    threads: int | None,
    progress: bool | None,
) -> None:
    """Simulate particle images of a volume: OUT.mrcs, and OUT.star with their poses, CTF and half-sets.

    Without --snr there is no noise, without --defocus or --ctf no CTF.
    """
    if (count is None) == (poses is None):
        raise click.UsageError("either -n or --poses says which particles")
    if poses is not None and shift_sigma is not None:
        raise click.UsageError("--poses brings its shifts, so there is no --shift-sigma")
    if ctf and (poses is None or defocus is not None):
        raise click.UsageError("--ctf takes the CTF from the file of --poses, so there is no --defocus")
    if defocus and defocus[0] > defocus[1]:
        raise click.BadParameter("the lowest defocus comes first", param_hint="--defocus")
    if out.suffix.lower() != ".mrcs":
        raise BadInput(out, f"the suffix {out.suffix!r}", expected="a stack, .mrcs")
    inputs = [Path(volume)] + ([] if poses is None else [poses])
    for path in (out, out.with_suffix(".star")):
        check_output(path, overwrite=overwrite, inputs=inputs)

    import torch
    from tqdm import tqdm

    from ..imaging.simulate import Imaging, Simulator
    from ..imaging.simulate_files import write_simulated_stack
    from ..particles.poses import PoseTable

    if threads is not None:
        torch.set_num_threads(threads)
    imaging = Imaging(snr=snr, shift_sigma=shift_sigma or 0.0, defocus=defocus, allow_wrap=allow_wrap)
    source = _volume(volume, size, pixel_size, voxel_size)
    box, pixel = size or source.size, pixel_size or source.pixel_size
    simulator = Simulator(source, imaging, image_size=box, pixel_size=pixel, name=volume)
    # The box is for cryoDRGN's .pkl, which has shifts in fractions of it.
    given = None if poses is None else PoseTable.load(poses, image_size=box, pixel_size=pixel)
    if poses is not None and given is not None and given.particles is not None:  # not over the images of the table
        folders = (Path(), *poses.absolute().parents)
        images = [folder / name for name in given.particles.files for folder in folders]
        check_output(out, overwrite=overwrite, inputs=images)
    optics = _ctf(given, str(poses)) if given is not None and ctf else None
    n = len(given) if given is not None else count or 0
    exact = None if given is None else (torch.tensor(given.rotation), torch.tensor(given.shift))
    with tqdm(total=n, desc="simulate", unit="image", disable=not wants_progress(progress)) as bar:
        write_simulated_stack(
            out, simulator, n, poses=exact, ctf=optics, seed=seed, overwrite=overwrite, on_chunk=bar.update
        )
    click.echo(f"{n:,} images of {box} x {box} pixels of {pixel:g} A in {out}")
    click.echo(f"their poses and optics in {out.with_suffix('.star')}")


def _volume(name: str, size: int | None, pixel_size: float | None, voxel_size: float | None) -> Volume:
    from ..imaging.volumes import Volume, is_atomic, load_volume
    from ..particles.files import find_data

    phantom = name.startswith("phantom:")
    atomic = not phantom and is_atomic(str(find_data(name)))
    if (phantom or atomic) and voxel_size is not None:
        raise BadInput(name, "is no map, and has no voxels for --voxel-size", hint="--pixel-size is that of the images")
    if atomic and (size is None or pixel_size is None):
        raise BadInput(name, "an atomic model, which has no box", hint="give --size and --pixel-size of the images")
    if voxel_size is not None:
        volume = Volume.load(find_data(name), pixel_size=voxel_size)
    else:
        volume = load_volume(name, image_size=size or 64, pixel_size=pixel_size)
    if len(set(volume.data.shape)) > 1:
        raise BadInput(name, f"{' x '.join(map(str, volume.data.shape))} voxels", expected="a cube")
    return volume


def _ctf(poses: PoseTable, name: str) -> CTF:
    import torch

    found = poses.particles.ctf if poses.particles is not None else None
    if found is None:
        raise BadInput(
            name, "no CTF", expected="defocus, voltage, spherical aberration and amplitude contrast for --ctf"
        )
    return found.to(torch.float32)
