"""Saving encoders and loading pretrained ones.

A saved encoder is a folder: ``config.json`` (see :class:`.entry.Entry`), ``model.safetensors`` (the state dict, in
float32 or float16), ``golden.safetensors`` (a few images and what the encoder made of them, repeated at every load),
``README.md`` and, where it is known, ``frame.mrc``, the map in whose frame the encoder answers. The first states size
and sha256 of the others but ``README.md``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ..imaging.volumes import Volume
from ..particles.errors import BadInput, BadInputWarning
from ..particles.fields import from_plain
from ..particles.files import atomic_write, make_folder, plain_json
from ..particles.mrc_writer import volume_bytes
from ..particles.strict_json import short
from . import entries
from ._model_card import model_card
from ._stores import Folder, HubError, HubRepository, Store
from ._weights_file import LARGEST_HEADER, Damaged, parse_tensors, read_bytes, read_tensors
from .encoder import PoseEncoder, create_encoder
from .entry import CARD, CONFIG, FRAME, GOLDEN, MODEL, Entry, FileFacts, Molecule, Origin, read_entry
from .registry import Kind, UnknownName, get_part, split_name

__all__ = ["HubError", "load_pretrained", "save_pretrained"]

EMBEDDED = {
    CONFIG: ".json",
    MODEL: ".safetensors",
    GOLDEN: ".golden.safetensors",
    CARD: ".md",
    FRAME: ".mrc",
}
"""What follows the encoder's name in the names of embedded files."""

_GOLDEN_IMAGES = 4
_LARGEST_MAP = 2**25
_ARGUMENTS = "field backbone_args or head_args"
_TOLERANCE = 1e-3
"""Of the largest number of the golden output. Other CPUs and versions of torch differ by 1e-5."""


T = TypeVar("T")


class PlainData(Protocol):
    """What turns into names and values that JSON can hold, as a recipe does."""

    def to_dict(self) -> dict[str, Any]:
        """Names and values."""


def save_pretrained(
    encoder: PoseEncoder,
    folder: str | Path,
    *,
    metrics: Mapping[str, Any] | None = None,
    recipe: PlainData | Mapping[str, Any] | None = None,
    tag: str | None = None,
    molecule: Mapping[str, str] | None = None,
    half: bool = False,
    overwrite: bool = False,
) -> None:
    """Write an encoder to a folder from which :func:`load_pretrained` reads it back bit for bit.

    Args:
        encoder: any mode, any device; weights are saved in float32.
        folder: made when it is not there. A run that is killed while it writes leaves the old files, the new ones, or a
            folder without ``config.json``, which nothing loads.
        metrics: numbers with their provenance (:func:`train` makes them). A number that is not finite becomes null.
        recipe: what it was trained with, a ``Recipe`` or its plain data. Of absolute paths only the names are kept.
        tag: names these weights: ``<backbone>-<head>.<tag>``.
        molecule: in whose frame it answers: ``name``, ``source`` (an accession code, a file) and ``symmetry``; by
            default what the recipe says.
        half: write weights in float16, rounded: the encoder that is read back is not the same to the last bit. Numbers
            that float16 does not have stay float32.
        overwrite: replace an encoder that is there already.

    Raises:
        BadInput: the folder holds an encoder already or cannot be written, a weight is not finite, or the encoder's
            ``config`` does not rebuild it.
    """
    folder = Path(folder)
    label = str(folder / CONFIG)
    trained_with = None
    if recipe is not None:
        trained_with = _without_folders(dict(recipe) if isinstance(recipe, Mapping) else recipe.to_dict())
        molecule = molecule or _molecule(trained_with["data"])
    plain = plain_json(
        {
            **encoder.config,
            "tag": tag,
            "parameters": sum(p.numel() for p in encoder.parameters()),
            "metrics": dict(metrics or {}),
            "trained_with": trained_with,
        }
    )
    frame = None if molecule is None else from_plain(Molecule, molecule, label, "molecule.")
    made = {"molecule": frame, "parts": _origins(encoder.config["name"]), "source": f"local-dir:{folder}"}
    entry = from_plain(Entry, {**plain, **made}, label)
    state = _train_mode_state(encoder)
    if half:
        state = {name: _halved(tensor) for name, tensor in state.items()}
    rebuilt = _build(entry, label, len(state))
    _load_state(rebuilt, state, label)
    files = {MODEL: _serialise(state, str(folder / MODEL)), GOLDEN: _serialise(_golden(rebuilt), str(folder / GOLDEN))}
    if (frame_map := encoder.frame_map) is not None:
        files[FRAME] = volume_bytes(frame_map.data.numpy().astype(np.float16), frame_map.pixel_size)
    facts = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    config = {**entry.to_config(), "files": facts}
    files = {
        CONFIG: config_bytes(config),
        CARD: model_card(Entry.from_config({**config, "source": entry.source}, label)).encode(),
        **files,
    }
    _write(folder, files, overwrite)


