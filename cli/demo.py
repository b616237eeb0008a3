"""``cryozoo demo``: an embedded encoder on simulated particles whose poses are known, from images to a map."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..particles.errors import BadInput
from ..particles.files import make_folder
from .common import choose_device, device_option, format_table, load_encoder, threads_option, verb

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from ..imaging.projector import Projector
    from ..imaging.simulate import Imaging
    from ..imaging.volumes import Volume
    from ..particles.poses import PoseTable
    from ..zoo.encoder import PoseEncoder

_ENCODER = "ecoli_70s"
_SEED = 11  # of no training, validation or test set
_SHOWN = 6


@verb("demo", short_help="An embedded encoder at work, from images to a map, with a picture.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default="demo", metavar="DIR", help="Folder for all files."
)
@click.option("-n", "count", type=click.IntRange(50, 100_000), default=500, metavar="N", help="Particles to simulate.")
@click.option("--encoder", "name", metavar="NAME", default=_ENCODER, show_default=True, help="Another encoder.")
@device_option
@threads_option
def demo(out: Path, count: int, name: str, device: str | None, threads: int | None) -> None:
    """Predict and refine the poses of simulated particles, compare them with the truth, and draw demo.png.

    The particles are noisy projections of the encoder's own map, with shifts and CTF. They, their poses and the maps
    that are made with these stay in DIR, to be used with the other verbs.
    """
    folder, where = make_folder(out), choose_device(device, threads)

    from ..imaging.reconstruct import reconstruct
    from ..imaging.simulate import Simulator
    from ..imaging.simulate_files import write_simulated_stack
    from ..particles.mrc_writer import write_volume
    from ..particles.stack import ParticleStack
    from ..zoo.match import refine

    encoder = load_encoder(name, where)
    volume, imaging, symmetry = _molecule(encoder)
    prepared = encoder.preprocessing
    simulator = Simulator(volume, imaging, image_size=prepared.image_size, pixel_size=prepared.pixel_size)
    write_simulated_stack(folder / "particles.mrcs", simulator, count, seed=_SEED, overwrite=True)
    stack = ParticleStack.open(folder / "particles.star")
    true = stack.poses
    assert true is not None
    times = [time.perf_counter()]
    tables = {"predicted": encoder.predict(stack)}
    times.append(time.perf_counter())
    tables["refined"] = refine(stack, volume, poses=tables["predicted"], symmetry=symmetry, device=where)
    times.append(time.perf_counter())
    rows: list[tuple[str, ...]] = [
        ("poses", "median", "<= 5", "<= 10", "<= 15 deg", "random guess", "images/s", "map, A")
    ]
    maps = {"true map": volume}
    for (label, poses), seconds in zip(tables.items(), (times[1] - times[0], times[2] - times[1]), strict=True):
        poses.save(folder / f"{label}.star", overwrite=True)
        made = reconstruct(stack, poses, symmetry=symmetry)
        maps[f"{label} poses"] = made.map
        write_volume(folder / f"{label}.mrc", made.map.data.numpy(), made.map.pixel_size, overwrite=True)
        m = _metrics(poses, true, symmetry)
        within = (f"{m[f'acc_{degrees}']:.0%}" for degrees in (5, 10, 15))
        speed, resolution = f"{count / seconds:,.0f}", f"{made.resolution:.1f}"
        rows.append((label, f"{m['median_deg']:.2f}", *within, f"{m['chance_median_deg']:.1f}", speed, resolution))
    click.echo(format_table(rows))
    click.echo("\nmedian error in degrees, shares of particles within so many degrees, median error of a random guess,")
    click.echo("speed with what is prepared once, and what the half maps agree to")
    images = stack.images(range(_SHOWN))
    title = f"{_name(encoder)}: {count:,} simulated particles, signal to noise {imaging.snr}"
    _draw(folder / "demo.png", title, simulator.projector, images, tables, true, maps, symmetry)
    click.echo(f"\n{folder / 'demo.png'}: what {encoder.name} saw and said of {_name(encoder)}")
    click.echo(f"{folder}: particles.star, predicted.star, refined.star, and the maps made with these poses")


def _molecule(encoder: PoseEncoder) -> tuple[Volume, Imaging, str]:
    """The map, images as in training but of one SNR and in white noise, and the point group.

    Raises:
        BadInput: the encoder has no map.
    """
    from ..training.data import Simulated
    from ..training.migrations import migrated
    from ..training.recipe import Recipe

    trained = encoder.entry.trained_with if encoder.entry else None
    data = Recipe.from_dict(migrated(trained)[0]).data if trained else None
    if not isinstance(data, Simulated):
        raise BadInput(encoder.name, "was not trained on a map", hint="cryozoo simulate and predict take any volume")
    prepared = encoder.preprocessing
    if encoder.frame_map is None and data.volume.startswith("phantom:"):
        volume = data.frame_map(prepared.image_size, prepared.pixel_size)
    else:
        volume = encoder.own_map()
    lowest, highest = data.imaging.snr_range or (1.0, 1.0)
    snr = float(f"{(lowest * highest) ** 0.5:.1g}")
    return volume, replace(data.imaging, snr=snr, noise_slope=0.0), data.symmetry


def _draw(
    path: Path,
    title: str,
    projector: Projector,
    images: NDArray[np.float32],
    tables: dict[str, PoseTable],
    true: PoseTable,
    maps: dict[str, Volume],
    symmetry: str,
) -> None:
    """Write the figure."""
    import numpy as np
    import torch

    from ..geometry.point_groups import point_group, symmetric_distance
    from ..geometry.sampling import random_rotations
    from ..imaging.fourier import crop_or_zero_pad
    from ..zoo.figures import demo_figure, save_figure

    group = point_group(symmetry)

    def error(a: torch.Tensor, b: torch.Tensor) -> NDArray[np.float64]:
        return np.degrees(symmetric_distance(a.double(), b.double(), group).numpy())

    def projections(poses: PoseTable) -> NDArray[np.float32]:
        shown = (torch.from_numpy(values[:_SHOWN]).float() for values in (poses.rotation, poses.shift))
        with torch.no_grad():
            return projector(*shown).numpy()

    guesses = random_rotations(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    size = max(volume.size for volume in maps.values())
    figure = demo_figure(
        images,
        projections(true),
        {label: projections(poses) for label, poses in tables.items()},
        {label: error(*map(torch.from_numpy, (poses.rotation, true.rotation))) for label, poses in tables.items()},
        tables["predicted"].confidence,
        error(guesses, torch.eye(3).expand_as(guesses)),
        {label: crop_or_zero_pad(volume.data, size)[size // 2].numpy() for label, volume in maps.items()},
        title=title,
    )
    save_figure(figure, path)


def _metrics(poses: PoseTable, true: PoseTable, symmetry: str) -> dict[str, Any]:
    import torch

    from ..geometry.pose import Pose
    from ..zoo.evaluate import pose_metrics

    found, expected = (Pose(torch.from_numpy(table.rotation)) for table in (poses, true))
    return pose_metrics(found, expected, symmetry=symmetry)


def _name(encoder: PoseEncoder) -> str:
    entry = encoder.entry
    return entry.molecule.name if entry and entry.molecule else "its molecule"
