"""Particles: images, tables, poses and maps in and out of the files of other programs, and the CTF that tables tell of.

A new format is one file that knows its syntax, and one that fills a :class:`~cryozoo.particles.table.ParticleTable`
from it; README.md says more. Nothing is imported here: the command line starts with ``particles.errors`` and without
torch.
"""

from .. import __version__ as __version__  # fails loudly when this folder is imported as a top-level package