def load_pretrained(
    name: str,
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    local_files_only: bool = False,
) -> PoseEncoder:
    """Load a pretrained encoder, in evaluation mode, with ``entry`` set to all that is known about it.

    Everything is checked: sizes and sha256 of the files, names, shapes and types of the weights, and that the encoder
    repeats what it made of the golden images when it was saved. No code but cryozoo's is run.

    Args:
        name: ``<backbone>-<head>.<tag>`` (``list_encoders(pretrained=True)``), the tag alone, ``local-dir:FOLDER``, or
            ``hf-hub:owner/repo@<commit>`` with all 40 digits of the commit.
        revision: of a repository named without a commit: a commit, or a branch or tag, which may move.
        device: where to put it; default the CPU.
        local_files_only: use the local cache of the Hub, never the network.

    Raises:
        UnknownName: no such entry, a name without its tag, or a path without its prefix; the message says what to type.
        BadInput: a file that is damaged, hostile, or made by a newer version; the message names file and field.
        HubError: a repository that cannot be reached.

    Warns:
        BadInputWarning: a part of its has the name, but not the package, of the one that it was saved with; or there
            are better weights.
    """
    store, entry = open_store(name, revision, local_files_only)
    label = store.label(CONFIG)
    if entry.superseded_by is not None:
        better = f"superseded by {entry.superseded_by}, which is better"
        warnings.warn(BadInputWarning(f"{label}: {entry.full_name} is {better}"), stacklevel=2)
    tensors = _read(store, MODEL, entry, read_tensors)
    if entry.parameters > (held := sum(t.numel() for t in tensors.values())):
        stated = f"{entry.parameters}"
        raise BadInput(label, stated, where="field parameters", expected=f"at most {held}, as in {MODEL}")
    encoder = _build(entry, label, len(tensors))
    _load_state(encoder, tensors, store.label(MODEL))
    encoder.eval()
    _self_test(encoder, store, entry)
    encoder.entry = entry
    encoder.frame_map = _frame_map(store, entry)
    return encoder.to(device or "cpu")


def open_store(name: str, revision: str | None = None, local_files_only: bool = False) -> tuple[Store, Entry]:
    """Where the files are, and what is known of them."""
    if name.startswith("hf-hub:"):
        store: Store = _repository(name, revision, local_files_only)
    elif revision is not None:
        raise ValueError(f"revision {revision!r} is for hf-hub: names, {name!r} is none")
    elif name.startswith("local-dir:"):
        store = Folder(name, Path(name.removeprefix("local-dir:")).expanduser())
    else:
        return _registered(name, local_files_only)
    return store, read_entry(store.get(CONFIG), store.label(CONFIG), store.source)


def _repository(name: str, revision: str | None, local_files_only: bool) -> HubRepository:
    match = re.fullmatch(r"hf-hub:([\w-][\w.-]*/[\w-][\w.-]*)(?:@(.*))?", name)
    if match is None:
        raise UnknownName(f"{name!r} names no repository: hf-hub:owner/repo@<40 digits of a commit>")
    repository, commit = match.groups()
    if commit is not None and not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise UnknownName(f"{name!r}: @ and the 40 digits of a commit; a branch or tag can move: revision={commit!r}")
    if (commit is None) == (revision is None):
        raise UnknownName(f"{name!r}: name one commit, hf-hub:{repository}@<40 digits>, or revision=...")
    return HubRepository(repository, commit or str(revision), local_files_only=local_files_only)


def _registered(name: str, local_files_only: bool) -> tuple[Store, Entry]:
    name = entries.whole_name(name)
    try:
        entry = entries.get_entry(name)
    except UnknownName as error:
        if not (re.search(r"[/\\]|^[.~]|\.(safetensors|json|bin|pth?|ckpt)$", name) or os.path.exists(name)):
            raise
        paths = f"local-dir:{name} is a folder, hf-hub:{name}@<commit> a repository"
        raise UnknownName(f"{error}; it looks like a path: {paths}") from None
    if entry.source == "embedded":
        names = {file: f"{name}{suffix}" for file, suffix in EMBEDDED.items()}
        return Folder("embedded", entries.WEIGHTS, names), entry
    if not entry.source.startswith("hf-hub:"):
        path, expected = entries.WEIGHTS / f"{name}.json", "embedded, or hf-hub:owner/repo@<commit>"
        raise BadInput(path, short(entry.source), where="field source", expected=expected)
    return _repository(entry.source, None, local_files_only), entry


