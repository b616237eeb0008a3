"""What the verbs share: options, checks of arguments, tables."""

from __future__ import annotations

import contextlib
import math
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..particles.errors import BadInput, BadInputWarning

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..particles.poses import PoseTable
    from ..particles.stack import ParticleStack
    from ..zoo.encoder import PoseEncoder

F = TypeVar("F", bound=Callable[..., Any])


class Settings:
    """Global options; they may stand before or after the verb."""

    debug = False

    @staticmethod
    def note_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        """Remember ``--debug`` for the handler of errors."""
        if value:
            ctx.find_object(Settings).debug = True  # type: ignore[union-attr]


class Number(click.ParamType):
    """A finite number within limits, both of which may be excluded; click's own range lets NaN pass."""

    name = "number"

    def __init__(
        self, above: float = -math.inf, *, least: float = -math.inf, most: float = math.inf, unit: str = ""
    ) -> None:
        self.above, self.least, self.most, self.unit = above, least, most, unit and f" ({unit})"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Turn text into a number or fail with the limits."""
        try:
            number = float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number", param, ctx)
        if not (math.isfinite(number) and number > self.above and self.least <= number <= self.most):
            low = f"above {self.above:g}" if self.above > -math.inf else f"at least {self.least:g}"
            high = f" and at most {self.most:g}" if self.most < math.inf else ""
            self.fail(f"{value} is not a number {low}{high}{self.unit}", param, ctx)
        return number


class Symmetry(click.ParamType):
    """The name of a point group."""

    name = "group"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Leave it as it is, or fail with the names that there are."""
        from ..geometry.point_groups import point_group

        try:
            point_group(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return str(value)


class Shard(click.ParamType):
    """One of several equal parts, as in 3/10."""

    name = "shard"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Turn text into part and number of parts."""
        part, _, parts = str(value).partition("/")
        if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts) <= 1_000_000):
            self.fail(f"{value!r} is no part of several, such as 3/10", param, ctx)
        return int(part), int(parts)


INPUT = click.Path(path_type=Path)
POSE_SUFFIXES = (".star", ".cs", ".pkl", ".npz")
PIXEL_SIZE = Number(0, most=1000)
SHARED_REFERENCE = "half maps whose poses come from one encoder or reference share it: their FSC is optimistic"


def verb(name: str, function: F | None = None, **settings: Any) -> Any:
    """``click.command`` with ``--debug``, which is global but mostly remembered when the line is typed already."""

    def decorate(f: F) -> click.Command:
        command = click.command(name, **settings)(f)
        note = Settings.note_debug
        command.params.append(click.Option(["--debug"], is_flag=True, expose_value=False, callback=note, hidden=True))
        return command

    return decorate


pixel_size_option = click.option(
    "--pixel-size", type=PIXEL_SIZE, metavar="A", help="Angstrom per pixel, where a file does not say."
)
image_size_option = click.option(
    "--image-size", type=click.IntRange(1, 65536), metavar="L", help="Box in pixels, where a file does not say."
)
symmetry_option = click.option(
    "--symmetry",
    type=Symmetry(),
    default="C1",
    metavar="GROUP",
    help="Point group of the molecule: C1, C4, D2, T, O, I2 ...",
)
encoder_option = click.option(
    "--encoder",
    "name",
    required=True,
    metavar="NAME",
    help="See `cryozoo list --pretrained`; or a folder that `train` wrote.",
)
poses_out_option = click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="Poses: .star, .cs, .pkl or .npz."
)
shard_option = click.option(
    "--shard",
    type=Shard(),
    metavar="K/N",
    help="The K-th of N parts of the particles alone; relion_star_handler --combine joins the outputs.",
)
store_option = click.option(
    "--store",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("cryozoo-results"),
    metavar="DIR",
    help="Where `benchmark` keeps results; what is there is not done again.",
)
batch_size_option = click.option(
    "--batch-size", type=click.IntRange(1, 65536), default=256, metavar="N", help="Images per step."
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace an output that exists.")
device_option = click.option("--device", metavar="D", help="cpu, cuda, cuda:1 ...  [default: a GPU where there is one]")
threads_option = click.option(
    "--threads", type=click.IntRange(1, 4096), metavar="N", help="Processor cores to use.  [default: all]"
)
progress_option = click.option(
    "--progress/--no-progress", default=None, help="Show a bar with the time left.  [default: on a terminal]"
)


def wants_progress(asked: bool | None) -> bool:
    """Whether to show a bar: as asked, else when somebody is looking."""
    return sys.stderr.isatty() if asked is None else asked


@dataclass(frozen=True)
class Run:
    """How a long piece of work is to be done."""

    device_name: str | None
    threads: int | None
    progress: bool

    def device(self) -> torch.device:
        """The device asked for, which must exist; sets the number of threads."""
        return choose_device(self.device_name, self.threads)


def run_options(function: F) -> F:
    """Options of the work itself, handed over as ``run``."""

    @wraps(function)
    def with_options(*args: Any, device: str | None, threads: int | None, progress: bool | None, **kwargs: Any) -> Any:
        return function(*args, run=Run(device, threads, wants_progress(progress)), **kwargs)

    decorated: Any = with_options
    for option in (progress_option, threads_option, device_option):
        decorated = option(decorated)
    return decorated


def stack_options(function: F) -> F:
    """Options that say how to open the particles, handed over as ``opened``, arguments of ``ParticleStack.open``."""

    @wraps(function)
    def with_options(*args: Any, **kwargs: Any) -> Any:
        opened = {name: kwargs.pop(name) for name in ("datadir", "pixel_size", "invert", "skip_bad", "allow_outside")}
        return function(*args, opened=opened, **kwargs)

    decorated: Any = with_options
    for option in (
        click.option("--allow-outside", is_flag=True, help="Let image names lead out of the folder of the table."),
        click.option("--invert", is_flag=True, help="Take the negatives of the images, where particles are dark."),
        click.option("--skip-bad", is_flag=True, help="Leave out rows whose image is unusable instead of stopping."),
        click.option(
            "--pixel-size", type=PIXEL_SIZE, metavar="A", help="Angstrom per pixel, instead of what the files say."
        ),
        click.option("--datadir", type=INPUT, metavar="DIR", help="Where the images are, if not beside the table."),
    ):
        decorated = option(decorated)
    return decorated


def check_suffix(path: Path) -> None:
    """Refuse a name that says no format of poses."""
    if path.suffix.lower() not in POSE_SUFFIXES:
        raise BadInput(path, f"the suffix {path.suffix!r}", expected=f"one of {', '.join(POSE_SUFFIXES)}")


def check_map(path: Path) -> None:
    """Refuse another format than that of maps."""
    if path.suffix.lower() not in (".mrc", ".map", ".ccp4"):
        raise BadInput(path, f"the suffix {path.suffix!r}", expected="a map, .mrc")


def check_picture(path: Path | None) -> None:
    """Refuse what is no picture, and to draw without matplotlib, before the work starts."""
    if path is None:
        return
    if path.suffix.lower() != ".png":
        raise BadInput(path, f"the suffix {path.suffix!r}", expected="a picture, .png")
    from ..zoo.figures import pyplot

    pyplot()


def check_output(path: Path, *, overwrite: bool, inputs: Sequence[Path] = ()) -> None:
    """Refuse an output that could not be written in the end, before the work starts.

    Raises:
        BadInput: it exists and may not be overwritten, it is one of the inputs, or its folder cannot be written to.
    """
    for source in inputs:
        if path.exists() and source.exists() and path.samefile(source):
            raise BadInput(path, "is the input as well as the output", hint="write to another file")
    if path.exists() and not path.is_file():
        raise BadInput(path, "cannot be written: it is not a regular file")
    if path.exists() and not overwrite:
        raise BadInput(path, "exists already", hint="choose another name, or --overwrite")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise BadInput(path, f"cannot be written: its folder: {error.strerror}") from None


def choose_device(name: str | None, threads: int | None = None) -> torch.device:
    """The device of ``--device``, which must exist; sets the number of threads."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name is None:
        return torch.device("cuda" if gpus else "cpu")
    try:
        device = torch.device(name.lower().replace("gpu", "cuda"))
    except RuntimeError:
        raise click.BadParameter(f"{name!r}; expected cpu, cuda or cuda:1", param_hint="--device") from None
    if device.type == "cuda" and not (device.index or 0) < gpus:
        there = f"PyTorch sees {gpus} here, from 0" if gpus else "PyTorch sees none here"
        raise click.BadParameter(f"no GPU {name!r}: {there}; --device cpu does without", param_hint="--device")
    try:
        torch.zeros(1, device=device).item()
    except Exception as error:  # torch raises all kinds, also of what it was compiled without
        reason = str(error).split("\n")[0][:100]
        raise click.BadParameter(f"{name!r} cannot be used here: {reason}", param_hint="--device") from None
    return device


def open_stack(particles: Path, opened: Mapping[str, Any], shard: tuple[int, int] | None) -> ParticleStack:
    """The particles, or one of several parts of them that follow one another.

    Raises:
        BadInput: they cannot be opened, or nothing is left for this part.
    """
    from ..particles.stack import ParticleStack

    stack = ParticleStack.open(particles, **opened)
    if shard is None:
        return stack
    part, parts = shard
    rows = range(len(stack) * (part - 1) // parts, len(stack) * part // parts)
    if not rows:
        raise BadInput(particles, f"{len(stack)} particles in {parts} parts: part {part} is empty")
    return stack.subset(rows)


def load_encoder(name: str, device: torch.device | None = None) -> PoseEncoder:
    """A pretrained encoder; the folder of one may do without ``local-dir:``."""
    from ..zoo.pretrained import load_pretrained

    return load_pretrained(f"local-dir:{name}" if Path(name).is_dir() else name, device=device)


def has_flips(encoder: PoseEncoder) -> bool:
    """Whether an encoder is equivariant to turns and flips: then only the other hand can be mistaken for the camera."""
    return (encoder.group or "").startswith("D")


def save_poses(poses: PoseTable, out: Path, *, overwrite: bool) -> None:
    """Write what took long to compute, beside OUT where OUT cannot be: formats do not take all, and disks get full."""
    try:
        poses.save(out, overwrite=overwrite)
    except (BadInput, OSError) as error:
        if kept := keep_poses(poses, out):
            raise BadInput(out, f"not written ({error})", hint=f"the poses are in {kept}") from error
        raise


def say_datadir(stack: ParticleStack, out: Path) -> None:
    """Warn where a table was written from which its images are not found."""
    if out.suffix.lower() not in (".star", ".cs"):
        return
    from ..particles.image_files import needed_datadir

    if (folder := needed_datadir(out, stack.table.files, stack.image_files)) is not None:
        message = f"image names are as in {stack.path}; what reads the images from here needs --datadir {folder}"
        warnings.warn(BadInputWarning(f"{out}: {message}"), stacklevel=2)


def keep_poses(poses: PoseTable, out: Path) -> Path | None:
    """Write ``NAME.partial.SUFFIX``, with a number where there is one already, or ``.npz``; None where neither goes."""
    for suffix in (out.suffix, ".npz"):
        names = (out.with_name(f"{out.stem}.partial{number}{suffix}") for number in ("", *range(2, 1_000_000)))
        kept = next(name for name in names if not name.exists())
        with contextlib.suppress(BadInput, OSError):
            poses.save(kept)
            return kept
    return None


def format_table(rows: Sequence[Sequence[str]], *, indent: str = "") -> str:
    """Columns of text with two blanks between them, the last one ragged."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(indent + line.rstrip() for line in cells)


def moved_by(rotation: Tensor, shift: Tensor) -> str:
    """Words for how a map was moved: (3, 3), and (3,) in Angstrom."""
    turn = math.degrees(math.acos(min(max((float(rotation.trace()) - 1) / 2, -1), 1)))
    return f"turned by {turn:.1f} degrees and shifted by ({', '.join(f'{value:.1f}' for value in shift.tolist())}) A"


def metrics_table(metrics: Mapping[str, Any], *, indent: str = "") -> str:
    """The metrics that are known by ``zoo/columns.py``, one per line; empty when there are none."""
    from ..zoo.columns import columns

    shown = [c for c in columns("accuracy", "baseline", "effort", "size") if _is_known(metrics.get(c.key))]
    return format_table([(c.line, c.shown.format(metrics[c.key])) for c in shown], indent=indent) if shown else ""


def _is_known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))
