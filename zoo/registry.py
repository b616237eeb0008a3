"""The registry: names of the parts and where they live. Listing and searching import neither torch nor the parts.

A new part is one file and one line here; the tests find it in the table. Third parties add theirs with
:func:`register_backbone`, :func:`register_head`, :func:`register_loss`, :func:`register_decoder` or through the entry
points ``cryozoo.backbones``, ``cryozoo.heads``, ``cryozoo.losses``, ``cryozoo.decoders``.
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from importlib.metadata import entry_points, packages_distributions, version
from typing import Any, Literal, NamedTuple, TypeVar

from .. import __version__

Kind = Literal["backbone", "head", "loss", "decoder"]
T = TypeVar("T", bound=Callable[..., Any])

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_TAG = re.compile(r"[a-z0-9][a-z0-9_]*")
_LIST = "`cryozoo list` shows what there is"


class UnknownName(KeyError):
    """A name that is not in the registry; the message lists the nearest ones."""

    def __str__(self) -> str:
        return str(self.args[0])


class Distribution(NamedTuple):
    """An installed package, by the name that installs it."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Part:
    """One entry of the table.

    Attributes:
        target: ``"module:attribute"``, or the object itself.
        summary: one line of facts.
        defaults: arguments that make this a variant of its target.
        member: for a family of parts, which of its target's ``names()``; the target's first argument.
        declared_by: the package whose entry point it is.
    """

    target: str | Callable[..., Any]
    summary: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    member: str | None = None
    declared_by: Distribution | None = None

    @cached_property
    def distribution(self) -> Distribution | None:
        """The package that it came with; None of code that no package brought, as in a script."""
        if self.declared_by is not None:
            return self.declared_by
        module = self.target.partition(":")[0] if isinstance(self.target, str) else self.target.__module__
        top = module.partition(".")[0]
        if top == "cryozoo":
            return Distribution(top, __version__)
        # Looks through all that is installed, so not before somebody asks.
        names = packages_distributions().get(top)
        return Distribution(names[0], version(names[0])) if names else None

    def load(self) -> Callable[..., Any]:
        """Import the part; its defaults are bound. A family that has no such member raises UnknownName."""
        target: Any = self.target
        if isinstance(target, str):
            module, _, attribute = target.partition(":")
            target = getattr(importlib.import_module(module), attribute)
        if self.member is not None:
            names = target.names()
            if self.member not in names:
                close = ", ".join(difflib.get_close_matches(self.member, names, n=3, cutoff=0))
                raise UnknownName(f"{self.member!r} is not {self.summary}; the nearest are {close}")
            target = partial(target, self.member)
        return partial(target, **self.defaults) if self.defaults else target


_TINY_C4 = {"group": "C4", "fields": (2, 4, 8), "depths": (1, 1, 1), "kernels": (5, 3, 3), "connected": (8,)}
_TINY_D4 = {**_TINY_C4, "group": "D4", "fields": (1, 2, 4), "connected": (4,)}
_SMALL = {"stem": "none", "depths": (1, 1, 2, 2, 2), "kernels": (5, 3, 3, 3, 3), "gem_p": 3.0}
"""Five halvings and no filter stem, for images of about 64 pixels on a processor."""
_SMALL_PLAIN = {**_SMALL, "activation": "relu", "dropout": 0.0}
_TINY = {"channels": (8, 16, 32), "kernels": (5, 3, 3)}

