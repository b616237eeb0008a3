"""The random half-sets of a table, which every program numbers in its own way."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .errors import BadInput
from .star import StarFile
from .table import ParticleTable

RELION, CRYOSPARC = "rlnRandomSubset", "alignments3D/split"  # from 1, and from 0


def given_half_sets(table: ParticleTable) -> NDArray[np.int64] | None:
    """(N,) 1 or 2, as the table says; None where it does not.

    Raises:
        BadInput: another number.
    """
    if isinstance(table.origin, StarFile):
        label, lowest = RELION, 1
        block = table.origin[table.block]
        number = block.integers(label) if label in block else None
    elif table.origin is not None:
        label, lowest = CRYOSPARC, 0
        number = table.origin[label].astype(np.int64) if label in (table.origin.dtype.names or ()) else None
    else:
        number = None
    if number is None:
        return None
    number = number - lowest + 1
    if (wrong := np.flatnonzero((number < 1) | (number > 2))).size:
        found, expected = f"half-set {number[wrong[0]] + lowest - 1}", f"{lowest} or {lowest + 1}"
        raise BadInput(table.path, found, where=table.where(int(wrong[0]), label), expected=expected)
    return number
