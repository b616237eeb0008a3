"""``cryozoo demo``: the embedded encoders on simulated particles whose poses are known."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..particles.errors import BadInput
from ..particles.files import make_folder
from .common import choose_device, device_option, format_table, threads_option, verb

if TYPE_CHECKING:
    import torch

    from ..imaging.batch import Batch
    from ..imaging.simulate import Simulator
    from ..particles.poses import PoseTable
    from ..zoo.encoder import PoseEncoder

_SEED = 2**40 + 11  # of no training, validation or test set
_SHOWN = 6


@verb("demo", short_help="The embedded encoders at work, with a picture.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default="demo", metavar="DIR", help="Folder for demo.png."
)
@click.option("-n", "count", type=click.IntRange(50, 100_000), default=1000, metavar="N", help="Particles to simulate.")
@click.option(
    "--encoder", "name", metavar="NAME", help="Another one that was trained on a phantom.  [default: all here]"
)
@device_option
@threads_option
def demo(out: Path, count: int, name: str | None, device: str | None, threads: int | None) -> None:
    """Predict the poses of simulated particles, compare them with the truth, and draw demo.png.

    The particles are noisy projections of a phantom, as the recipe of each encoder has them, but new ones.
    """
    from ..zoo.entries import get_entry, list_encoders

    path = make_folder(out) / "demo.png"
    where = choose_device(device, threads)
    names = [name] if name else [n for n in list_encoders(pretrained=True) if get_entry(n).source == "embedded"]
    if not names:
        raise BadInput("demo", "no encoder is embedded in this cryozoo", hint="--encoder names one")
    rows: list[tuple[str, ...]] = [
        ("encoder", "median", "<= 5", "<= 10", "<= 15 deg", "random guess", "Spearman", "images/s")
    ]
    runs = []
    for each in names:
        run = _Run(each, count, where)
        rows.append(run.row())
        runs.append(run)
    click.echo(format_table(rows))
    click.echo("\nmedian error in degrees, shares of particles within so many degrees, median error of a random guess,")
    click.echo("rank correlation of confidence and error (-1 is perfect)")
    best = min(runs, key=lambda run: run.metrics["median_deg"])
    best.draw(path)
    click.echo(f"\n{path}: what {best.name} saw and said")


class _Run:
    """One encoder on its own kind of particles."""

    def __init__(self, name: str, count: int, device: torch.device) -> None:
        import torch

        from ..zoo.pretrained import load_pretrained

        self.name = name
        encoder = load_pretrained(name, device=device)
        self.simulator, self.symmetry, self.snr = _simulator(encoder, name)
        generator = torch.Generator().manual_seed(_SEED)
        self.particles: Batch = self.simulator(count, generator)
        images = self.particles.images.to(device)
        pixel_size = self.simulator.projector.pixel_size
        encoder.predict(images[:256], pixel_size=pixel_size)  # the first call of a network is slow
        began = time.perf_counter()
        self.poses: PoseTable = encoder.predict(images, pixel_size=pixel_size)
        self.images_per_s = count / (time.perf_counter() - began)
        self.metrics = self._metrics()

    def _metrics(self) -> dict[str, Any]:
        import torch

        from ..geometry.pose import Pose
        from ..zoo.evaluate import pose_metrics

        confidence = None if self.poses.confidence is None else torch.from_numpy(self.poses.confidence)
        predicted = Pose(torch.from_numpy(self.poses.rotation), confidence=confidence)
        return pose_metrics(predicted, Pose(self.particles.pose.rotation), symmetry=self.symmetry)

    def row(self) -> tuple[str, ...]:
        """The row of the table."""
        m = self.metrics
        within = (f"{m[f'acc_{degrees}']:.0%}" for degrees in (5, 10, 15))
        ranks = f"{m['spearman']:.2f}" if "spearman" in m else "-"
        chance = f"{m['chance_median_deg']:.1f}"
        return (self.name, f"{m['median_deg']:.2f}", *within, chance, ranks, f"{self.images_per_s:,.0f}")

    def draw(self, path: Path) -> None:
        """Write the figure."""
        import numpy as np
        import torch

        from ..geometry.point_groups import point_group, symmetric_distance
        from ..geometry.sampling import random_rotations
        from ..zoo.figures import demo_figure, save_figure

        group = point_group(self.symmetry)

        def error(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
            return np.degrees(symmetric_distance(a.double(), b.double(), group).numpy())

        guesses = random_rotations(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        predicted = torch.from_numpy(self.poses.rotation)
        shown, truth = slice(_SHOWN), self.particles.pose
        assert truth.rotation is not None
        seen = truth.rows(shown)
        with torch.no_grad():
            at_true = self.simulator.projector(seen.rotation, seen.shift)
            at_predicted = self.simulator.projector(
                predicted[shown].float(), torch.from_numpy(self.poses.shift[shown]).float()
            )
        noise = "without noise" if self.snr is None else f"signal to noise {self.snr}"
        figure = demo_figure(
            self.particles.images[shown, 0].numpy(),
            at_true.numpy(),
            at_predicted.numpy(),
            error(predicted, truth.rotation),
            self.poses.confidence,
            error(guesses, torch.eye(3).expand_as(guesses)),
            title=f"{self.name} on {len(predicted):,} simulated particles, {noise}",
        )
        save_figure(figure, path)


def _simulator(encoder: PoseEncoder, name: str) -> tuple[Simulator, str, str | None]:
    """The simulator of an encoder's recipe, its symmetry and its noise."""
    from ..training.data import Simulated
    from ..training.migrations import migrated
    from ..training.recipe import Recipe

    trained = encoder.entry.trained_with if encoder.entry else None
    data = Recipe.from_dict(migrated(trained)[0]).data if trained else None
    if not isinstance(data, Simulated) or not data.volume.startswith("phantom:"):
        hint = "cryozoo simulate and cryozoo predict take any volume"
        raise BadInput(name, "was not trained on a phantom", hint=hint)
    made = data.simulator(encoder.preprocessing.image_size, encoder.preprocessing.pixel_size)
    levels = data.imaging.snr_range
    return made, data.symmetry, None if levels is None else " to ".join(f"{snr:g}" for snr in sorted(set(levels)))
