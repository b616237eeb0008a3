"""The command ``cryozoo``: one verb per job, each in a file of this folder.

Exit codes: 0 the job was done, 1 something unexpected, 2 wrong usage, 3 a file that cannot be used, 4 a repository
that cannot be reached, 129 SIGHUP, 130 Ctrl-C, 143 SIGTERM. Errors are one line on stderr; ``--debug`` shows where
they come from. Before a verb runs nothing is imported that is heavier than click.
"""

from __future__ import annotations

import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import click

from .. import __version__
from ..particles.errors import BadInput
from . import VERBS, Settings


class Stopped(KeyboardInterrupt):
    """A signal asked for the end; ``signum`` says which."""

    def __init__(self, signum: int) -> None:
        super().__init__("stopped")
        self.signum = signum


class _Interrupted(Exception):
    """Carries a KeyboardInterrupt past click, which would print an empty line and forget what it says."""


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _Interrupted from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order of a first visit, not of the alphabet


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="cryozoo")
@click.option("--debug", is_flag=True, expose_value=False, callback=Settings.note_debug, help="Show tracebacks.")
def cryozoo() -> None:
    """Poses of single-particle cryo-EM images from neural networks, and the zoo of these networks."""


for _verb in VERBS:
    cryozoo.add_command(_verb)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    settings = Settings()
    with _counted_warnings(), _signals():
        code = _run(arguments, settings)
    sys.exit(code)


def _run(arguments: Sequence[str] | None, settings: Settings) -> int:
    try:
        # Without standalone mode click returns what a verb, or an early exit like that of --help, returns.
        return cryozoo.main(arguments, "cryozoo", standalone_mode=False, obj=settings) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "cryozoo"
        complete = isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter)
        more = "" if complete else f" (`{command} --help` says more)"
        _explain(settings, error.format_message().rstrip(".") + more, error)
        return error.exit_code
    except (_Interrupted, click.Abort) as error:
        cause = error.__cause__ or error
        _explain(settings, str(cause) or "stopped", cause)
        return 128 + int(getattr(cause, "signum", None) or signal.SIGINT)
    except Exception as error:
        code = _exit_code(error)
        text = str(error)
        if code == 1 and not isinstance(error, ImportError):  # which says what to install
            whose = "" if _is(error, "zoo.parts", "PartError") else f"{type(error).__name__}: "
            text = f"{whose}{text} (--debug shows where)"
        _explain(settings, text, error)
        return code


def _exit_code(error: Exception) -> int:
    """3 for a file, 2 for a name and 4 for a repository that cannot be used, else 1."""
    if isinstance(error, BadInput):
        return 3
    if _is(error, "zoo.registry", "UnknownName"):
        return 2
    return 4 if _is(error, "zoo._stores", "HubError") else 1


def _is(error: Exception, module: str, name: str) -> bool:
    """Whether it is of a class whose module is imported only where it is needed: never imported, never raised."""
    loaded = sys.modules.get(f"cryozoo.{module}")
    return loaded is not None and isinstance(error, getattr(loaded, name))


def _explain(settings: Settings, message: str, error: BaseException) -> None:
    if settings.debug:
        traceback.print_exception(error)
    message = "; ".join([message, *getattr(error, "__notes__", [])])
    click.echo(f"error: {' '.join(message.split())}", err=True)


@contextmanager
def _counted_warnings() -> Iterator[None]:
    """Print each warning once, in one line; say at the end how often they came again."""
    seen: dict[str, int] = {}

    def show(message: Warning | str, category: type[Warning], *where: object, **more: object) -> None:
        text = " ".join(str(message).split())
        seen[text] = seen.get(text, 0) + 1
        if seen[text] == 1:
            click.echo(f"warning: {text}", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield
    for text, count in seen.items():
        if count > 1:
            click.echo(f"warning: {count - 1} more of: {text}", err=True)


@contextmanager
def _signals() -> Iterator[None]:
    """Let SIGTERM, and a terminal that goes away, end a job as Ctrl-C does.

    Its partial results are kept and its temporary files removed. What ``nohup`` ignores stays ignored.
    """

    def stop(signum: int, frame: FrameType | None) -> NoReturn:
        raise Stopped(signum)

    ours = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) is not signal.SIG_IGN]
    try:
        previous = {signum: signal.signal(signum, stop) for signum in ours}
    except ValueError:  # not the main thread: somebody else handles signals
        yield
        return
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
