"""Studies: measurements that are no training. A study is one file that prints what it found and writes ``results/``.

Speed beside another program, accuracy of recovery and reconstruction, and what finished runs have learnt.
"""

from ... import __version__ as __version__  # fails loudly when this folder is imported as a top-level package
