"""cryozoo: a model zoo of pose encoders for single-particle cryo-electron microscopy."""

if __name__ != "cryozoo":
    raise ImportError(
        f"the repository root is the package 'cryozoo' and was imported as {__name__!r}; "
        "install it (pip install -e .) and import cryozoo"
    )

__version__ = "0.1.0"
