"""A job, or some minutes of it: ``python -m cryozoo.benchmarks.gpu JOB OUT [--minutes 8] [--resume OUT] [--fit]``."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import torch
from safetensors.torch import load_file, save_file

from ...particles.files import atomic_write, write_json
from ...training.recipe import Recipe
from ...training.trainer import Interrupted, train
from .jobs import JOBS

PIECE_BYTES, PIECES = 15_000_000, 4
"""What can be carried from a machine without a network: files of this size, this many of one kind."""


def split_file(path: Path, folder: Path) -> bool:
    """Copy a file to a folder, cut into ``NAME.0``, ``NAME.1``, ... if it is large.

    Returns:
        False, and nothing written, if it takes too many pieces.
    """
    size = path.stat().st_size
    if size > PIECE_BYTES * PIECES:
        return False
    if size <= PIECE_BYTES:
        shutil.copy(path, folder)
        return True
    with path.open("rb") as file:
        number = 0
        while piece := file.read(PIECE_BYTES):
            with atomic_write(folder / f"{path.name}.{number}", overwrite=True) as out:
                out.write(piece)
            number += 1
    return True


def join_file(folder: Path, path: Path) -> None:
    """Bring back a file from where :func:`split_file` put it."""
    if (folder / path.name).exists():
        shutil.copy(folder / path.name, path)
        return
    pieces = sorted(folder.glob(f"{path.name}.*"), key=lambda piece: int(piece.suffix[1:]))
    if not pieces:
        raise FileNotFoundError(f"no {path.name}.0 in {folder}")
    with atomic_write(path, overwrite=True) as out:
        for piece in pieces:
            out.write(piece.read_bytes())


def fit_to_time(wanted: Recipe, seconds: float) -> Recipe:
    """The recipe with as many steps as fit, by the time that 300 more steps take; never more than wanted."""

    def run(steps: int) -> float:
        began = time.perf_counter()
        train(dataclasses.replace(wanted, steps=steps, validate_every=steps))
        return time.perf_counter() - began

    run(20)  # the first calls on a GPU are slow
    per_step = (run(350) - run(50)) / 300
    return dataclasses.replace(wanted, steps=min(wanted.steps, int(seconds / per_step)))


@contextmanager
def _stop_after(seconds: float) -> Iterator[None]:
    """Ask the training in this process to write a checkpoint and stop, and again until it listens."""
    done = threading.Event()

    def ask() -> None:
        wait = seconds
        while not done.wait(wait):
            os.kill(os.getpid(), signal.SIGUSR1)
            wait = 0.1

    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)


@click.command()
@click.argument("job", type=click.Choice(list(JOBS)))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--minutes", type=click.FloatRange(0), default=8.0, show_default=True, help="For the training.")
@click.option("--resume", type=click.Path(path_type=Path, exists=True), help="OUT of the slice before.")
@click.option("--fit", is_flag=True, help="Shorten the schedule to these minutes, for checkpoints too large to carry.")
def main(job: str, out: Path, minutes: float, resume: Path | None, fit: bool) -> None:
    """Train a job for some minutes and leave in OUT what the next slice, or its reader, needs."""
    began = time.perf_counter()
    wanted = recipe = JOBS[job]()
    if fit:
        recipe = fit_to_time(wanted, 60 * minutes)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        if resume is not None:
            join_file(resume, work / "checkpoint.safetensors")
        try:
            with _stop_after(60 * minutes if not fit else 24 * 3600):
                metrics = train(recipe, work, progress=True).metrics
        except Interrupted as stopped:
            click.echo(f"{stopped}", err=True)
            metrics = None
        split_file(work / "log.csv", out)
        if metrics is None:
            if not split_file(work / "checkpoint.safetensors", out):
                raise click.ClickException("the checkpoint is too large to carry: --fit does the job in one slice")
            click.echo(f"go on with --resume {out}")
            return
        record = {
            "recipe": recipe.to_dict(),
            "metrics": {**metrics, "mean_rad": metrics["mean_deg"] * torch.pi / 180},
            "share_of_schedule": recipe.steps / wanted.steps,
            "wall_s": time.perf_counter() - began,
        }
        write_json(out / "result.json", record, overwrite=True)
        for file in sorted((work / "model").iterdir()):
            if not split_file(file, out):
                weights = {name: t.half() if t.is_floating_point() else t for name, t in load_file(file).items()}
                save_file(weights, work / f"half-{file.name}")
                split_file(work / f"half-{file.name}", out)
        click.echo((out / "result.json").read_text())


if __name__ == "__main__":
    main()