_PARTS: dict[Kind, dict[str, Part]] = {
    "backbone": {
        "vgg_gem": Part(
            "cryozoo.models.vgg:vgg_gem", "VGG with low-pass stem and GeM pooling, 1024 features (Chung 2023)"
        ),
        "vgg_gem_m": Part(
            "cryozoo.models.vgg:vgg_gem",
            "vgg_gem with 1.48 M parameters, as many multiply-accumulates as d4_vgg_gem_s",
            {**_SMALL_PLAIN, "channels": (18, 36, 72, 144, 288)},
        ),
        "vgg_gem_s": Part(
            "cryozoo.models.vgg:vgg_gem",
            "vgg_gem with 1.17 M parameters",
            {**_SMALL_PLAIN, "channels": (16, 32, 64, 128, 256)},
        ),
        "vgg_gem_xs": Part(
            "cryozoo.models.vgg:vgg_gem",
            "vgg_gem with 0.15 M parameters, as many as d4_vgg_gem_s",
            {**_SMALL_PLAIN, "channels": (6, 11, 23, 45, 90)},
        ),
        "siamese_cnn": Part(
            "cryozoo.models.vgg:siamese_cnn", "seven plain convolutions, 512 features (Banjac et al. 2021)"
        ),
        "cryoai_cnn": Part(
            "cryozoo.models.cryoai:CryoAICNN",
            "cryoAI's VGG16-like encoder with Gaussian stem, 256 features (Levy et al. 2022)",
        ),
        "test_vgg_gem": Part(
            "cryozoo.models.vgg:vgg_gem",
            "vgg_gem for tests, 32 features",
            {**_TINY, "depths": (1, 1, 1), "dropout": 0.0},
        ),
        "c4_cnn": Part(
            "cryozoo.models.steerable_cnn:steerable_cnn", "cryoai_cnn, equivariant to quarter turns", {"group": "C4"}
        ),
        "d4_cnn": Part(
            "cryozoo.models.steerable_cnn:steerable_cnn",
            "cryoai_cnn, equivariant to quarter turns and flips",
            {"group": "D4"},
        ),
        "c8_cnn": Part(
            "cryozoo.models.steerable_cnn:steerable_cnn",
            "cryoai_cnn with 5 x 5 kernels for eighths of a turn; exact for quarters only, halved maps lose the others",
            {"group": "C8", "kernels": (5, 5, 5, 5, 5)},
        ),
        "d8_cnn": Part(
            "cryozoo.models.steerable_cnn:steerable_cnn",
            "cryoai_cnn with 5 x 5 kernels for eighths of a turn and flips; exact for D4 only, halved maps lose others",
            {"group": "D8", "kernels": (5, 5, 5, 5, 5)},
        ),
        "c4_vgg_gem": Part(
            "cryozoo.models.steerable_cnn:steerable_vgg_gem", "vgg_gem, equivariant to quarter turns", {"group": "C4"}
        ),
        "d4_vgg_gem": Part(
            "cryozoo.models.steerable_cnn:steerable_vgg_gem",
            "vgg_gem, equivariant to quarter turns and flips",
            {"group": "D4"},
        ),
        "c4_vgg_gem_s": Part(
            "cryozoo.models.steerable_cnn:steerable_vgg_gem",
            "c4_vgg_gem with 0.29 M parameters, as many multiply-accumulates as d4_vgg_gem_s",
            {**_SMALL, "group": "C4", "fields": (4, 8, 16, 32, 64)},
        ),
        "c4_vgg_gem_xs": Part(
            "cryozoo.models.steerable_cnn:steerable_vgg_gem",
            "c4_vgg_gem with 0.15 M parameters, as many as d4_vgg_gem_s",
            {**_SMALL, "group": "C4", "fields": (3, 6, 11, 23, 45)},
        ),
        "d4_vgg_gem_s": Part(
            "cryozoo.models.steerable_cnn:steerable_vgg_gem",
            "d4_vgg_gem with 0.15 M parameters",
            {**_SMALL, "group": "D4", "fields": (2, 4, 8, 16, 32)},
        ),
        "test_c4_cnn": Part("cryozoo.models.steerable_cnn:steerable_cnn", "c4_cnn for tests", _TINY_C4),
        "test_d4_cnn": Part("cryozoo.models.steerable_cnn:steerable_cnn", "d4_cnn for tests", _TINY_D4),
        "test_siamese_cnn": Part("cryozoo.models.vgg:siamese_cnn", "siamese_cnn for tests, 32 features", _TINY),
        "test_cryoai_cnn": Part(
            "cryozoo.models.cryoai:CryoAICNN",
            "cryoai_cnn for tests, 32 features",
            {"channels": (8, 16, 32), "depths": (1, 1, 1), "connected": (32,)},
        ),
    },
    "head": {
        "quaternion": Part("cryozoo.heads.quaternion:Quaternion", "4 numbers, normalised"),
        "sixd_gs": Part("cryozoo.heads.sixd:SixDGramSchmidt", "two columns, Gram-Schmidt (Zhou et al. 2019)"),
        "sixd_svd": Part("cryozoo.heads.sixd:SixDSVD", "two columns and their cross product, SVD"),
        "nined_svd": Part("cryozoo.heads.nined_svd:NineDSVD", "3 x 3 matrix, SVD (Levinson et al. 2020)"),
        "qcqp_bingham": Part(
            "cryozoo.heads.qcqp_bingham:QCQPBingham",
            "smallest eigenvector of a 4 x 4 matrix, with a confidence (Peretroukhin et al. 2020)",
        ),
        "so3_harmonic": Part(
            "cryozoo.heads.so3_harmonic:SO3Harmonic", "density over SO(3) by Wigner-D coefficients (Klee et al. 2023)"
        ),
        "embedding": Part(
            "cryozoo.heads.embedding:Embedding", "no rotation: features with a distance (Banjac et al. 2021)"
        ),
    },
    "loss": {
        "geodesic": Part("cryozoo.losses.geodesic:Geodesic", "angle between rotations"),
        "chordal": Part("cryozoo.losses.chordal:Chordal", "distance between rotation matrices"),
        "bingham_nll": Part("cryozoo.losses.bingham:BinghamNLL", "negative log-likelihood of the Bingham distribution"),
        "rotation_laplace": Part(
            "cryozoo.losses.rotation_laplace:RotationLaplace", "bingham_nll with heavy tails (Yin et al. 2023)"
        ),
        "so3_nll": Part("cryozoo.losses.so3_nll:SO3NLL", "negative log-likelihood of the density of so3_harmonic"),
        "wigner_mse": Part(
            "cryozoo.losses.wigner_mse:WignerMSE", "Wigner-D matrices of the truth for so3_harmonic (Lee and Cho 2024)"
        ),
        "siamese_distance": Part(
            "cryozoo.losses.siamese:SiameseDistance", "error of pairwise distances (Banjac et al. 2021)"
        ),
        "forum": Part("cryozoo.losses.forum:Forum", "pairwise distance and regression with a curriculum (Chung 2023)"),
        "reconstruction_l2": Part(
            "cryozoo.losses.reconstruction:Reconstruction", "ab initio: images against slices of a decoder"
        ),
        "reconstruction_symmetric": Part(
            "cryozoo.losses.reconstruction:Reconstruction",
            "the same, the better of the image and its half turn (Levy et al. 2022)",
            {"views": ("identity", "half_turn")},
        ),
        "reconstruction_mirror": Part(
            "cryozoo.losses.reconstruction:Reconstruction",
            "the same, the better of the image and its mirror image",
            {"views": ("identity", "mirror")},
        ),
    },
    "decoder": {
        "hartley_grid": Part(
            "cryozoo.models.hartley_grid:HartleyGrid", "a grid of mantissas and exponents (Levy et al. 2024)"
        ),
        "fouriernet": Part(
            "cryozoo.models.fouriernet:FourierNet", "two networks of sines, one an envelope (Levy et al. 2022)"
        ),
    },
}

