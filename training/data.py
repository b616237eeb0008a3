"""Where training images and poses come from: simulated on the fly, a fixed simulated set, or particles on disk.

A source says what there is, as plain fields that are checked once; opened, it gives batches. Another source is a class
of its own with the same few names (:class:`DataSource`).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import torch

from ..geometry.point_groups import point_group
from ..geometry.pose import Pose
from ..imaging.batch import Batch
from ..imaging.frame_map import make_frame_map
from ..imaging.preprocessing import CTFCorrection, Preprocessing
from ..imaging.simulate import Imaging, Simulator
from ..imaging.volumes import Volume, load_volume
from ..particles.ctf import CTF, CTFModulus, CTFSquare
from ..particles.errors import BadInput, BadInputWarning
from ..particles.fields import (
    BOOLEAN,
    Rule,
    check_fields,
    documented,
    from_plain,
    number,
    numbers,
    one_of,
    optional,
    setting,
    text,
    whole,
)
from ..particles.files import find_data, open_regular
from ..particles.table import ParticleTable
from ..zoo.match_checks import symmetry_doubt
from .batches import DEFAULT_SPLIT, FIXED_SEED, TEST_SEED, VALIDATION_SEED, FixedSet, OnTheFly, TrainingData, draw

_FEWEST = 2
"""Particles of which errors can be averaged."""


@runtime_checkable
class DataSource(Protocol):
    """What to train on."""

    @property
    def symmetry(self) -> str:
        """Point group of the object."""

    def open(self, image_size: int, pixel_size: float | None, device: torch.device, seed: int) -> TrainingData:
        """Read or simulate what is needed, for images of this box; ``pixel_size`` None takes the data's own."""

    def digest(self) -> str | None:
        """Sha256 of the file that was read, by which a changed one is noticed; None where there is none."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, of which the source is made again."""


def _is_point_group(name: Any) -> bool:
    try:
        return isinstance(name, str) and point_group(name) is not None
    except ValueError:
        return False


_SYMMETRY = Rule(_is_point_group, "a point group: Cn, Dn, T, O or I, such as C1 or D7")
_SPLIT = numbers(2, lambda x: min(x) > 0 and sum(x) < 1, "the shares of training and validation, together below 1")
_CTF = one_of(*get_args(CTFCorrection))
_CTF_MEANING = "what is done about the CTF before the network, also when it predicts"
_DEFAULT_HELD_OUT = 2048


