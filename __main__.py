"""``python -m cryozoo``: the same command line as the console script ``cryozoo``."""

from .cli.main import main

if __name__ == "__main__":
    main()
