"""What is written down of every validation: a table, and events for TensorBoard where it is installed."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..particles.files import atomic_write


def write_log(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write one line per validation as CSV, replacing an older file."""
    lines = io.StringIO()
    table = csv.DictWriter(lines, list(history[0]) if history else [], lineterminator="\n")
    table.writeheader()
    table.writerows(history)
    with atomic_write(path, overwrite=True) as file:
        file.write(lines.getvalue().encode())


def open_tensorboard(folder: Path, step: int) -> Any:
    """A writer of events that drops those after this step; None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # an extra; the table has the same numbers
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
