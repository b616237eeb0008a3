"""Particle images on their way to an encoder: opened, and read and prepared in the background while it works."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..particles.errors import BadInput, BadInputWarning
from ..particles.poses import PoseTable
from ..particles.stack import ParticleStack
from .encoder_protocol import Encoder
from .parts import blaming, parts_of

_PIECE = 2**22
"""Pixels prepared at once: 16 MiB of them, and some 100 MiB of Fourier transforms."""
_SCALES = 16
"""Factor by which pixels may be smaller or larger than those of the training; beyond it must be an error."""
_LARGEST_PIXEL = 1e15
"""Squares and sums of larger values leave the range of float32."""

T = TypeVar("T")
Particles = str | Path | ParticleStack | Tensor | NDArray[np.floating]


class Images:
    """Images in memory, with the few attributes of a ParticleStack that are needed here."""

    path = "images"

    def __init__(self, images: Tensor, pixel_size: float) -> None:
        shape = tuple(images.shape)
        if images.ndim == 4 and shape[1] == 1:
            images = images[:, 0]
        if images.ndim != 3 or not len(images) or images.shape[1] != images.shape[2]:
            raise BadInput(self.path, f"an array of shape {shape}", expected="(N, L, L) or (N, 1, L, L)")
        self._images = images
        self.image_size = images.shape[-1]
        self.pixel_size = pixel_size

    def __len__(self) -> int:
        return len(self._images)

    def images(self, rows: range | NDArray[np.int64]) -> Tensor:
        images = self._images[torch.as_tensor(np.asarray(rows))].float()
        low, high = images.flatten(1).aminmax(dim=1)
        good = (low < high) & (low >= -_LARGEST_PIXEL) & (high <= _LARGEST_PIXEL)  # NaN compares as false
        if not good.all():
            row = int(rows[int((~good).nonzero()[0])])
            found = f"an image that is NaN, infinite, constant or beyond {_LARGEST_PIXEL:g}"
            raise BadInput(self.path, found, where=f"row {row + 1}")
        return images


def open_particles(
    encoder: Encoder, particles: Particles, pixel_size: float | None, open_args: Mapping[str, Any]
) -> ParticleStack | Images:
    """What :func:`cryozoo.zoo.predict.predict` takes, opened; warns of images unlike those of the training.

    A scale that must be an error is refused.
    """
    source = opened(particles, pixel_size, open_args, of_images=encoder.preprocessing.pixel_size)
    _warn_of_other_images(source, encoder)
    return source


def opened(
    particles: Particles, pixel_size: float | None, open_args: Mapping[str, Any], *, of_images: float | None = None
) -> ParticleStack | Images:
    """A file opened, a stack as it is, images in memory with ``pixel_size``, or else the pixel size ``of_images``."""
    if pixel_size is not None and not pixel_size > 0:
        raise ValueError(f"pixel_size {pixel_size}, expected Angstrom per pixel, above 0")
    if isinstance(particles, str | Path):
        return ParticleStack.open(particles, pixel_size=pixel_size, **open_args)
    if open_args or (isinstance(particles, ParticleStack) and pixel_size is not None):
        raise TypeError(f"only for files that are to be opened: {', '.join(open_args) or 'pixel_size'}")
    if isinstance(particles, ParticleStack):
        return particles
    size = of_images if pixel_size is None else pixel_size
    if size is None:
        raise ValueError("pixel_size None, expected Angstrom per pixel of the images")
    return Images(torch.as_tensor(particles), size)


def _warn_of_other_images(source: ParticleStack | Images, encoder: Encoder) -> None:
    trained = encoder.preprocessing
    if not 1 / _SCALES < source.pixel_size / trained.pixel_size < _SCALES:
        raise BadInput(
            source.path,
            f"pixels of {source.pixel_size:.4g} A",
            expected=f"about the {trained.pixel_size:.4g} A of the training",
            hint="pixel_size (--pixel-size) replaces what a file says",
        )
    width, wanted = source.image_size * source.pixel_size, trained.image_size * trained.pixel_size
    if width < 0.98 * wanted:
        message = f"the images are {width:.0f} A wide and are padded; the encoder was trained on {wanted:.0f} A"
        warnings.warn(BadInputWarning(f"{source.path}: {message}"), stacklevel=4)
    if source.pixel_size > 1.02 * trained.pixel_size:
        message = f"pixels of {source.pixel_size:.4g} A are coarser than the {trained.pixel_size:.4g} A of the training"
        warnings.warn(BadInputWarning(f"{source.path}: {message}"), stacklevel=4)
    if trained.ctf == "phase_flip":
        if isinstance(source, ParticleStack):
            source.table.signs_of_ctf()
        else:
            message = "no CTF is known of images in memory: their phases are taken as flipped already"
            warnings.warn(BadInputWarning(f"{source.path}: {message}"), stacklevel=4)
    has_ctf = isinstance(source, ParticleStack) and source.ctf is not None
    if has_ctf and encoder.entry is not None and encoder.entry.trained_without_ctf:
        message = "the images have a CTF, and those of the training had none (data defocus): poses will be worse"
        warnings.warn(BadInputWarning(f"{source.path}: {message}"), stacklevel=4)


def prepared_batches(
    encoder: Encoder, source: ParticleStack | Images, batch_size: int, *, start: int = 0, progress: bool, desc: str
) -> AbstractContextManager[Iterator[tuple[range, Tensor]]]:
    """Rows and preprocessed images (B, 1, L, L) on the encoder's device; the next ones are being prepared meanwhile.

    The rows before ``start`` are left out; the others come in the batches in which they come without that.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size}: at least 1")
    device = next(encoder.parameters()).device
    batches = [range(k, min(k + batch_size, len(source))) for k in range(start, len(source), batch_size)]
    ctf = None
    if encoder.preprocessing.ctf == "phase_flip" and isinstance(source, ParticleStack):
        ctf = source.table.signs_of_ctf()

    def prepare(rows: range) -> Tensor:
        step = max(1, _PIECE // source.image_size**2)
        pieces = []
        for row in range(rows.start, rows.stop, step):
            piece = np.arange(row, min(row + step, rows.stop))
            images = torch.as_tensor(source.images(piece)).to(device)
            signs = None if ctf is None else ctf[piece].to(torch.float32).to(device)
            pieces.append(encoder.preprocessing(images, source.pixel_size, signs))
        return torch.cat(pieces)

    return read_ahead(batches, prepare, total=len(source), progress=progress, desc=desc)


@contextmanager
def read_ahead(
    batches: Sequence[range], prepare: Callable[[range], T], *, total: int, progress: bool, desc: str
) -> Iterator[Iterator[tuple[range, T]]]:
    """Batches of rows and what ``prepare`` makes of them; that of the next is being made while one is worked on."""
    done = batches[0].start if batches else total
    bar = tqdm(total=total, initial=done, desc=desc, unit="image", disable=not progress, smoothing=0.05)

    # Who stops in the middle leaves this to the garbage collector, which may run in the reader's thread: what has to be
    # closed is not here.
    def ahead() -> Iterator[tuple[range, T]]:
        pending = [reader.submit(prepare, rows) for rows in batches[:1]]
        for rows, following in zip_longest(batches, batches[1:]):
            prepared = pending.pop().result()
            if following is not None:
                pending.append(reader.submit(prepare, following))
            yield rows, prepared
            bar.update(len(rows))

    with bar, ThreadPoolExecutor(1) as reader:
        yield ahead()


@contextmanager
def inference(encoder: Encoder) -> Iterator[None]:
    """Evaluation mode without gradients; the mode is restored afterwards. What a part raises is a PartError."""
    training = encoder.training
    encoder.eval()
    try:
        with torch.inference_mode(), blaming(*parts_of(encoder)):
            yield
    finally:
        encoder.train(training)


def pose_table(
    source: ParticleStack | Images,
    rotation: NDArray[np.floating],
    shift: NDArray[np.floating] | None,
    confidence: NDArray[np.floating] | None,
) -> PoseTable:
    """Poses of the first particles, with what else their file says; its shifts where none are given."""
    if not isinstance(source, ParticleStack):
        size, pixel_size = source.image_size, source.pixel_size
        return PoseTable(rotation, shift, confidence, image_size=size, pixel_size=pixel_size)
    if shift is None and source.poses is not None:
        shift = source.poses.shift[: len(rotation)]
    chosen = source if len(rotation) == len(source) else source.subset(np.arange(len(rotation)))
    return chosen.with_poses(rotation, shift, confidence)
