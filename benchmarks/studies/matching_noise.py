"""Matching in noise that is not white: how near to the bound of that noise, and what it costs to take it for white.

    python -m cryozoo.benchmarks.studies.matching_noise [IMAGES [SEEDS]]

Images of two maps at SNR 0.1 (total variances) with CTF, in white noise, in noise whose power falls as 1/k and as
1/k^2, and in noise of the spectrum that five real images have (cryoDRGN's test stack, which is mostly noise). Its power
is estimated from 256 of the images. Prints one table and writes it to ``results/matching_noise.json`` and ``.md``. On
one thread.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...zoo.provenance import provenance
from ..runs import markdown_table, spread
from .figures import write_figures
from .matching import DEFOCUS, MAPS

if TYPE_CHECKING:
    from torch import Tensor

    from ...geometry.pose import Pose
    from ...imaging.match import Matcher
    from ...imaging.noise import RadialNoise
    from ...particles.ctf import CTF

NAMES = ("70S ribosome", "beta-galactosidase")
KINDS = ("white", "1/k", "1/k^2", "measured")
_SIZE, _SAMPLE, _SNR = 64, 256, 0.1
_MEASURED = "particles/cryodrgn_relion31_5/relion31.star"


def spectrum(kind: str, pixel_size: float) -> RadialNoise:
    """The power of the noise at every frequency, of variance 1 per pixel."""
    import numpy as np
    import torch

    from ...imaging.noise import RadialNoise
    from ...particles.files import find_data
    from ...particles.stack import ParticleStack

    box = _SIZE * pixel_size
    shells = torch.arange(_SIZE // 2 * 3 // 2 + 1, dtype=torch.float64).clamp_min(1)  # to the corners
    if kind == "measured":
        stack = ParticleStack.open(find_data(_MEASURED))
        images = torch.from_numpy(stack.images(range(len(stack)))).double()
        size = stack.image_size
        images = images - images.mean((1, 2), keepdim=True)
        k = [torch.fft.fftfreq(size, stack.pixel_size), torch.fft.rfftfreq(size, stack.pixel_size)]
        radius = (k[0][:, None] ** 2 + k[1] ** 2).sqrt().flatten()
        of_stack = RadialNoise.of_samples(torch.fft.rfft2(images).flatten(1), radius, size * stack.pixel_size)
        # Beyond its Nyquist frequency it goes on as at it.
        known = of_stack.shells[: size // 2].numpy()
        power = np.interp(shells.numpy() / box, np.arange(len(known)) / of_stack.box, known)
        shells = torch.from_numpy(power)
    else:
        shells = shells ** -KINDS.index(kind)
    noise = RadialNoise(shells, box)
    k = torch.fft.fftfreq(_SIZE, pixel_size, dtype=torch.float64)
    mean = noise.power((k[:, None] ** 2 + k**2).sqrt().flatten()).mean()
    return RadialNoise((shells / mean).float() * _SIZE**2, box)


@dataclass(frozen=True)
class Task:
    """Images of a map in noise, all that is true of them, and what matches them.

    Attributes:
        images: (N, L, L).
        pose: with rotations and shifts.
        ctf: of the images; None without it.
        noise: its true power.
        sigma: its standard deviation per pixel.
        group: (G, 3, 3) point group.
        limit: (M,) bound on the angular error of the first images, degrees.
        matcher: of the map.
    """

    images: Tensor
    pose: Pose
    ctf: CTF | None
    noise: RadialNoise
    sigma: float
    group: Tensor
    limit: Tensor
    matcher: Matcher

    def apart(self, rotation: Tensor) -> Tensor:
        """(N,) degrees between rotations and the true ones, or their nearest mates."""
        from ...geometry.point_groups import symmetric_distance

        assert self.pose.rotation is not None
        return symmetric_distance(rotation.double(), self.pose.rotation.double(), self.group).rad2deg()


def task(name: str, kind: str, images: int, seed: int, *, with_ctf: bool = True) -> Task:
    """Images of a map at SNR 0.1, in noise of this spectrum."""
    import torch

    from ...geometry.point_groups import point_group
    from ...imaging.cramer_rao import cramer_rao_bound
    from ...imaging.match import Matcher
    from ...imaging.noise import RadialNoise
    from ...imaging.simulate import Imaging, Simulator
    from ...imaging.volumes import load_volume

    file, symmetry, pixel = MAPS[name]
    volume, group = load_volume(file, image_size=_SIZE, pixel_size=pixel), point_group(symmetry)
    imaging = Imaging(snr=_SNR, shift_sigma=_SIZE * pixel / 30, defocus=DEFOCUS if with_ctf else None)
    simulator = Simulator(volume, imaging, image_size=_SIZE, pixel_size=pixel)
    generator = torch.Generator().manual_seed(seed)
    batch = simulator(images, generator, noise=0.0)
    rotation, shift = batch.pose.rotation, batch.pose.shift
    assert rotation is not None
    assert shift is not None
    of_one = spectrum(kind, pixel)
    true = RadialNoise(of_one.shells * simulator.noise_sigma**2, of_one.box)
    white = torch.randn(images, _SIZE, _SIZE, generator=generator)
    noisy = batch.images[:, 0] + true.coloured(white, pixel)
    few = slice(_SAMPLE)
    bound = cramer_rao_bound(simulator.projector, rotation[few], true, shift=shift[few], ctf=batch[few].ctf)
    matcher = Matcher(volume, _SIZE, pixel, group=None if len(group) == 1 else group.float())
    return Task(noisy, batch.pose, batch.ctf, true, simulator.noise_sigma, group, bound.angles().rad2deg(), matcher)


def run(name: str, kind: str, images: int, seed: int) -> dict[str, Any]:
    """Match the images of one task with the noise as it is estimated, and as if it were white; angles in degrees."""
    from ...imaging.noise import RadialNoise

    of = task(name, kind, images, seed)
    estimated, _ = of.matcher.estimate_noise(of.images[:_SAMPLE], of.ctf and of.ctf[slice(_SAMPLE)])
    white = RadialNoise.white(of.sigma, _SIZE, of.noise.box / _SIZE)
    error, ignoring = (of.apart(of.matcher(of.images, of.ctf, noise).rotation) for noise in (estimated, white))
    return {
        "median_deg": float(error.median()),
        "mean_deg": float(error.mean()),
        "within_5": float((error <= 5).double().mean()),
        "bound_median_deg": float(of.limit.median()),
        "bound_mean_deg": float(of.limit.mean()),
        "ignoring_median_deg": float(ignoring.median()),
        "ignoring_within_5": float((ignoring <= 5).double().mean()),
    }


def measure(images: int = 500, seeds: int = 3) -> dict[str, Any]:
    """All maps and kinds of noise."""
    import torch

    torch.set_num_threads(1)
    rows = [
        {"map": name, "noise": kind, "seeds": [run(name, kind, images, seed) for seed in range(seeds)]}
        for name in NAMES
        for kind in KINDS
    ]
    return {"rows": rows, "images": images, **provenance()}


def table(figures: dict[str, Any]) -> str:
    """Markdown; over seeds the mean (lowest to highest)."""
    rows = []
    for row in figures["rows"]:
        seeds = row["seeds"]
        rows.append(
            [
                f"{row['map']}, {row['noise']}",
                spread([s["bound_median_deg"] for s in seeds]),
                spread([s["median_deg"] for s in seeds]),
                spread([s["median_deg"] / s["bound_median_deg"] for s in seeds]),
                spread([s["mean_deg"] / s["bound_mean_deg"] for s in seeds]),
                spread([100 * s["within_5"] for s in seeds], 1),
                spread([s["ignoring_median_deg"] for s in seeds]),
                spread([100 * s["ignoring_within_5"] for s in seeds], 1),
            ]
        )
    header = ["map, noise", "bound deg", "median deg", "median / bound", "mean / bound", "% <= 5"]
    header += ["taken for white: median deg", "% <= 5"]
    return markdown_table(header, rows) + (
        f"\n{figures['images']:,} images of {_SIZE} pixels for each seed, at SNR {_SNR:g}, defocus 1 to 3 um. "
        f"Commit {figures['commit']}; {figures['hardware']}.\n"
    )


def main() -> None:
    """Measure, print, write."""
    write_figures("matching_noise", measure(*map(int, sys.argv[1:])))


if __name__ == "__main__":
    main()
