"""Poses of particle images: the next images are read and prepared in the background while the network works."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..particles.errors import BadInput, BadInputWarning
from ..particles.poses import PoseTable
from ..particles.stack import ParticleStack

if TYPE_CHECKING:
    from ..heads.base import Pose
    from .encoder import PoseEncoder

_PIECE = 2**22
"""Pixels prepared at once: 16 MiB of them, and some 100 MiB of Fourier transforms."""
_LARGEST_PIXEL = 1e15
"""Squares and sums of larger values leave the range of float32."""


class PredictionStopped(KeyboardInterrupt):
    """Ctrl-C or another signal stopped the work.

    Attributes:
        done: poses of the particles that were finished, or None when there are none.
        signum: the signal; None for a plain KeyboardInterrupt.
    """

    def __init__(self, done: PoseTable | None, total: int, signum: int | None) -> None:
        self.done = done
        self.signum = signum
        super().__init__(f"stopped after {0 if done is None else len(done)} of {total} particles")


def predict(
    encoder: PoseEncoder,
    particles: str | Path | ParticleStack | Tensor | NDArray[np.floating],
    *,
    batch_size: int = 256,
    pixel_size: float | None = None,
    progress: bool = False,
    on_batch: Callable[[PoseTable], None] | None = None,
    **open_args: Any,
) -> PoseTable:
    """Predict the poses of particle images.

    Args:
        encoder: one whose head has a rotation; its mode (training or evaluation) is restored afterwards.
        particles: a .star, .cs or .mrcs file, an open stack, or images (N, L, L) or (N, 1, L, L); particles bright.
        batch_size: images per step of the network.
        pixel_size: Angstrom per pixel, instead of what a file says; of images in memory, by default the encoder's.
        progress: show a bar with the time left.
        on_batch: called with the poses of each batch as soon as they are there.
        **open_args: of :meth:`ParticleStack.open` for files, for instance ``datadir`` or ``skip_bad``.

    Returns:
        One row per particle in their order, with all else that the file says about them; in the frame of the molecule
        that the encoder was trained on.

    Raises:
        BadInput: the particles cannot be used, with file and row; NaN, infinite and constant images cannot.
        PredictionStopped: Ctrl-C, with what was finished.

    Warns:
        BadInputWarning: the images cover less than those the encoder was trained on, or have coarser pixels.
    """
    if not encoder.head.has_rotation:
        raise ValueError(f"{encoder.name} predicts no rotation")
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size}: at least 1")
    source: ParticleStack | _Images
    if isinstance(particles, str | Path):
        source = ParticleStack.open(particles, pixel_size=pixel_size, **open_args)
    elif open_args or (isinstance(particles, ParticleStack) and pixel_size is not None):
        raise TypeError(f"only for files that are to be opened: {', '.join(open_args) or 'pixel_size'}")
    elif isinstance(particles, ParticleStack):
        source = particles
    else:
        source = _Images(torch.as_tensor(particles), pixel_size or encoder.preprocessing.pixel_size)
    _warn_of_another_scale(source, encoder)
    training = encoder.training
    encoder.eval()
    try:
        return _predict(encoder, source, batch_size, progress, on_batch)
    finally:
        encoder.train(training)


class _Images:
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

    def images(self, rows: range) -> Tensor:
        images = self._images[rows.start : rows.stop].float()
        low, high = images.flatten(1).aminmax(dim=1)
        good = (low < high) & (low >= -_LARGEST_PIXEL) & (high <= _LARGEST_PIXEL)  # NaN compares as false
        if not good.all():
            row = rows[int((~good).nonzero()[0])]
            found = f"an image that is NaN, infinite, constant or beyond {_LARGEST_PIXEL:g}"
            raise BadInput(self.path, found, where=f"row {row + 1}")
        return images


def _warn_of_another_scale(source: ParticleStack | _Images, encoder: PoseEncoder) -> None:
    trained = encoder.preprocessing
    width, wanted = source.image_size * source.pixel_size, trained.image_size * trained.pixel_size
    if width < 0.98 * wanted:
        message = f"the images are {width:.0f} A wide and are padded; the encoder was trained on {wanted:.0f} A"
        warnings.warn(BadInputWarning(f"{source.path}: {message}"), stacklevel=3)
    if source.pixel_size > 1.02 * trained.pixel_size:
        message = f"pixels of {source.pixel_size:.4g} A are coarser than the {trained.pixel_size:.4g} A of the training"
        warnings.warn(BadInputWarning(f"{source.path}: {message}"), stacklevel=3)


def _predict(
    encoder: PoseEncoder,
    source: ParticleStack | _Images,
    batch_size: int,
    progress: bool,
    on_batch: Callable[[PoseTable], None] | None,
) -> PoseTable:
    device = next(encoder.parameters()).device
    batches = [range(k, min(k + batch_size, len(source))) for k in range(0, len(source), batch_size)]

    def prepare(rows: range) -> Tensor:
        step = max(1, _PIECE // source.image_size**2)
        pieces = []
        for start in range(rows.start, rows.stop, step):
            images = torch.as_tensor(source.images(range(start, min(start + step, rows.stop))))
            pieces.append(encoder.preprocessing(images.to(device), source.pixel_size))
        return torch.cat(pieces)

    done: list[PoseTable] = []
    bar = tqdm(total=len(source), desc="predict", unit="image", disable=not progress, smoothing=0.05)
    try:
        with bar, ThreadPoolExecutor(1) as reader, torch.inference_mode():
            pending = reader.submit(prepare, batches[0])
            for rows, following in zip(batches, [*batches[1:], None], strict=True):
                images = pending.result()
                if following is not None:
                    pending = reader.submit(prepare, following)
                done.append(_poses(source, rows, encoder(images)))
                bar.update(len(rows))
                if on_batch is not None:
                    on_batch(done[-1])
    except KeyboardInterrupt as stop:
        finished = _joined(source, done, encoder.head.has_shift) if done else None
        raise PredictionStopped(finished, len(source), getattr(stop, "signum", None)) from None
    return _joined(source, done, encoder.head.has_shift)


def _poses(source: ParticleStack | _Images, rows: range, pose: Pose) -> PoseTable:
    rotation, shift, confidence = (
        None if value is None else value.cpu().double().numpy()
        for value in (pose.rotation, pose.shift, pose.confidence)
    )
    assert rotation is not None
    where = f"what the network made of {source.path}, rows {rows.start + 1} to {rows.stop}"
    return PoseTable(
        rotation, shift, confidence, image_size=source.image_size, pixel_size=source.pixel_size, source=where
    )


def _joined(source: ParticleStack | _Images, done: list[PoseTable], shifts_predicted: bool) -> PoseTable:
    rotation = np.concatenate([poses.rotation for poses in done])
    shift = np.concatenate([poses.shift for poses in done])
    known = source.poses if isinstance(source, ParticleStack) else None
    if not shifts_predicted and known is not None:
        shift = known.shift[: len(rotation)]
    surest = [poses.confidence for poses in done if poses.confidence is not None]
    confidence = np.concatenate(surest) if surest else None
    if isinstance(source, ParticleStack):
        chosen = source if len(rotation) == len(source) else source.subset(np.arange(len(rotation)))
        return chosen.with_poses(rotation, shift, confidence)
    return PoseTable(
        rotation, shift, confidence, image_size=source.image_size, pixel_size=source.pixel_size, source=source.path
    )
