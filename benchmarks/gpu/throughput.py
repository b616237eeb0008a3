"""Images per second and the share of the device's peak: ``python -m cryozoo.benchmarks.gpu.throughput OUT``."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch

from ...losses.bingham import BinghamNLL
from ...particles.files import write_json
from ...zoo.cost import multiply_accumulates
from ...zoo.encoder import create_encoder
from ...zoo.provenance import provenance
from ..runs import markdown_table

ENCODERS = ("vgg_gem-qcqp_bingham", "d4_vgg_gem-qcqp_bingham", "cryoai_cnn-qcqp_bingham", "d4_cnn-qcqp_bingham")


def seconds_per_call(call: Callable[[], object], device: torch.device, budget: float) -> float:
    """Wall time of a call, averaged over about ``budget`` seconds after three calls that warm up."""

    def timed(repeats: int) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(repeats):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / repeats

    timed(3)
    return timed(max(1, round(budget / timed(1))))


def peak(device: torch.device, size: int, budget: float) -> float:
    """Multiply-accumulates per second of a square bfloat16 matrix product."""
    a, b = torch.randn(2, size, size, device=device, dtype=torch.bfloat16)
    return size**3 / seconds_per_call(lambda: a @ b, device, budget)


def measure(name: str, image_size: int, batch_size: int, device: torch.device, budget: float) -> dict[str, Any]:
    """Training steps (forward, likelihood, backward, AdamW) and inference of one encoder in bfloat16 autocast."""
    encoder = create_encoder(name, image_size=image_size).to(device)
    images = torch.randn(batch_size, 1, image_size, image_size, device=device)
    optimizer, loss = torch.optim.AdamW(encoder.parameters(), 1e-4), BinghamNLL()
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        target = encoder(images)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            pose = encoder(images)
        loss(pose, target).total.backward()
        optimizer.step()

    @torch.inference_mode()
    def infer() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            encoder(images)

    training = batch_size / seconds_per_call(step, device, budget)
    encoder.eval()
    inference = batch_size / seconds_per_call(infer, device, budget)
    return {
        "encoder": name,
        "image_size": image_size,
        "batch_size": batch_size,
        "gmacs": multiply_accumulates(encoder) / 1e9,
        "training_images_per_s": training,
        "inference_images_per_s": inference,
    }


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--size", "sizes", type=int, multiple=True, default=(64, 128), show_default=True)
@click.option("--batch-size", type=int, default=512, show_default=True)
@click.option("--matrix", type=int, default=8192, show_default=True, help="Side of the matrices that measure the peak.")
@click.option("--seconds", type=float, default=5.0, show_default=True, help="For each number.")
def main(out: Path, sizes: tuple[int, ...], batch_size: int, matrix: int, seconds: float) -> None:
    """Measure, print a table, and write OUT/throughput.json."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    highest = peak(device, matrix, seconds)
    rows = [measure(name, size, batch_size, device, seconds) for size in sizes for name in ENCODERS]
    for row in rows:
        # A backward pass costs twice the forward one.
        row["training_share_of_peak"] = 3 * row["gmacs"] * 1e9 * row["training_images_per_s"] / highest
        row["inference_share_of_peak"] = row["gmacs"] * 1e9 * row["inference_images_per_s"] / highest
    out.mkdir(parents=True, exist_ok=True)
    record = {"peak_macs_per_s": highest, "rows": rows, **provenance(str(device))}
    write_json(out / "throughput.json", record, overwrite=True)
    header = list(rows[0])
    click.echo(
        markdown_table(header, [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in r.values()] for r in rows])
    )


if __name__ == "__main__":
    main()