def _read(store: Store, name: str, entry: Entry, reader: Callable[[Path, str, FileFacts], T]) -> T:
    """The content of a file; one that is not what the manifest says is fetched once more where that can help."""
    facts = entry.files[name]
    try:
        return reader(store.get(name), store.label(name), facts)
    except Damaged:
        if not store.renewable:
            raise
    return reader(store.get(name, again=True), store.label(name), facts)


def _frame_map(store: Store, entry: Entry) -> Volume | None:
    """The map in whose frame the encoder answers, where it has one."""
    if FRAME not in entry.files:
        return None
    if (size := entry.files[FRAME].size) > _LARGEST_MAP:
        raise BadInput(store.label(FRAME), f"{size} bytes", expected=f"at most {_LARGEST_MAP}, a small map")
    _read(store, FRAME, entry, read_bytes)
    volume = Volume.load(store.get(FRAME))
    if len(set(volume.data.shape)) > 1:
        raise BadInput(store.label(FRAME), f"{list(volume.data.shape)} voxels", expected="a cube")
    return volume


def _build(entry: Entry, label: str, tensors: int) -> PoseEncoder:
    """``create_encoder`` on the CPU in float32, leaving torch's random numbers alone, no larger than is stated."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), _at_most(entry.parameters, tensors, label):
        try:
            encoder = create_encoder(
                entry.name,
                image_size=entry.image_size,
                in_chans=entry.in_chans,
                ctf=entry.ctf,
                pixel_size=entry.pixel_size,
                backbone_args=entry.backbone_args,
                head_args=entry.head_args,
                shift=entry.shift,
            ).float()
        except (BadInput, ImportError):  # an ImportError says which extra to install
            raise
        except Exception as error:
            raise BadInput(label, f"builds no encoder: {error}", where=_ARGUMENTS) from error
    built = sum(p.numel() for p in encoder.parameters())
    if built != entry.parameters:
        stated = f"{entry.parameters}"
        raise BadInput(label, stated, where="field parameters", expected=f"{built}, as its other fields build")
    return encoder


@contextmanager
def _at_most(parameters: int, tensors: int, label: str) -> Iterator[None]:
    """Refuse an encoder while it is built, as soon as it is clear that the weights are not its own.

    Layers announce a parameter before they fill it, so too much memory was asked for but never touched. Twice as much
    and a little more may come, because a part may replace layers of another that it is made from. (To build on the meta
    device first would cost seconds, in which torch imports its decompositions, and not all parts can.)
    """
    most = 2 * parameters + 2**24
    sizes = [0]
    thread = threading.get_ident()

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is None or threading.get_ident() != thread:
            return
        sizes.append(sizes[-1] + parameter.numel())
        if sizes[-1] > most or len(sizes) > 2 * tensors + 1000:
            found = f"asks for {sizes[-1]} parameters in {len(sizes) - 1} tensors, and perhaps more"
            expected = f"{parameters} parameters in at most {tensors} tensors"
            raise BadInput(label, found, where=_ARGUMENTS, expected=expected)

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _load_state(encoder: PoseEncoder, tensors: Mapping[str, Tensor], label: str) -> None:
    """Load weights of exactly the names, shapes and types that the encoder has."""
    # In evaluation mode equivariant layers have more, derived entries, which must not be loaded over.
    expected = {name: _saved_type(tensor) for name, tensor in encoder.train().state_dict().items()}
    for kind, names in (("lacks", expected.keys() - tensors.keys()), ("has", tensors.keys() - expected.keys())):
        if names:
            others = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise BadInput(label, f"{kind} {short(min(names))}{others}", expected=f"the weights of {encoder.name}")
    for name, tensor in expected.items():
        found = tensors[name]
        same = found.dtype == tensor.dtype or (found.dtype, tensor.dtype) == (torch.float16, torch.float32)
        if found.shape != tensor.shape or not same:
            raise BadInput(label, _kind(found), where=f"tensor {name!r}", expected=f"{_kind(tensor)}, as {CONFIG} asks")
    encoder.load_state_dict(dict(tensors))


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _saved_type(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _halved(tensor: Tensor) -> Tensor:
    """In float16, unless the tensor as a whole is too small, or a number too large, for it."""
    if not tensor.is_floating_point():
        return tensor
    rounded = tensor.half()
    return (
        rounded
        if torch.allclose(rounded.float(), tensor, rtol=2**-10, atol=2**-20 * float(tensor.abs().max()))
        else tensor
    )


def _train_mode_state(encoder: PoseEncoder) -> dict[str, Tensor]:
    training = encoder.training
    state = {
        name: _saved_type(tensor).detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in encoder.train().state_dict().items()
    }
    encoder.train(training)
    return state


@torch.no_grad()
def _golden(encoder: PoseEncoder) -> dict[str, Tensor]:
    """Noise, preprocessed as particles are, and the encoder's raw vectors and rotations of it."""
    size, channels = encoder.preprocessing.image_size, encoder.config["in_chans"]
    noise = torch.randn(_GOLDEN_IMAGES * channels, size, size, generator=torch.Generator().manual_seed(0))
    images = encoder.preprocessing(noise).view(_GOLDEN_IMAGES, channels, size, size)
    raw = encoder.eval().raw(images)
    golden = {"images": images, "raw": raw, "rotation": encoder.pose(raw).rotation}
    return {name: tensor for name, tensor in golden.items() if tensor is not None}