_FAMILIES: dict[Kind, dict[str, Part]] = {
    "backbone": {
        "timm_": Part("cryozoo.models.timm_backbone:TimmBackbone", "an architecture of the timm library"),
        "image2sphere_": Part(
            "cryozoo.models.image2sphere:Image2Sphere", "an architecture of timm before the sphere of Image2Sphere"
        ),
        "escnn_": Part("cryozoo.models.escnn_backbone:EscnnCNN", "a group and _cnn, of the escnn library"),
    },
}
"""Parts of other libraries by prefix: ``timm_resnet18``. They are not listed, which would import the library."""


@cache
def _load_entry_points() -> None:
    for kind in _PARTS:
        for point in entry_points(group=f"cryozoo.{'losses' if kind == 'loss' else kind + 's'}"):
            package = Distribution(point.dist.name, point.dist.version) if point.dist else None
            summary = f"from {package.name if package else 'a plug-in'}"
            _register(kind, point.name, Part(point.value, summary, declared_by=package))


def _register(kind: Kind, name: str, part: Part) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{kind} name {name!r}: lower-case letters, digits and underscores, starting with a letter")
    if name in _PARTS[kind]:
        raise ValueError(f"{kind} {name!r} is registered already ({_PARTS[kind][name].target}); choose another name")
    _PARTS[kind][name] = part


def _register_part(kind: Kind, name: str, target: str | T | None, summary: str) -> Any:
    if target is None:

        def decorate(part: T) -> T:
            doc = (part.__doc__ or "").strip().split("\n")[0]
            _register(kind, name, Part(part, summary or doc))
            return part

        return decorate
    _register(kind, name, Part(target, summary))
    return target


