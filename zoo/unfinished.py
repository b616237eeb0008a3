"""Poses of the first particles of a prediction that did not come to its end, kept for the next try."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from .. import __version__
from ..particles.errors import BadInput, BadInputWarning
from ..particles.poses import PoseTable
from ..particles.stack import ParticleStack
from .encoder import PoseEncoder
from .entry import MODEL
from .predict import join_tables


class Unfinished:
    """``NAME.partial-<key>.npz`` beside the output of a prediction.

    The key is a hash of what the poses depend on: which images of which files, as they lie on disk (size and time of
    change), the weights and the shape of the encoder, the batches, the device and the versions. Only poses of that key
    are gone on from, so that the end is the same bit for bit.

    Args:
        out: the output.
        encoder: one that was loaded.
        stack: the particles.
        batch_size: images per step.

    Attributes:
        done: poses of the first particles from before, whole batches of them, or None.

    Warns:
        BadInputWarning: something was left that does not match.
    """

    def __init__(self, out: Path, encoder: PoseEncoder, stack: ParticleStack, batch_size: int) -> None:
        self._out = out
        self._stack = stack
        assert encoder.entry is not None
        device = next(encoder.parameters()).device.type
        weights = encoder.entry.files[MODEL].sha256
        self._settings = repr((encoder.config, weights, batch_size, device, torch.__version__, __version__))
        self._files = [_as_it_lies(path) for path in stack.image_files]
        self.done: PoseTable | None = None
        self._path: Path | None = None
        name = re.compile(re.escape(f"{out.stem}.partial-") + r"[0-9a-f]{16}\.npz")
        for path in sorted(path for path in out.parent.iterdir() if name.fullmatch(path.name)):
            try:
                found = PoseTable.load(path)
                fits = len(found) <= len(stack) and path == self._name(len(found))
            except BadInput:
                fits = False
            if not fits:
                message = "is of other particles, another encoder or other batches: this prediction begins anew"
                warnings.warn(BadInputWarning(f"{path} {message}"), stacklevel=2)
            elif self.done is None or len(found) > len(self.done):
                self.done, self._path = found, path

    def keep(self, tables: Sequence[PoseTable]) -> Path:
        """Write the poses of the first particles, batch by batch, in place of those from before."""
        poses = join_tables(tables)
        path = self._name(len(poses))
        poses.save(path, overwrite=True)
        if self._path != path:
            self.remove()
        self._path = path
        return path

    def remove(self) -> None:
        """Remove what was gone on from."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _name(self, n: int) -> Path:
        table = self._stack.table
        assert table.file is not None
        assert table.index is not None
        key = hashlib.sha256(repr((self._settings, n, self._stack.pixel_size, self._stack.inverted)).encode())
        file, index = table.file[:n], table.index[:n]
        for position in dict.fromkeys(file.tolist()):
            key.update(f"{position}: {self._files[position]}".encode())
        key.update(file.tobytes() + index.tobytes())
        if table.sign is not None:
            key.update(table.sign[:n].tobytes())
        return self._out.with_name(f"{self._out.stem}.partial-{key.hexdigest()[:16]}.npz")


def _as_it_lies(path: Path) -> str:
    status = os.stat(path)
    return repr((os.path.realpath(path), status.st_size, status.st_mtime_ns))
