"""``cryozoo doctor``: what is installed, what works, and what a file is."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from .. import __version__
from ..particles.errors import BadInput
from .common import format_table, verb

_IMPORT_NAMES = {"pyyaml": "yaml"}
_FOR_DEVELOPERS = {"dev", "docs"}
_TORCH = """
import torch
cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "a build without CUDA"
devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
print(f"{cuda}; {', '.join(devices) or 'no GPU in reach'}; {torch.get_num_threads()} threads")
"""


@verb("doctor", short_help="What is installed, what works, what a file is.")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@click.pass_context
def doctor(ctx: click.Context, paths: tuple[Path, ...]) -> None:
    """Report versions, what can be imported and where data are sought; or what each PATH is.

    Ends with code 1 when a package that everything needs is broken, and with code 3 when a PATH cannot be read.
    """
    if paths:
        refused = [path for path in paths if not _report_file(path)]
        ctx.exit(3 if refused else 0)
    click.echo(f"cryozoo {__version__} in {Path(__file__).parents[2]}")
    click.echo(f"Python {platform.python_version()}, {platform.platform()}, {os.cpu_count()} processors")
    broken = _report_packages()
    _report_data()
    ctx.exit(1 if broken else 0)


def _report_packages() -> bool:
    """Print a line per dependency; True when one that everything needs does not work."""
    rows, broken = [], False
    # Each in a process of its own: a broken build may raise anything, or crash. All at once: some take seconds.
    checks = [(extra, name, _start_import(name)) for extra, name in _requirements()]
    for extra, name, process in checks:
        state, works = _result(name, process)
        broken |= not (works or extra)
        hint = f"; pip install 'cryozoo[{extra}]'" if extra and process is None else ""
        rows.append((extra or "core", name, state + hint))
    if rows:
        click.echo(format_table(rows, indent="  "))
    return broken


def _requirements() -> Iterator[tuple[str, str]]:
    """(extra or "", distribution) of what cryozoo declares, without the tools of its developers."""
    from importlib import metadata

    try:
        declared = metadata.requires("cryozoo") or []
    except metadata.PackageNotFoundError:
        click.echo("  cryozoo is not installed (it runs from its source): what it needs is not known")
        return
    for requirement in declared:
        name = re.split(r"[^\w.-]", requirement)[0]
        match = re.search(r"extra\s*==\s*['\"](\w+)['\"]", requirement)
        extra = match[1] if match else ""
        if extra not in _FOR_DEVELOPERS and name != "cryozoo":
            yield extra, name


def _start_import(name: str) -> subprocess.Popen[str] | None:
    from importlib import metadata

    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
    module = _IMPORT_NAMES.get(name, name.replace("-", "_"))
    code = _TORCH if module == "torch" else f"import {module}"
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )


def _result(name: str, process: subprocess.Popen[str] | None) -> tuple[str, bool]:
    from importlib import metadata

    if process is None:
        return "not installed", False
    version = metadata.version(name)
    try:
        output, errors = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        return f"{version}, but importing it takes more than two minutes", False
    if process.returncode == 0:
        return f"{version}  {output.strip()}".strip(), True
    reason = (errors.strip().splitlines() or [f"it died with code {process.returncode}"])[-1]
    return f"{version}, but importing it fails: {reason}", False


def _report_data() -> None:
    folders = [f for f in os.environ.get("CRYOZOO_DATA", "").split(os.pathsep) if f]
    states = [f"{f}{'' if Path(f).is_dir() else ' (NO SUCH FOLDER)'}" for f in folders]
    click.echo(f"CRYOZOO_DATA: {', '.join(states) or 'not set; data are sought under the paths given'}")


def _report_file(path: Path) -> bool:
    """Print what a file is; False when it cannot be used."""
    try:
        for line in _describe(path):
            click.echo(f"{path}: {line}")
    except BadInput as error:
        click.echo(f"refused: {error}")
        return False
    return True


def _describe(path: Path) -> Iterator[str]:
    suffix = path.suffix.lower()
    if path.is_dir():
        from ..zoo.pretrained import load_pretrained

        entry = load_pretrained(f"local-dir:{path}").entry
        assert entry is not None
        yield f"a saved encoder, {entry.name}, {entry.parameters:,} parameters, whole"
    elif suffix in (".star", ".cs"):
        yield from _describe_table(path)
    elif suffix in (".pkl", ".npz"):
        from ..particles.poses import PoseTable

        # The box is not known; any will do to look at the rotations.
        yield f"{len(PoseTable.load(path, image_size=1, pixel_size=1.0)):,} poses"
    else:
        from ..particles.mrc import MrcStack

        notes: list[str] = []
        stack = MrcStack(path, report=notes.append)
        pixel = "of unknown size" if stack.pixel_size is None else f"of {stack.pixel_size:g} A"
        yield f"an MRC file, {len(stack):,} images or sections of {stack.shape[1]} x {stack.shape[2]} pixels {pixel}"
        yield from notes


def _describe_table(path: Path) -> Iterator[str]:
    from ..particles.poses import load_table
    from ..particles.stack import ParticleStack

    table = load_table(path)
    has = {"poses": table.rotation, "shifts": table.shift, "CTF": table.ctf, "confidences": table.confidence}
    facts = [name if column is not None else f"no {name}" for name, column in has.items()]
    yield f"a table of {table.size:,} particles: {', '.join(facts)}"
    if table.file is not None:
        stack = ParticleStack.open(path)
        yield f"its images are there, {stack.image_size} x {stack.image_size} pixels of {stack.pixel_size:g} A"
