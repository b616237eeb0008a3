"""Cryo-forum's protocol at full size, in one call: python -m cryozoo.benchmarks.gpu.forum_128 OUT [--minutes 9]."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
import time
from pathlib import Path

import click
import torch

from ...particles.files import atomic_write, write_json
from ...zoo.recipe import Recipe
from ...zoo.train import TrainingResult, train

IMAGE_PASSES = 50 * 63_101 * 2
"""Theirs: 50 epochs of 63,101 pairs, two images each (Chung 2023)."""

SHARD_BYTES = 15_000_000


def recipe(head: str, augment: str, batch_size: int = 256) -> Recipe:
    """Their protocol: 5,000 fixed images, half of them for training, pairs with curriculum, one-cycle Adam."""
    return Recipe(
        encoder=f"vgg_gem-{head}",
        image_size=128,
        pixel_size=2.8,
        data={"volume": "structures/4v89.npz", "snr": 0.1, "images": 5000, "split": (0.5, 0.17)},
        shift=False,
        loss="forum",
        optimizer="adam",
        weight_decay=1e-3,
        schedule="onecycle",
        lr=1e-3,
        augment=augment,  # type: ignore[arg-type]
        batch_size=batch_size,
        steps=IMAGE_PASSES // batch_size,
        validate_every=1000,
    )


def fit_to_time(wanted: Recipe, seconds: float) -> Recipe:
    """The recipe with as many steps as fit, by the time that 300 more steps take; never more than wanted."""

    def run(steps: int) -> float:
        began = time.perf_counter()
        train(dataclasses.replace(wanted, steps=steps, validate_every=steps))
        return time.perf_counter() - began

    run(20)  # the first calls on a GPU are slow
    per_step = (run(350) - run(50)) / 300
    return dataclasses.replace(wanted, steps=min(wanted.steps, int(seconds / per_step)))


def save_shards(result: TrainingResult, folder: Path) -> None:
    """The weights in half precision, in files small enough to carry."""
    from safetensors.torch import save

    shard: dict[str, torch.Tensor] = {}
    number = 0

    def flush() -> None:
        nonlocal shard, number
        if shard:
            with atomic_write(folder / f"model-{number}.safetensors", overwrite=True) as file:
                file.write(save(shard))
            shard, number = {}, number + 1

    for name, tensor in result.encoder.state_dict().items():
        half = tensor.half() if tensor.is_floating_point() else tensor
        pieces = half.reshape(-1).split(SHARD_BYTES // 2 - 1000) if half.numel() * 2 > SHARD_BYTES else (half,)
        for i, piece in enumerate(pieces):
            if sum(t.numel() * t.element_size() for t in shard.values()) + piece.numel() * 2 > SHARD_BYTES:
                flush()
            shard[name if len(pieces) == 1 else f"{name}#{i}"] = piece.contiguous().cpu()
    flush()


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--head", default="qcqp_bingham")
@click.option("--augment", type=click.Choice(["none", "d4", "rotate"]), default="none", help="none is the protocol.")
@click.option("--minutes", type=click.FloatRange(1), default=9.0)
def main(out: Path, head: str, augment: str, minutes: float) -> None:
    """Train, evaluate, and leave everything worth keeping in OUT."""
    began = time.perf_counter()
    wanted = recipe(head, augment)
    fitted = fit_to_time(wanted, 60 * minutes - 90)
    with tempfile.TemporaryDirectory() as scratch:  # a checkpoint of 240 MB is too large to carry
        result = train(fitted, scratch, progress=True)
        out.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(scratch) / "log.csv", out)
    record = {
        "recipe": fitted.to_dict(),
        "metrics": {**result.metrics, "mean_rad": result.metrics["mean_deg"] * torch.pi / 180},
        "share_of_protocol": fitted.steps / wanted.steps,
        "wall_s": time.perf_counter() - began,
    }
    write_json(out / "result.json", record, overwrite=True)
    save_shards(result, out)
    click.echo(json.dumps(record["metrics"], indent=1))


if __name__ == "__main__":
    main()