def register_backbone(name: str, target: str | T | None = None, *, summary: str = "") -> Any:
    """Add a backbone: a callable ``(image_size, in_chans, **args) -> nn.Module`` or its ``"module:attribute"``.

    Without ``target`` it is a decorator. A name that exists raises ValueError. An argument ``pretrained`` chooses the
    weights to begin with: it is not saved with an encoder, which has its own.
    """
    return _register_part("backbone", name, target, summary)


def register_head(name: str, target: str | T | None = None, *, summary: str = "") -> Any:
    """Add a head, a subclass of ``cryozoo.heads.Head`` or its ``"module:attribute"``, as :func:`register_backbone`."""
    return _register_part("head", name, target, summary)


def register_loss(name: str, target: str | T | None = None, *, summary: str = "") -> Any:
    """Add a loss, a subclass of ``cryozoo.losses.Loss``, or its ``"module:attribute"`` as :func:`register_backbone`."""
    return _register_part("loss", name, target, summary)


def register_decoder(name: str, target: str | T | None = None, *, summary: str = "") -> Any:
    """Add a decoder: ``(size, **args) -> cryozoo.models.decoder.Decoder``, or its ``"module:attribute"``, as those."""
    return _register_part("decoder", name, target, summary)


def list_parts(kind: Kind, pattern: str = "*") -> list[str]:
    """Names of the backbones, heads, losses or decoders that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(_table(kind), pattern))


def get_part(kind: Kind, name: str) -> Part:
    """The table's entry of one part, or one of a family; an unknown name raises UnknownName with the nearest ones."""
    table = _table(kind)
    if name in table:
        return table[name]
    for prefix, family in _FAMILIES.get(kind, {}).items():
        if name.startswith(prefix) and re.fullmatch(r"[a-z0-9_]+", name.removeprefix(prefix)):
            return replace(family, member=name.removeprefix(prefix))
    raise UnknownName(f"unknown {kind} {name!r}{nearest(name, table)}")


_SHAPE = {"width", "channels", "fields", "depths", "kernels", "stem", "pool", "connected"}
"""Arguments on which the number of weights depends."""


def named_size(name: str, args: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The registered name of a backbone of this size, and the arguments that are left.

    ``vgg_gem`` with the widths, depths and kernels of ``vgg_gem_s`` is ``vgg_gem_s``; where no size fits, what was
    given.
    """
    part, best = get_part("backbone", name), (name, dict(args))
    if part.member is not None:
        return best
    given = {key: _listed(value) for key, value in {**part.defaults, **args}.items()}
    for other, size in _table("backbone").items():
        named = {key: _listed(value) for key, value in size.defaults.items()}
        left = {key: value for key, value in given.items() if named.get(key, ...) != value}
        fits = size.target == part.target and named.keys() <= given.keys() and not left.keys() & _SHAPE
        if fits and len(left) < len(best[1]):
            best = other, left
    return best


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def list_combinations(pattern: str = "*") -> list[str]:
    """Names ``<backbone>-<head>`` of every combination that matches a shell pattern, sorted."""
    names = (f"{backbone}-{head}" for backbone in _table("backbone") for head in _table("head"))
    return sorted(fnmatch.filter(names, pattern))


def split_name(name: str) -> tuple[str, str, str | None]:
    """``"vgg_gem-sixd_svd.toy_64"`` -> ``("vgg_gem", "sixd_svd", "toy_64")``; the tag may be missing."""
    match = re.fullmatch(rf"({_NAME.pattern})-({_NAME.pattern})(?:\.({_TAG.pattern}))?", name)
    if match is None:
        weights = re.fullmatch(r"timm_\w+\.(\w+)(-.*)?", name)
        hint = f"timm's weights are asked for by backbone_args={{'pretrained': '{weights[1]}'}}" if weights else _LIST
        raise UnknownName(f"{name!r} is not an encoder name: <backbone>-<head> or <backbone>-<head>.<tag>; {hint}")
    backbone, head, tag = match.groups()
    return backbone, head, tag


def nearest(name: str, names: Mapping[str, Any] | list[str]) -> str:
    """``"; did you mean a, b?"`` with up to three close names, or a pointer to the list."""
    close = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
    return f"; did you mean {', '.join(close)}?" if close else f"; {_LIST}"


def _table(kind: Kind) -> dict[str, Part]:
    if kind not in _PARTS:
        raise ValueError(f"unknown kind {kind!r}: backbone, head or loss")
    _load_entry_points()
    return _PARTS[kind]