@documented
@dataclass(frozen=True)
class Simulated:
    """Particles simulated from a volume, and imaged as the fields of :class:`Imaging` say, which stand beside these."""

    volume: str = setting(
        text("a map, an atomic model or phantom:SEED"),
        "what is imaged; sought in CRYOZOO_DATA, too",
        example="phantom:0",
    )
    imaging: Imaging = field(default_factory=Imaging)
    symmetry: str = setting(_SYMMETRY, "point group of the volume, in RELION's axes", "C1")
    images: int | None = setting(
        optional(whole(_FEWEST, 10**9), "new ones at every step"), "a fixed set of so many images", None
    )
    held_out: int = setting(
        whole(_FEWEST, 10**7), "images of validation, and of test, where others are new", _DEFAULT_HELD_OUT
    )
    split: tuple[float, float] = setting(_SPLIT, "how a fixed set is split; the rest is the test", DEFAULT_SPLIT)
    ctf: Literal["none", "phase_flip"] = setting(_CTF, _CTF_MEANING, "none")
    augment: Literal["none", "d4", "rotate", "simulate"] = setting(
        one_of("none", "d4", "rotate", "simulate"),
        "of a fixed set: quarter turns and flips, any angle and flips, or new particles in place of those that train",
        "none",
    )
    noise_ramp: int = setting(
        whole(0, 10**9),
        "steps over which the noise of new images grows from none: at low SNR, losses of pairs find no signal without",
        0,
    )
    junk: float = setting(
        number(least=0, below=1),
        "share of new training images that are of noise alone, so that densities learn to be broad where nothing is",
        0.0,
        example=0.05,
    )

    def __post_init__(self) -> None:
        check_fields(self, "data", "data.")
        if self.images is None and self.split != DEFAULT_SPLIT:
            raise BadInput("data", "split without images", where="field data.split", hint="give data.images, too")
        if self.images is None and self.augment != "none":
            found, hint = f"{self.augment!r} without a fixed set", "give data.images, or augment none"
            raise BadInput("data", found, where="field data.augment", hint=hint)
        if self.images is not None and self.held_out != _DEFAULT_HELD_OUT:
            hint = "the split of a fixed set says what is held out"
            raise BadInput("data", "held_out with images", where="field data.held_out", hint=hint)
        if self.ctf != "none" and self.imaging.defocus is None:
            raise BadInput("data", "ctf without defocus", where="field data.ctf", hint="give data.defocus, too")
        for name in ("noise_ramp", "junk"):
            if not getattr(self, name):
                continue
            if self.imaging.snr is None:
                raise BadInput("data", f"{name} without noise", where=f"field data.{name}", hint="give data.snr, too")
            if self.images is not None and self.augment != "simulate":
                hint = "augment simulate makes new ones at every step"
                raise BadInput("data", f"{name} for a fixed set", where=f"field data.{name}", hint=hint)

    @property
    def new_images(self) -> bool:
        """Whether every step has images that no other has."""
        return self.images is None or self.augment == "simulate"

    @property
    def training_images(self) -> int | None:
        """How many there are to train on; None where they are new at every step."""
        return None if self.images is None or self.new_images else round(self.images * self.split[0])

    def simulator(self, image_size: int, pixel_size: float | None) -> Simulator:
        """The simulator of the volume, for images of this box."""
        volume = load_volume(self.volume, image_size=image_size, pixel_size=pixel_size)
        return Simulator(volume, self.imaging, image_size=image_size, pixel_size=pixel_size, name=self.volume)

    def frame_map(self, image_size: int, pixel_size: float | None) -> Volume:
        """The volume, as small as images of this box allow."""
        volume = load_volume(self.volume, image_size=image_size, pixel_size=pixel_size)
        return make_frame_map(volume, pixel_size or volume.pixel_size)

    def open(
        self, image_size: int, pixel_size: float | None, device: torch.device, seed: int = 0
    ) -> OnTheFly | FixedSet:
        """Simulate what is fixed."""
        simulator = self.simulator(image_size, pixel_size).to(device)
        for doubt in symmetry_doubt(simulator.projector, self.volume, self.symmetry):
            warnings.warn(BadInputWarning(doubt), stacklevel=3)
        preprocessing = Preprocessing(image_size, simulator.projector.pixel_size, self.ctf)
        if self.images is None:
            seeds = VALIDATION_SEED, TEST_SEED
            validation, test = (draw(simulator, preprocessing, self.held_out, seed) for seed in seeds)
        else:
            fixed = FixedSet(
                draw(simulator, preprocessing, self.images, FIXED_SEED),
                preprocessing,
                split=self.split,
                augment=self.augment,
                seed=seed,
            )
            if self.augment != "simulate":
                return fixed
            validation, test = fixed.validation, fixed.test
        return OnTheFly(simulator, preprocessing, validation, test, noise_ramp=self.noise_ramp, junk=self.junk)

    def digest(self) -> str | None:
        """Of the map or model; None for a phantom, which its seed makes."""
        return None if self.volume.startswith("phantom:") else _sha256(self.volume)

    def to_dict(self) -> dict[str, Any]:
        """The fields that differ from their defaults, those of the imaging beside the others."""
        own = _given(self)
        own.pop("imaging", None)
        return own | _given(self.imaging)


