"""cryozoo.weights: data only. One JSON per pretrained encoder, and the weights that are small enough to ship.

An entry is a saved encoder (``save_pretrained(encoder, folder, tag=...)``) under the name ``<backbone>-<head>.<tag>``:

========================================  =============================================================================
``<name>.json``                           the folder's ``config.json`` with one more field, ``"source": "embedded"``, or
                                          ``"source": "hf-hub:owner/repo@<commit>"`` with all 40 digits
``<name>.safetensors``                    embedded only: the folder's ``model.safetensors``
``<name>.golden.safetensors``             embedded only: the folder's ``golden.safetensors``
``<name>.mrc``                            the folder's ``frame.mrc``, where it has one
``<name>.md``                             the folder's ``README.md``: whose molecule's frame it answers in, metrics
========================================  =============================================================================

``cryozoo.list_encoders(pretrained=True)`` finds it by its file name; nothing else is to be edited. A tag is immutable:
better weights get a new one.
"""

from .. import __version__ as __version__  # fails loudly when this folder is imported as a top-level package
