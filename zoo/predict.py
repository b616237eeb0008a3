"""Poses of particle images, one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..geometry.pose import Pose
from ..particles.errors import BadInput
from ..particles.poses import PoseTable
from ..particles.stack import ParticleStack
from ._source import Images, Particles, inference, open_particles, pose_table, prepared_batches
from .encoder_protocol import Encoder


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
    encoder: Encoder,
    particles: Particles,
    *,
    batch_size: int = 256,
    pixel_size: float | None = None,
    progress: bool = False,
    done: PoseTable | None = None,
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
        done: poses of the first particles from an earlier call with the same encoder and batches, which are not
            predicted again.
        on_batch: called with the poses of each batch as soon as they are there.
        **open_args: of :meth:`ParticleStack.open` for files, for instance ``datadir`` or ``skip_bad``.

    Returns:
        One row per particle in their order, with all else that the file says about them; in the frame of the molecule
        that the encoder was trained on.

    Raises:
        BadInput: the encoder predicts no rotation; or the particles cannot be used, with file and row: NaN, infinite
            and constant images, and pixels of quite another size than those of the training.
        PartError: the backbone or head itself fails.
        ValueError: ``done`` is no whole number of batches.
        PredictionStopped: Ctrl-C, with what was finished.

    Warns:
        BadInputWarning: the images cover less than those the encoder was trained on, or have coarser pixels.
    """
    if not encoder.head.has_rotation:
        hint = "recover() or `cryozoo recover` finds those of many images together"
        raise BadInput(encoder.name, "predicts no rotation", hint=hint)
    source = open_particles(encoder, particles, pixel_size, open_args)
    start = 0 if done is None else len(done)
    if start > len(source) or (start < len(source) and start % max(1, batch_size)):
        raise ValueError(f"{start} poses are done: no whole batches of {batch_size} of {len(source)} particles")
    tables = [] if done is None else [done]
    try:
        prepared = prepared_batches(encoder, source, batch_size, start=start, progress=progress, desc="predict")
        with inference(encoder), prepared as batches:
            for rows, images in batches:
                tables.append(_poses(source, rows, encoder(images)))
                if on_batch is not None:
                    on_batch(tables[-1])
    except KeyboardInterrupt as stop:
        finished = _joined(source, tables, encoder.has_shift) if tables else None
        raise PredictionStopped(finished, len(source), getattr(stop, "signum", None)) from None
    return _joined(source, tables, encoder.has_shift)


def _poses(source: ParticleStack | Images, rows: range, pose: Pose) -> PoseTable:
    rotation, shift, confidence, _ = pose._replace(raw=None).numpy()
    assert rotation is not None
    where = f"what the network made of {source.path}, rows {rows.start + 1} to {rows.stop}"
    return PoseTable(
        rotation, shift, confidence, image_size=source.image_size, pixel_size=source.pixel_size, source=where
    )


def _joined(source: ParticleStack | Images, tables: Sequence[PoseTable], shifts_predicted: bool) -> PoseTable:
    poses = join_tables(tables)
    return pose_table(source, poses.rotation, poses.shift if shifts_predicted else None, poses.confidence)


def join_tables(tables: Sequence[PoseTable]) -> PoseTable:
    """The bare poses of tables, one after the other; a confidence where all have one."""
    confidence = [table.confidence for table in tables if table.confidence is not None]
    return PoseTable(
        np.concatenate([table.rotation for table in tables]),
        np.concatenate([table.shift for table in tables]),
        np.concatenate(confidence) if len(confidence) == len(tables) else None,
        source=tables[0].source,
    )
