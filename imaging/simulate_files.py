"""A simulated stack on disk: OUT.mrcs with the images, OUT.star beside it with what is true of them (RELION 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..geometry.rotations import matrix_to_euler
from ..particles.ctf import CTF
from ..particles.errors import BadInput
from ..particles.mrc import StackWriter
from ..particles.star import Column, StarBlock, StarFile
from .simulate import Imaging, Simulator

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
    path, table = Path(path), star_beside(path)
    if path == table:
        raise BadInput(path, "the name of a STAR file", expected="a stack to write, .mrcs")
    if table.exists() and not overwrite:
        raise BadInput(table, "exists already", hint="choose another name or allow overwriting")
    projector = simulator.projector
    device = projector.frequency.device
    generator = torch.Generator(device).manual_seed(seed)
    size, pixel_size = projector.image_size, projector.pixel_size
    truth: list[tuple[Tensor, Tensor, CTF | None]] = []
    with StackWriter(path, count=n, image_size=size, pixel_size=pixel_size, overwrite=overwrite) as stack:
        for start in range(0, n, _CHUNK):
            chosen = slice(start, min(start + _CHUNK, n))
            count = chosen.stop - start
            if poses is None:
                drawn = simulator(count, generator)
                images = drawn.images[:, 0]
                assert drawn.pose.rotation is not None
                assert drawn.pose.shift is not None
                truth.append((drawn.pose.rotation, drawn.pose.shift, drawn.ctf))
            else:
                rotation, shift = poses[0][chosen], poses[1][chosen]
                optics = simulator.random_ctf(count, generator) if ctf is None else ctf[chosen]
                images = projector(rotation.to(device, torch.float32), shift.to(device, torch.float32), optics)
                images = simulator.add_noise(images, generator)
                truth.append((rotation, shift, optics))
            stack.write(images.cpu().numpy())
            if on_chunk is not None:
                on_chunk(count)
    _table(path.name, truth, simulator.imaging, size, pixel_size).write(table, overwrite=overwrite)


def _table(
    stack: str, truth: list[tuple[Tensor, Tensor, CTF | None]], imaging: Imaging, size: int, pixel_size: float
) -> StarFile:
    rotation = torch.cat([rotation.double().cpu() for rotation, _, _ in truth])
    origin = -torch.cat([shift.double().cpu() for _, shift, _ in truth]).numpy()  # how to move the content back
    euler = np.degrees(matrix_to_euler(rotation).numpy())
    n = len(euler)
    optics, ctf_columns = _optics(n, [ctf for _, _, ctf in truth], imaging)
    # Microscope settings that occur together are an optics group.
    settings, group = np.unique(optics, axis=0, return_inverse=True)
    groups = np.arange(1, len(settings) + 1)
    particles: dict[str, Column] = {
        "rlnImageName": [f"{k:06d}@{stack}" for k in range(1, n + 1)],
        "rlnOpticsGroup": group.reshape(-1) + 1,
        "rlnAngleRot": euler[:, 0],
        "rlnAngleTilt": euler[:, 1],
        "rlnAnglePsi": euler[:, 2],
        "rlnOriginXAngst": origin[:, 0],
        "rlnOriginYAngst": origin[:, 1],
        **ctf_columns,
        "rlnRandomSubset": np.arange(n) % 2 + 1,
    }
    groups_table: dict[str, Column] = {
        "rlnOpticsGroupName": [f"opticsGroup{k}" for k in groups],
        "rlnOpticsGroup": groups,
        "rlnVoltage": settings[:, 0],
        "rlnSphericalAberration": settings[:, 1],
        "rlnAmplitudeContrast": settings[:, 2],
        "rlnImagePixelSize": np.full(len(groups), pixel_size),
        "rlnImageSize": np.full(len(groups), size),
        "rlnImageDimensionality": np.full(len(groups), 2),
    }
    return StarFile([StarBlock.from_columns("optics", groups_table), StarBlock.from_columns("particles", particles)])


def _optics(n: int, chunks: list[CTF | None], imaging: Imaging) -> tuple[np.ndarray, dict[str, Any]]:
    """Voltage, spherical aberration and amplitude contrast (n, 3), and the columns of the CTF, if there is one."""
    given = [ctf for ctf in chunks if ctf is not None]
    if not given:
        return np.tile([imaging.voltage, imaging.spherical_aberration, imaging.amplitude_contrast], (n, 1)), {}

    def column(name: str) -> np.ndarray:
        values = torch.cat([getattr(ctf, name) for ctf in given]).double().cpu().numpy()
        # The parameters were float32: 2.7 came back as 2.7000000477.
        return np.round(values, 5)

    names = {"DefocusU": "defocus_u", "DefocusV": "defocus_v", "DefocusAngle": "defocus_angle"}
    names |= {"PhaseShift": "phase_shift", "CtfBfactor": "b_factor"}
    optics = np.stack([column(name) for name in ("voltage", "spherical_aberration", "amplitude_contrast")], axis=1)
    return optics, {f"rln{label}": column(name) for label, name in names.items()}
