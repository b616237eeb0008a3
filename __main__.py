"""``python -m cryozoo``: the same command line as the console script ``cryozoo``."""

from .zoo.cli import main

if __name__ == "__main__":
    main()
