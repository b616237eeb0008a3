"""Images per second of steerable convolutions, of plain ones that cost as much, and of escnn's modules where installed.

    python -m cryozoo.benchmarks.studies.steerable_speed

Training steps (forward and backward) and inference of one D4 network in float32 and under bfloat16 autocast, on one
thread, in CPU time. All networks take turns, so that what else the machine does slows all of them. Prints one table and
writes it to ``results/steerable_speed.json`` and ``.md``.
"""

from __future__ import annotations

import importlib.util
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...models.pooling import GlobalPool
from ...models.steerable import fold
from ...zoo.cost import multiply_accumulates
from ...zoo.encoder import create_encoder
from ...zoo.provenance import provenance
from ..runs import markdown_table
from .figures import write_figures
from .timing import median_ratio, take_turns

SIZE, BATCH, REPEATS = 64, 64, 9
FIELDS, DEPTHS, KERNELS = (2, 4, 8, 16, 32), (1, 1, 2, 2, 2), (5, 3, 3, 3, 3)
# Wider than 8 * FIELDS where the maps are smaller: 32, 16, 8, 4 pixels for 33, 17, 9, 5. Multiples of 8, for speed.
PLAIN_CHANNELS = (16, 32, 72, 144, 320)


class EscnnNet(nn.Module):
    """The same network of escnn's modules."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about py3nj, which it has no use for here
            from escnn import gspaces
            from escnn import nn as enn
        space = gspaces.flipRot2dOnR2(4)
        self.in_type = before = enn.FieldType(space, [space.trivial_repr])
        layers: list[Any] = []
        for fields, depth, kernel in zip(FIELDS, DEPTHS, KERNELS, strict=True):
            after = enn.FieldType(space, fields * [space.regular_repr])
            for _ in range(depth):
                layers.append(enn.R2Conv(before, after, kernel, padding=kernel // 2, bias=False))
                layers.append(enn.InnerBatchNorm(after))
                before = after
            layers += [enn.PointwiseMaxPool(after, 3, 2, 1), enn.ReLU(after)]
        self.blocks = enn.SequentialModule(*layers)
        self.pool = GlobalPool("gem", before.size, p=6)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, L, L) -> features (B, 8 * FIELDS[-1])."""
        images = nn.functional.pad(images, (0, 1, 0, 1), mode="circular")
        return self.pool(self.blocks(self.in_type(images)).tensor)


def networks() -> tuple[dict[str, Any], dict[str, float]]:
    """What is timed, and the multiply-accumulates of two of them for one image, in millions."""
    shared = {"depths": DEPTHS, "kernels": KERNELS, "stem": "none"}
    steerable = create_encoder("d4_vgg_gem-nined_svd", image_size=SIZE, backbone_args={"fields": FIELDS, **shared})
    plain_args = {"channels": PLAIN_CHANNELS, "activation": "relu", "dropout": 0.0, **shared}
    plain = create_encoder("vgg_gem-nined_svd", image_size=SIZE, backbone_args=plain_args)
    nets: dict[str, Any] = {"plain": plain.backbone, "steerable": steerable.backbone}
    if importlib.util.find_spec("escnn"):
        nets["escnn"] = EscnnNet()
    return nets, {"plain": multiply_accumulates(plain) / 1e6, "steerable": multiply_accumulates(steerable) / 1e6}


def measure() -> dict[str, Any]:
    """Images per second of each network, and medians of the ratios to the plain one in the same round."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    nets, cost = networks()
    images = torch.randn(BATCH, 1, SIZE, SIZE)

    def train(net: nn.Module, half: bool) -> Callable[[], None]:
        def step() -> None:
            net.train()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = net(images).square().mean()
            loss.backward()
            net.zero_grad()

        return step

    def infer(net: nn.Module, half: bool) -> Callable[[], None]:
        def step() -> None:
            net.eval()
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
                net(images)

        return step

    figures: dict[str, Any] = {"images": BATCH, "image_size": SIZE, "repeats": REPEATS, "mega_macs": cost}
    for precision in ("float32", "bfloat16"):
        half = precision == "bfloat16"
        figures[f"{precision} training step"] = _speeds({name: train(net, half) for name, net in nets.items()})
        folded = {"steerable, folded": fold(nets["steerable"])}
        figures[f"{precision} inference"] = _speeds({n: infer(net, half) for n, net in (nets | folded).items()})
    return figures | provenance()


def _speeds(steps: dict[str, Callable[[], None]]) -> dict[str, dict[str, float]]:
    """Images per second of each, and speed relative to the plain network."""
    seconds = take_turns(steps, repeats=REPEATS)
    return {
        name: {
            "images_per_s": BATCH / statistics.median(values),
            "relative": median_ratio(seconds["plain"], values),
        }
        for name, values in seconds.items()
    }


def table(figures: dict[str, Any]) -> str:
    """A row per network, a column per kind of step, and where it was measured."""
    kinds = [key for key, value in figures.items() if isinstance(value, dict) and key != "mega_macs"]
    names = list(dict.fromkeys(name for kind in kinds for name in figures[kind]))

    def cell(kind: str, name: str) -> str:
        found = figures[kind].get(name)
        return f"{found['images_per_s']:.0f} ({found['relative']:.2f})" if found else ""

    rows = [[name, *(cell(kind, name) for kind in kinds)] for name in names]
    table = markdown_table(["images/s (relative to plain)", *kinds], rows)
    return (
        f"{table}\nImages of {figures['image_size']} pixels, batches of {figures['images']}. "
        f"Commit {figures['commit']}; {figures['hardware']}, {figures['threads']} thread; torch {figures['torch']}.\n"
    )


def main() -> None:
    """Measure, print, write."""
    write_figures("steerable_speed", measure())


if __name__ == "__main__":
    main()
