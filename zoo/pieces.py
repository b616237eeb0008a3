"""Finished parts of work that takes long, kept in a folder, from which the same work goes on when it was stopped."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from ..particles.errors import BadInput, BadInputWarning
from ..particles.files import atomic_write, make_folder

Tensors = dict[str, Tensor]


class Pieces:
    """Tensors by name, of parts that are done one after the other and are functions of a key and of those before.

    Args:
        folder: where they are kept; None keeps nothing.
        key: what all of it depends on; parts with another one are done again.

    Warns:
        BadInputWarning: the folder has parts of other work, or damaged ones.
    """

    def __init__(self, folder: Path | None, key: str) -> None:
        self._folder, self._key = folder, key
        self._found: list[Path] = []
        if folder is None or not folder.is_dir():
            return
        for path in sorted(folder.glob("*.safetensors")):
            if _key_of(path) == key:
                self._found.append(path)
            else:
                message = "is damaged, of other particles, or was made with other settings: it is done again"
                warnings.warn(BadInputWarning(f"{path} {message}"), stacklevel=3)

    def __len__(self) -> int:
        return len(self._found)

    def get(self, name: str, make: Callable[[], Tensors]) -> Tensors:
        """The part of this name: as it was kept, or made now and kept."""
        path = None if self._folder is None else self._folder / f"{name}.safetensors"
        if path in self._found:
            return safetensors.torch.load_file(path)
        made = {key: value.detach().cpu().contiguous() for key, value in make().items()}
        if path is not None:
            with suppress(BadInput, OSError):  # a full disk is no reason to stop
                make_folder(path.parent)
                with atomic_write(path, overwrite=True) as file:
                    file.write(safetensors.torch.save(made, {"key": self._key}))
        return made

    @contextmanager
    def told_on_failure(self) -> Iterator[None]:
        """Say of work that is stopped, or fails, where its finished parts are; what was refused would be again."""
        try:
            yield
        except BadInput:
            raise
        except BaseException as error:
            if self._folder is not None and any(self._folder.glob("*.safetensors")):
                error.add_note(f"finished parts are kept in {self._folder}; the same command goes on")
            raise


def _key_of(path: Path) -> str | None:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("key")
    except (OSError, safetensors.SafetensorError):
        return None
