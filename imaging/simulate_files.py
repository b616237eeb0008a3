"""A simulated stack on disk: OUT.mrcs with the images, OUT.star beside it with what is true of them (RELION 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..geometry.pose import Pose, join_poses
from ..particles.ctf import CTF
from ..particles.errors import BadInput
from ..particles.mrc_writer import StackWriter
from ..particles.relion import new_star
from ..particles.table import ParticleTable
from .simulate import Simulator

_CHUNK = 128


def star_beside(path: str | Path) -> Path:
    """The STAR file of a stack: the same name with another suffix."""
    return Path(path).with_suffix(".star")


@torch.no_grad()
def write_simulated_stack(
    path: str | Path,
    simulator: Simulator,
    n: int,
    *,
    poses: tuple[Tensor, Tensor] | None = None,
    ctf: CTF | None = None,
    seed: int = 0,
    overwrite: bool = False,
    on_chunk: Callable[[int], object] | None = None,
) -> None:
    """Simulate ``n`` particles and write them as they come.

    Each of the two files appears only when it is complete; the STAR file, which names the stack by its file name alone,
    comes last. Half-sets (``rlnRandomSubset``) alternate.

    Args:
        path: the .mrcs file.
        simulator: draws what is not given and adds its noise.
        n: number of particles.
        poses: rotations (n, 3, 3) and shifts (n, 2) in Angstrom.
        ctf: parameters of the n images, together with ``poses`` only.
        seed: of every random number.
        overwrite: replace files that exist.
        on_chunk: called with the number of particles just written.

    Raises:
        BadInput: a file exists, or cannot be written.
    """
    path, star = Path(path), star_beside(path)
    if path == star:
        raise BadInput(path, "the name of a STAR file", expected="a stack to write, .mrcs")
    if star.exists() and not overwrite:
        raise BadInput(star, "exists already", hint="choose another name or allow overwriting")
    projector = simulator.projector
    device = projector.frequency.device
    generator = torch.Generator(device).manual_seed(seed)
    size, pixel_size = projector.image_size, projector.pixel_size
    true_poses, ctfs = [], []
    with StackWriter(path, count=n, image_size=size, pixel_size=pixel_size, overwrite=overwrite) as stack:
        for start in range(0, n, _CHUNK):
            chosen = slice(start, min(start + _CHUNK, n))
            count = chosen.stop - start
            if poses is None:
                drawn = simulator(count, generator)
                images, pose, optics = drawn.images[:, 0], drawn.pose, drawn.ctf
            else:
                rotation, shift = poses[0][chosen], poses[1][chosen]
                pose = Pose(rotation, shift)
                optics = simulator.random_ctf(count, generator) if ctf is None else ctf[chosen]
                images = projector(rotation.to(device, torch.float32), shift.to(device, torch.float32), optics)
                images = simulator.add_noise(images, generator)
            stack.write(images.cpu().numpy())
            true_poses.append(pose)
            ctfs += [] if optics is None else [optics]
            if on_chunk is not None:
                on_chunk(count)
    table = _table(path, join_poses(true_poses), CTF.join(ctfs) if ctfs else None, size, pixel_size)
    imaging = simulator.imaging
    microscope = imaging.voltage, imaging.spherical_aberration, imaging.amplitude_contrast
    new_star(table, microscope=microscope).write(star, overwrite=overwrite)


def _table(path: Path, poses: Pose, ctf: CTF | None, image_size: int, pixel_size: float) -> ParticleTable:
    rotation, shift, *_ = poses.numpy()
    assert rotation is not None
    row = np.arange(len(rotation))
    if ctf is not None:
        # The parameters were float32: 2.7 came back as 2.7000000477.
        ctf = CTF(**{name: values.round(decimals=5) for name, values in vars(ctf.to("cpu", torch.float64)).items()})
    return ParticleTable(
        path,
        len(row),
        files=(path.name,),
        file=np.zeros_like(row),
        index=row,
        image_size=image_size,
        pixel_size=pixel_size,
        ctf=ctf,
        rotation=rotation,
        shift=shift,
        half_set=row % 2 + 1,
    )
