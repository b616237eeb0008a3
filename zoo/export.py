"""An encoder as one file that runs without cryozoo: PyTorch's exported program (``.pt2``) or ONNX (``.onnx``)."""

from __future__ import annotations

import io
import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from .. import __version__
from ..models.steerable import fold
from ..models.stems import LowPassStem
from ..particles.errors import BadInput
from ..particles.files import atomic_write
from ._onnx_operators import DECOMPOSITIONS
from .encoder import PoseEncoder

Format = Literal["pt2", "onnx"]

_OPSET = 18
_MEANING = {
    "rotation": "object to camera coordinates, x_cam = R @ x_obj",
    "shift": "(x, y) in Angstrom, where the content of the image has moved",
    "confidence": "larger is surer; comparable within one encoder only",
    "raw": "the numbers that the head makes rotation and confidence of; of an embedding head the embedding",
}
_PREPARATION = (
    "particle bright, origin at pixel image_size // 2; resampled in Fourier space to pixel_size (Angstrom), "
    "cropped, or padded with the mean of its border, to image_size; then mean 0 and variance 1 within image_size / 2 "
    "of the origin and 0 outside"
)


class ExportError(RuntimeError):
    """A part of the encoder has no counterpart in the format."""


def export(
    encoder: PoseEncoder, path: str | Path, *, format: Format | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Write an encoder to a file that needs no cryozoo: images in, poses out, weights and preparation stated inside.

    The input is ``images``, float32 (batch, in_chans, L, L), prepared as :class:`Preprocessing` does it; the outputs
    are ``rotation``, ``shift``, ``confidence`` and ``raw``, those that the head gives. The batch may have any size, the
    images the encoder's. Equivariant layers are folded into plain ones, and low-pass stems are matrix products instead
    of Fourier transforms, equal to rounding; weights are float32, on the CPU.

    pt2, for PyTorch::

        facts = {"cryozoo.json": ""}
        poses = torch.export.load("encoder.pt2", extra_files=facts).module()(images)  # {"rotation": (batch, 3, 3), ...}

    onnx, for ONNX Runtime and others (opset 18). Eigenvectors, which ONNX lacks, become Jacobi's method::

        session = onnxruntime.InferenceSession("encoder.onnx")
        rotation, = session.run(["rotation"], {"images": images})
        facts = session.get_modelmeta().custom_metadata_map["cryozoo"]

    Args:
        encoder: any mode, any device; it is not changed.
        path: the file to write.
        format: ``"pt2"`` or ``"onnx"``; by default what the suffix of ``path`` says.
        overwrite: replace a file that is there already.

    Returns:
        The facts that are in the file too, as JSON: name, inputs, outputs and what they mean, preprocessing, molecule.

    Raises:
        BadInput: the file exists, cannot be written, or has a suffix that says no format.
        ExportError: a part of the encoder has no counterpart in the format.
        ImportError: onnxscript, which writes ONNX, is missing.
    """
    path = Path(path)
    chosen = _format(path, format)
    if chosen == "onnx":
        _require_onnxscript()
    with atomic_write(path, overwrite=overwrite) as file, torch.no_grad():
        module = _Exported(encoder)
        sample = torch.zeros(2, encoder.config["in_chans"], *2 * (encoder.preprocessing.image_size,))
        facts = _facts(encoder, sample, module(sample))
        try:
            batch = torch.export.Dim("batch")
            program = torch.export.export(module, (sample,), dynamic_shapes={"images": {0: batch}}, strict=False)
            content = (_to_onnx if chosen == "onnx" else _to_pt2)(program, facts)
        except Exception as error:  # torch has no common class for what it cannot export
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            raise ExportError(f"{encoder.name} cannot be exported to {chosen}: {cause}") from error
        file.write(content)
    return facts


class _Exported(nn.Module):
    """The encoder as plain layers, from images to named tensors."""

    def __init__(self, encoder: PoseEncoder) -> None:
        super().__init__()
        self.encoder = _without_fourier(fold(encoder).cpu()).float().to(memory_format=torch.channels_last)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        pose = self.encoder(images)
        named = {name: getattr(pose, name) for name in _MEANING}
        return {name: value for name, value in named.items() if value is not None}


class _LowPassProducts(nn.Module):
    """A :class:`LowPassStem` without Fourier transforms, which neither ONNX nor compilers take: two matrix products."""

    filters: Tensor

    def __init__(self, stem: LowPassStem) -> None:
        super().__init__()
        rows = torch.fft.rfft(torch.eye(stem.image_size, dtype=torch.float64))
        filters = torch.fft.irfft(rows * stem.mask[:, :1].double(), n=stem.image_size)
        self.register_buffer("filters", filters.float())

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, W, W) -> (B, C (n + 1), W, W)."""
        low = self.filters @ images[:, :, None] @ self.filters
        return torch.cat([low, images[:, :, None]], dim=2).flatten(1, 2)


def _without_fourier(module: nn.Module) -> nn.Module:
    """Replace the low-pass stems of a network, in place."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, LowPassStem):
                setattr(parent, name, _LowPassProducts(child))
    return module


def _format(path: Path, format: str | None) -> Format:
    for known in get_args(Format):
        if (format or path.suffix.lower().removeprefix(".")) == known:
            return known
    if format is not None:
        raise ValueError(f"format {format!r}, expected {' or '.join(get_args(Format))}")
    raise BadInput(path, f"the suffix {path.suffix!r}", expected=".pt2 or .onnx", hint="or name the format")


def _facts(encoder: PoseEncoder, images: Tensor, outputs: dict[str, Tensor]) -> dict[str, Any]:
    entry = encoder.entry
    return {
        "cryozoo": __version__,
        "encoder": encoder.name,
        "tag": None if entry is None else entry.tag,
        "molecule": None if entry is None or entry.molecule is None else asdict(entry.molecule),
        "inputs": {"images": ["batch", *images.shape[1:]]},
        "outputs": {name: ["batch", *value.shape[1:]] for name, value in outputs.items()},
        "meaning": {name: _MEANING[name] for name in outputs},
        "preprocessing": {**encoder.preprocessing.to_dict(), "images": _PREPARATION},
    }


def _to_pt2(program: torch.export.ExportedProgram, facts: dict[str, Any]) -> bytes:
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)  # paths of this machine
    file = io.BytesIO()
    with warnings.catch_warnings():
        # Weights whose channels lie last in memory are taken for slices of others; they are written whole.
        warnings.filterwarnings("ignore", message="No complete tensor found in the group")
        torch.export.save(program, file, extra_files={"cryozoo.json": json.dumps(facts)})
        file.seek(0)
        torch.export.load(file)  # some programs are written that cannot be read
    return file.getvalue()


def _to_onnx(program: torch.export.ExportedProgram, facts: dict[str, Any]) -> bytes:
    made = torch.onnx.export(
        program.run_decompositions(DECOMPOSITIONS),
        dynamo=True,
        input_names=list(facts["inputs"]),
        output_names=list(facts["outputs"]),
        dynamic_shapes={"images": {0: "batch"}},
        opset_version=_OPSET,
        verbose=False,
    )
    assert made is not None
    for node in made.model.graph.all_nodes():
        node.metadata_props.clear()  # where each came from, with paths of this machine
    made.model.metadata_props["cryozoo"] = json.dumps(facts)
    return made.model_proto.SerializeToString()


def _require_onnxscript() -> None:
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError("writing ONNX needs onnxscript: pip install 'cryozoo[export]'") from error