@torch.no_grad()
def _self_test(encoder: PoseEncoder, store: Store, entry: Entry) -> None:
    """Repeat the golden outputs: the network's raw vectors, and the head's rotations of the stored raw vectors.

    The head is asked separately because rotations of ambiguous raw vectors magnify rounding errors without limit.
    """
    label, size = store.label(GOLDEN), encoder.preprocessing.image_size
    shapes: dict[str, tuple[int, ...]] = {"images": (entry.in_chans, size, size), "raw": (encoder.raw_dim,)}
    if encoder.head.has_rotation:
        shapes["rotation"] = (3, 3)
    stated, largest = entry.files[GOLDEN].size, 64 * sum(map(math.prod, shapes.values())) + LARGEST_HEADER
    if stated > largest:
        raise BadInput(label, f"{stated} bytes", expected=f"at most {largest}, 16 images")
    golden = _read(store, GOLDEN, entry, read_tensors)
    n = len(golden["images"]) if "images" in golden and golden["images"].ndim else 0
    found = {name: _kind(tensor) for name, tensor in sorted(golden.items())}
    expected = {name: f"float32 {[max(n, 1), *shape]}" for name, shape in sorted(shapes.items())}
    if found != expected:
        raise BadInput(label, short(found), expected=str(expected))
    try:
        outputs = {"raw": encoder.raw(golden["images"]), "rotation": encoder.pose(golden["raw"]).rotation}
    except Exception as error:
        raise BadInput(store.label(CONFIG), f"builds an encoder that fails: {error}", where=_ARGUMENTS) from error
    for name in sorted(shapes.keys() - {"images"}):
        repeated = outputs[name]
        assert repeated is not None
        off = float((repeated - golden[name]).abs().max() / golden[name].abs().max().clamp_min(1e-30))
        if not off <= _TOLERANCE:  # NaN too
            raise BadInput(
                label,
                f"the encoder does not repeat what it computed when it was saved: off by {off:.2g} of the largest",
                where=f"tensor {name!r}",
                expected=f"at most {_TOLERANCE:g}",
                hint="these are other weights, or this cryozoo or torch computes something else",
            )


def config_bytes(config: Mapping[str, Any]) -> bytes:
    """The content of ``config.json``."""
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def _serialise(tensors: dict[str, Tensor], label: str) -> bytes:
    data = safetensors.torch.save(tensors)
    parse_tensors(data, label)  # it has types of its own that are not read back
    return data


def _write(folder: Path, files: Mapping[str, bytes], overwrite: bool) -> None:
    """Write all files or none. The first becomes visible last, and is away while the others change."""
    make_folder(folder)
    with ExitStack() as stack:
        for name, data in files.items():
            file = stack.enter_context(atomic_write(folder / name, overwrite=overwrite))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # Nothing is left that is likely to fail. The stack ends in reverse order.
        (folder / next(iter(files))).unlink(missing_ok=True)


def _origins(name: str) -> dict[str, Origin]:
    """Which backbone and head an encoder has, and the packages that brought them."""
    backbone, head, _ = split_name(name)
    return {"backbone": _origin("backbone", backbone), "head": _origin("head", head)}


def _origin(kind: Kind, name: str) -> Origin:
    return Origin(name, *(get_part(kind, name).distribution or (None, None)))


def _without_folders(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe without the folders of somebody's machine; ``find_data`` finds files by their names."""

    def name_of(value: Any) -> Any:
        path = value.removeprefix("local-dir:") if isinstance(value, str) else ""
        return value.removesuffix(path) + Path(path).name if Path(path).is_absolute() else value

    plain = {key: name_of(value) for key, value in recipe.items()}
    return {**plain, "data": {key: name_of(value) for key, value in recipe["data"].items()}}


def _molecule(data: Mapping[str, Any]) -> dict[str, str] | None:
    source = data.get("volume") or data.get("particles")
    return (
        None
        if source is None
        else {"name": Path(source).stem, "source": source, "symmetry": data.get("symmetry", "C1")}
    )
