"""Imaging: the physics. Volumes, projections and the CTF applied, simulated particles, what happens to images before a
network sees them, and the way back: maps from images, their agreement, and the limit of what images can tell.

A new operator is one file; it takes and gives tensors, volumes and :class:`~cryozoo.imaging.batch.Batch`, and never
opens a table itself.
"""

from .. import __version__ as __version__  # fails loudly when this folder is imported as a top-level package
