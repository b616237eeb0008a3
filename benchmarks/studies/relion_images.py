"""Noisy images of a map that ``relion_project`` made, with CTF and shifts: independent of our own projections."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...geometry.sampling import random_rotations
from ...imaging.cramer_rao import cramer_rao_bound
from ...imaging.projector import Projector
from ...imaging.simulate import inscribed_circle
from ...imaging.volumes import Volume
from ...particles.ctf import make_ctf
from ...particles.mrc import MrcStack
from ...particles.mrc_writer import write_stack, write_volume
from ...particles.relion import new_star
from ...particles.table import ParticleTable
from .timing import run_command

_BOUND = 256  # images of which the bound is computed


class Projected(NamedTuple):
    """``table`` of the images, with their true poses, and the ``bound_median_deg`` that noise allows."""

    table: ParticleTable
    bound_median_deg: float


def project_by_relion(
    folder: Path,
    volume: Volume,
    images: int,
    snr: float,
    generator: torch.Generator,
    *,
    shift_sigma: float = 10.0,
    defocus: tuple[float, float] = (10_000.0, 30_000.0),
) -> Projected:
    """Write map.mrc, truth.star and noisy.mrcs, normalised as RELION wants images; all lengths in Angstrom."""
    size, pixel_size = volume.size, volume.pixel_size
    write_volume(folder / "map.mrc", volume.data.numpy(), pixel_size)
    rotation = random_rotations(images, generator=generator).double()
    shift = shift_sigma * torch.randn(images, 2, generator=generator)
    defocus_u = defocus[0] + (defocus[1] - defocus[0]) * torch.rand(images, generator=generator)
    ctf = make_ctf(images, defocus_u=defocus_u, defocus_v=defocus_u - 300, defocus_angle=30.0)
    known: dict[str, Any] = {
        "files": ("noisy.mrcs",),
        "file": np.zeros(images, dtype=np.int64),
        "index": np.arange(images),
    }
    table = ParticleTable(
        Path("truth.star"), images, image_size=size, pixel_size=pixel_size, ctf=ctf.to(torch.float64),
        rotation=rotation.numpy(), shift=shift.double().numpy(), **known,
    )  # fmt: skip
    new_star(table).write(folder / "truth.star")
    run_command(f"relion_project --i map.mrc --o clean --ang truth.star --ctf --angpix {pixel_size}", folder)
    clean = torch.from_numpy(MrcStack(folder / "clean.mrcs").read(np.arange(images)))
    circle = inscribed_circle(size)
    sigma = float((clean[:, circle].var(dim=1).mean() / snr).sqrt())
    noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
    write_stack(folder / "noisy.mrcs", _normalised(noisy, circle).numpy(), pixel_size)
    projector, few = Projector(volume), slice(min(images, _BOUND))
    ours = projector(rotation[few].float(), shift[few], ctf[few])
    scale = float(ours.std() / clean[few].std())  # RELION scales projections by another factor
    bound = cramer_rao_bound(projector, rotation[few].float(), sigma * scale, shift=shift[few], ctf=ctf[few])
    return Projected(table, float(bound.angles().rad2deg().median()))


def _normalised(images: Tensor, circle: Tensor) -> Tensor:
    outside = images[:, ~circle]
    return (images - outside.mean(1)[:, None, None]) / outside.std(1)[:, None, None]