@documented
@dataclass(frozen=True)
class Recorded:
    """Particles on disk; losses of reconstruction need no poses."""

    particles: str = setting(text("a STAR or .cs file"), "the table; sought in CRYOZOO_DATA, too")
    datadir: str | None = setting(optional(text("a folder"), "the folder of the table"), "where the images are", None)
    symmetry: str = setting(_SYMMETRY, "point group of the object, in RELION's axes", "C1")
    split: tuple[float, float] = setting(_SPLIT, "how the particles are split; the rest is the test", DEFAULT_SPLIT)
    ctf: Literal["none", "phase_flip"] = setting(_CTF, _CTF_MEANING, "none")
    augment: Literal["none", "d4", "rotate"] = setting(
        one_of("none", "d4", "rotate"), "quarter turns and flips, or any angle and flips, of those that train", "none"
    )
    allow_outside: bool = setting(BOOLEAN, "let image names lead out of the folder of the table", False)
    skip_bad: bool = setting(BOOLEAN, "leave out rows whose image is unusable", False)

    def __post_init__(self) -> None:
        check_fields(self, "data", "data.")

    def open(self, image_size: int, pixel_size: float | None, device: torch.device, seed: int = 0) -> FixedSet:
        """Read and prepare all images."""
        from ..particles.stack import ParticleStack

        path = find_data(self.particles)
        datadir = None if self.datadir is None else find_data(self.datadir)
        stack = ParticleStack.open(path, datadir=datadir, allow_outside=self.allow_outside, skip_bad=self.skip_bad)
        preprocessing = Preprocessing(image_size, pixel_size or stack.pixel_size, self.ctf)
        ctf = None if self.ctf == "none" else stack.table.signs_of_ctf()
        chunk = max(1, 2**24 // stack.image_size**2)  # 64 MB of pixels at a time
        images = torch.empty(len(stack), 1, image_size, image_size, device=device)
        for start in range(0, len(stack), chunk):
            rows = range(start, min(start + chunk, len(stack)))
            images[start : rows.stop] = preprocessing(
                torch.from_numpy(stack.images(rows)).to(device),
                stack.pixel_size,
                None if ctf is None else ctf[np.arange(rows.start, rows.stop)].to(torch.float32).to(device),
            )
        poses = stack.poses
        known = () if poses is None else (poses.rotation, poses.shift)
        true = Pose(*(torch.from_numpy(values).float().to(device) for values in known))
        return FixedSet(
            Batch(images, true, _transfer(stack.table, device)),
            preprocessing,
            split=self.split,
            augment=self.augment,
            image_ids=torch.from_numpy(stack.image_ids),
            seed=seed,
        )

    def digest(self) -> str:
        """Of the table."""
        return _sha256(self.particles)

    def to_dict(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        return _given(self)


def _transfer(table: ParticleTable, device: torch.device) -> CTF | None:
    """What the CTF has done to the images of a table, as they lie on disk."""
    if table.ctf is None:
        return None
    kind = CTFSquare if "premultiplied" in table.corrected else CTFModulus if table.corrected else CTF
    return kind(**vars(table.ctf)).to(torch.float32).to(device)


def _sha256(name: str) -> str:
    with open_regular(find_data(name)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_from_plain(values: Mapping[str, Any], source: str = "recipe") -> Simulated | Recorded:
    """What ``data`` of a recipe says: particles of a table, or of a volume with the fields of :class:`Imaging`."""
    kinds = [kind for kind in ("volume", "particles") if kind in values]
    if len(kinds) != 1:
        found = "both volume and particles" if kinds else "neither volume nor particles"
        raise BadInput(source, found, where="field data", expected="one of the two, to train on")
    if kinds == ["particles"]:
        return from_plain(Recorded, values, source, "data.")
    names = {field.name for field in fields(Imaging)}
    imaging = from_plain(Imaging, {k: v for k, v in values.items() if k in names}, source, "data.")
    own = {k: v for k, v in values.items() if k not in names}
    return from_plain(Simulated, own, source, "data.", imaging=imaging)


def _given(instance: Any) -> dict[str, Any]:
    return {f.name: value for f in fields(instance) if (value := getattr(instance, f.name)) != f.default}
