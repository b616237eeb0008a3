"""``cryozoo export``: an encoder as a file that runs without cryozoo."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from ..particles.errors import BadInput
from .common import check_output, load_encoder, overwrite_option, verb


@verb("export", short_help="An encoder for PyTorch or ONNX Runtime alone.")
@click.argument("name", metavar="ENCODER")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), metavar="FILE", help="What to write.")
@click.option("--format", type=click.Choice(["pt2", "onnx"]), help="By default what the suffix of FILE says.")
@overwrite_option
def export(name: str, out: Path, format: Literal["pt2", "onnx"] | None, overwrite: bool) -> None:
    """Write an encoder to a file that needs no cryozoo: prepared images in, poses out.

    A .pt2 file is a program for PyTorch (torch.export.load), an .onnx file one for ONNX Runtime and others. How images
    must be prepared is written inside. ENCODER is a pretrained encoder, a folder that `train` wrote, or
    hf-hub:owner/repo@<commit>.
    """
    check_output(out, overwrite=overwrite)
    if format is not None and out.suffix.lower() in (".pt2", ".onnx") and out.suffix.lower() != f".{format}":
        raise BadInput(out, f"the suffix {out.suffix!r}", expected=f".{format}, as --format says")
    from ..zoo.export import export as write

    encoder = load_encoder(name)
    facts = write(encoder, out, format=format, overwrite=overwrite)
    size = out.stat().st_size / 1e6
    click.echo(f"{out}: {_shapes(facts['inputs'])} -> {_shapes(facts['outputs'])}; {size:.1f} MB")


def _shapes(tensors: dict[str, list[int | str]]) -> str:
    return ", ".join(f"{name} ({', '.join(map(str, shape))})" for name, shape in tensors.items())
