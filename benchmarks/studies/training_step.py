"""What a training step is made of: images, network, and every head with every loss that it has, side by side.

    python -m cryozoo.benchmarks.studies.training_step

Batches of 64 images of 64 pixels at SNR 0.1, with CTF and shifts; a D4 network in bfloat16. Heads and losses see what
the last layer of a trained encoder says, as densities that have learnt something are narrow, and cost other sums than
random ones. Milliseconds of CPU time for a batch on one thread; all figures are of one run in which the sides take
turns. Prints a table and writes it to ``results/training_step.json`` and ``.md``.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from ...zoo.provenance import provenance
from ..runs import markdown_table
from .figures import write_figures
from .timing import take_turns

_ENCODER, _BATCH, _SNR = "pol_ii", 64, 0.1
_DENSITY = "so3_harmonic"  # its head
# Head, loss, its arguments.
PAIRS: list[tuple[str, str, dict[str, Any]]] = [
    *((head, "chordal", {}) for head in ("quaternion", "sixd_gs", "sixd_svd", "nined_svd", "qcqp_bingham")),
    ("sixd_svd", "geodesic", {}),
    ("nined_svd", "bingham_nll", {}),
    ("qcqp_bingham", "bingham_nll", {}),
    ("qcqp_bingham", "rotation_laplace", {}),
    (_DENSITY, "wigner_mse", {}),
    *((_DENSITY, "so3_nll", {"order": order}) for order in (2, 3)),
]


def measure() -> dict[str, Any]:
    """Time them."""
    from dataclasses import replace

    import torch

    from ...geometry.pose import Pose
    from ...training.batches import draw
    from ...training.data import Simulated, data_from_plain
    from ...zoo.loss import create_loss
    from ...zoo.parts import make_part
    from ...zoo.pretrained import load_pretrained

    torch.set_num_threads(1)
    encoder = load_pretrained(_ENCODER).train()
    entry = encoder.entry
    assert entry is not None
    data = data_from_plain(entry.data)
    assert isinstance(data, Simulated)
    data = replace(data, imaging=replace(data.imaging, snr=_SNR, noise_slope=0.0))
    simulator = data.simulator(entry.image_size, entry.pixel_size)
    batch = draw(simulator, encoder.preprocessing, _BATCH, seed=0)
    truth = batch.pose.rotation
    assert truth is not None
    with torch.no_grad():
        densities = encoder.raw(batch.images)[:, : encoder.head.raw_dim]

    def images() -> None:
        draw(simulator, encoder.preprocessing, _BATCH, seed=0)

    def network() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            raw = encoder.raw(batch.images)
        raw.sum().backward()

    def pair(head_name: str, loss_name: str, args: dict[str, Any]) -> Callable[[], None]:
        head, loss = make_part("head", head_name), create_loss(loss_name, **args)
        random = torch.randn(_BATCH, head.raw_dim, generator=torch.Generator().manual_seed(0))
        raw = (densities if head_name == _DENSITY else random).clone().requires_grad_()
        return lambda: loss(head(raw, decode=loss.reads_rotation), Pose(truth)).total.backward()

    sides = {"images": images, "network": network, **{_name(*of): pair(*of) for of in PAIRS}}
    seconds = take_turns(sides)
    return {"ms": {name: 1000 * statistics.median(values) for name, values in seconds.items()}, **provenance()}


def _name(head: str, loss: str, args: dict[str, Any]) -> str:
    return " ".join([head, loss, *(f"{key} {value}" for key, value in args.items())])


def table(figures: dict[str, Any]) -> str:
    """Markdown: milliseconds, and the share of a step that is made of images, network and this."""
    ms = dict(figures["ms"])
    images, network = ms.pop("images"), ms.pop("network")
    rows = [["images", f"{images:.1f}", ""], ["network", f"{network:.1f}", ""]]
    rows += [[name, f"{own:.1f}", f"{100 * own / (images + network + own):.0f}"] for name, own in ms.items()]
    note = (
        f"Batches of {_BATCH} images of 64 pixels, D4 network of 0.15 M parameters, densities of the encoder "
        f"{_ENCODER}. Commit {figures['commit']}; {figures['hardware']}, 1 thread; torch {figures['torch']}."
    )
    return f"{markdown_table(['of a training step', 'ms', '% of the step'], rows)}\n{note}\n"


if __name__ == "__main__":
    write_figures("training_step", measure())
