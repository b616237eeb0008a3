"""What the SO(3) harmonic head costs: its density on the grid, evaluated separably, against one dense product.

    python -m cryozoo.benchmarks.studies.so3_harmonic [LMAX [ORDER]]

Prints one table and writes it to ``results/so3_harmonic.json`` and ``.md``. Milliseconds of CPU time per image on one
thread; all figures are from one run in which the sides take turns.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from typing import Any

from ...zoo.provenance import provenance
from .figures import write_figures
from .timing import median_ratio, take_turns


def measure(lmax: int = 6, order: int = 3, images: int = 256) -> dict[str, Any]:
    """Time a batch through the grid, the dense product, the whole head, and a training step of head and loss."""
    import torch

    from ...geometry.constants import Constants
    from ...geometry.grids import so3_grid
    from ...geometry.harmonics.wigner import WignerD
    from ...geometry.pose import Pose
    from ...geometry.sampling import random_rotations
    from ...heads.so3_harmonic import SO3Harmonic
    from ...losses.so3_nll import SO3NLL

    torch.set_num_threads(1)
    head, loss = SO3Harmonic(lmax=lmax, order=order), SO3NLL(order=order)
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(images, head.raw_dim, generator=generator)
    truth = random_rotations(images, generator=generator)
    dense = WignerD(lmax)(so3_grid(order).float()).T.contiguous()
    product = torch.empty(64, dense.shape[1])

    def separably() -> None:
        for part in head.series.parts(head.series.amplitudes(raw)):
            head.series.from_amplitudes(part)

    def densely() -> None:
        for part in raw.split(64):
            torch.mm(part, dense, out=product[: len(part)])

    def training() -> None:
        leaf = raw.clone().requires_grad_()
        for part, rotation in zip(leaf.split(64), truth.split(64), strict=True):
            loss(head(part), Pose(rotation=rotation)).total.backward()

    def inferring(function: Callable[[], object]) -> Callable[[], object]:
        return torch.inference_mode()(function)

    with torch.inference_mode():
        exact = raw[:16] @ dense
        error = float((head.series.values(raw[:16]) - exact).abs().max() / exact.abs().max())
    rounds = take_turns(
        {
            "density_on_the_grid": inferring(separably),
            "dense_product": inferring(densely),
            "head_forward": inferring(lambda: head(raw)),
            "head_and_loss_training": training,
        }
    )
    seconds = {name: statistics.median(values) for name, values in rounds.items()}
    tables = [table for part in head.modules() if isinstance(part, Constants) for table in part.constants()]
    return {
        "lmax": lmax,
        "order": order,
        "images": images,
        **{f"{name}_ms": 1e3 * value / images for name, value in seconds.items()},
        "dense_over_separable": median_ratio(rounds["dense_product"], rounds["density_on_the_grid"]),
        "largest_error_relative": error,
        "tables_MB": sum(table.numel() * table.element_size() for table in tables) / 1e6,
        "dense_table_MB": dense.numel() * 4 / 1e6,
        **provenance(),
    }


def main() -> None:
    """Measure, print, write."""
    write_figures("so3_harmonic", measure(*map(int, sys.argv[1:])))


if __name__ == "__main__":
    main()
