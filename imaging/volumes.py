"""Volumes: from MRC maps, from atomic models, and the procedural phantom that needs no data at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..particles.errors import BadInput
from ..particles.files import find_data
from ..particles.mrc import read_volume
from .fourier import centred_fft, centred_ifft, crop_or_zero_pad


@dataclass(frozen=True)
class Volume:
    """A cubic density map.

    Attributes:
        data: (L, L, L) float32, or float64, indexed [z, y, x], origin at voxel ``L // 2``, particle positive.
        pixel_size: Angstrom per voxel.
        reach: Angstrom from the origin to the outermost atom, where it is known; a map alone does not tell.
    """

    data: Tensor
    pixel_size: float
    reach: float | None = None

    @property
    def size(self) -> int:
        """Edge of the box in voxels."""
        return self.data.shape[0]

    def coarsen(self, size: int) -> Volume:
        """The same box in ``size`` voxels along an edge, fewer than it has: higher frequencies are cut off.

        Raises:
            ValueError: it has fewer voxels.
        """
        if not 0 < size <= self.size:
            raise ValueError(f"size {size}, expected 1 to the {self.size} voxels that the volume has")
        data = centred_ifft(crop_or_zero_pad(centred_fft(self.data), size))
        return Volume(data * (size / self.size) ** 3, self.pixel_size * self.size / size, self.reach)

    @classmethod
    def load(cls, path: str | Path, *, size: int | None = None, pixel_size: float | None = None) -> Volume:
        """Read a map (.mrc, .map, .ccp4) or an atomic model (.pdb, .cif, .npz).

        Args:
            path: the file.
            size: box in voxels of an atomic model (a map has its own).
            pixel_size: Angstrom per voxel; replaces (or supplies) a map's own, required for an atomic model.

        Raises:
            BadInput: it is not readable, has no voxel size, or its atoms do not fit into the box.
        """
        path = Path(path)
        if is_atomic(path.name):
            if size is None or pixel_size is None:
                raise BadInput(path, "an atomic model", expected="size and pixel_size of the map to make from it")
            coordinates, weights = read_atoms(path)
            try:
                return cls.from_atoms(coordinates, weights, size=size, pixel_size=pixel_size)
            except ValueError as error:
                raise BadInput(path, str(error)) from None
        data, own = read_volume(path)
        pixel_size = pixel_size or own
        if pixel_size is None:
            found = "no voxel size in the header, or not the same along all axes"
            hint = "give pixel_size (Angstrom), or write it there: relion_image_handler --force_header_angpix"
            raise BadInput(path, found, hint=hint)
        return cls(torch.from_numpy(data), pixel_size)

    @classmethod
    def from_atoms(
        cls,
        coordinates: NDArray[np.floating],
        weights: NDArray[np.floating],
        *,
        size: int,
        pixel_size: float,
        resolution: float | None = None,
    ) -> Volume:
        """Density of point scatterers, blurred to a resolution.

        Every atom is spread over 4 x 4 x 4 voxels by cubic B-splines, the spline is divided out in Fourier space, and a
        Gaussian exp(-(k resolution)^2) takes the rest: sigma = resolution / (pi sqrt 2) in real space.

        Args:
            coordinates: (N, 3) xyz in Angstrom; the origin of the box is where they are zero.
            weights: (N,) scattering of each atom (its atomic number is a fair proxy).
            size: box in voxels.
            pixel_size: Angstrom per voxel.
            resolution: Angstrom; default 4 voxels, where 2 % of the amplitude is left at Nyquist.
        """
        resolution = resolution or 4 * pixel_size
        voxel = np.asarray(coordinates, dtype=np.float64)[:, ::-1] / pixel_size + size // 2
        corner = np.floor(voxel).astype(np.int64)
        if corner.min() < 1 or corner.max() >= size - 2:
            reach = 2 * np.abs(np.asarray(coordinates)).max()
            raise ValueError(f"the atoms span {reach:.0f} A, the box is {size * pixel_size:.0f} A: use a larger one")
        t = voxel - corner
        spline = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 3 * (1 - t) ** 3 - 6 * (1 - t) ** 2 + 4, t**3]) / 6
        density = np.zeros(size**3)
        for dz, dy, dx in np.ndindex(4, 4, 4):
            share = spline[dz, :, 0] * spline[dy, :, 1] * spline[dx, :, 2] * weights
            index = np.ravel_multi_index(tuple((corner + [dz - 1, dy - 1, dx - 1]).T), (size,) * 3)
            density += np.bincount(index, share, minlength=size**3)
        k = np.fft.fftfreq(size)
        kernel = np.exp(-((k * resolution / pixel_size) ** 2)) / np.sinc(k) ** 4
        half = kernel[: size // 2 + 1]
        spectrum = np.fft.rfftn(density.reshape((size,) * 3)) * kernel[:, None, None] * kernel[:, None] * half
        data = np.fft.irfftn(spectrum, s=(size,) * 3, axes=(0, 1, 2)).astype(np.float32)
        reach = float(np.linalg.norm(coordinates, axis=1).max())
        return cls(torch.from_numpy(data), pixel_size, reach)

    @classmethod
    def phantom(cls, *, size: int = 64, pixel_size: float = 5.0, seed: int = 0) -> Volume:
        """An asymmetric, protein-like object made from a seed: folded chains of beads in four domains.

        Its diameter is about 0.6 of the box, whatever the box.

        Args:
            size: box in voxels.
            pixel_size: Angstrom per voxel.
            seed: another seed, another molecule.
        """
        rng = np.random.default_rng(seed)
        radius = 0.3 * size * pixel_size
        # Four unequal domains at the corners of an irregular tetrahedron break every symmetry and mirror; a confined
        # random walk fills each with a chain, which gives the texture that a sum of few blobs lacks.
        corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3) + 0.2 * rng.normal(
            size=(4, 3)
        )
        beads = []
        for corner, share, extent in zip(corners, (0.4, 0.3, 0.2, 0.1), (0.5, 0.42, 0.34, 0.22), strict=True):
            centre = corner / np.linalg.norm(corner) * (1 - extent)
            position, direction = np.zeros(3), rng.normal(size=3)
            for _ in range(int(share * 1200)):
                direction = 0.8 * direction + 0.6 * rng.normal(size=3)
                step = position + 0.11 * direction / np.linalg.norm(direction)
                if np.linalg.norm(step) > extent:  # turn back at the wall of the domain
                    direction = -position / np.linalg.norm(position) + 0.5 * rng.normal(size=3)
                    step = position + 0.11 * direction / np.linalg.norm(direction)
                position = step
                beads.append(centre + position)
        coordinates = np.array(beads)
        coordinates -= coordinates.mean(axis=0)
        coordinates *= radius / np.linalg.norm(coordinates, axis=1).max()
        return cls.from_atoms(coordinates, np.ones(len(coordinates)), size=size, pixel_size=pixel_size)


def load_volume(name: str, *, image_size: int, pixel_size: float | None) -> Volume:
    """``phantom:SEED``, or a map or atomic model found by :func:`~cryozoo.particles.files.find_data`."""
    if name.startswith("phantom:"):
        seed = name.removeprefix("phantom:")
        if not seed.isdecimal():
            raise BadInput(name, f"the seed {seed!r}", expected="phantom:SEED with a whole number")
        return Volume.phantom(size=image_size, pixel_size=pixel_size or 5.0, seed=int(seed))
    return Volume.load(find_data(name), size=image_size, pixel_size=pixel_size if is_atomic(name) else None)


def is_atomic(name: str) -> bool:
    """Whether a file is an atomic model, by its name."""
    return name.lower().removesuffix(".gz").endswith((".pdb", ".ent", ".cif", ".mmcif", ".npz"))


def read_atoms(path: str | Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates (N, 3) in Angstrom, centred on the mass, and atomic numbers (N,) of a model.

    Reads PDB and mmCIF through gemmi (first model, water and hydrogens left out) and .npz with ``coords`` and ``z``.
    """
    path = Path(path)
    reader: Callable[[Path], tuple[NDArray[np.float64], NDArray[np.float64]]]
    reader = _read_npz if path.suffix == ".npz" else _read_gemmi
    coordinates, numbers = reader(path)
    if len(coordinates) == 0:
        raise BadInput(path, "no atoms")
    if not (np.isfinite(coordinates).all() and np.isfinite(numbers).all()):
        raise BadInput(path, "NaN or infinite coordinates")
    return coordinates - np.average(coordinates, axis=0, weights=numbers), numbers


def _read_npz(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["coords"].astype(np.float64), arrays["z"].astype(np.float64)
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(path, f"not readable: {error}", expected="an .npz with coords (N, 3) and z (N,)") from error


def _read_gemmi(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    try:
        import gemmi
    except ImportError as error:
        raise ImportError("reading PDB and mmCIF files needs gemmi: pip install 'cryozoo[sim]'") from error
    try:
        structure = gemmi.read_structure(str(path))
    except (OSError, ValueError, RuntimeError) as error:
        raise BadInput(path, f"not readable: {error}", expected="a PDB or mmCIF file") from error
    structure.remove_hydrogens()
    structure.remove_waters()
    atoms = [(*a.atom.pos.tolist(), a.atom.element.atomic_number) for a in structure[0].all()] if len(structure) else []
    table = np.array(atoms, dtype=np.float64).reshape(-1, 4)
    return table[:, :3], table[:, 3]
