"""What the library costs beyond the network: import, help, loading, prediction against the same network called bare.

    python -m cryozoo.benchmarks.overhead [ENCODER]

Prints one table and writes it to ``results/overhead.json`` and ``.md``. All figures are from one run; the ratio's two
sides take turns.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from ..particles.files import atomic_write, write_json
from ..zoo.entries import list_encoders
from ..zoo.provenance import provenance
from .runs import RESULTS, markdown_table

HEAVY = ("timm", "torchvision", "escnn", "e3nn", "pandas", "roma", "scipy")


def _seconds(command: list[str], repeats: int = 5) -> float:
    """Median wall time of a fresh process, after one that warms the file cache."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def _alternate(one: Callable[[], object], other: Callable[[], object], repeats: int = 7) -> tuple[float, float, float]:
    """Median seconds of each and median of the ratios of neighbouring runs."""
    pairs = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        one()
        middle = time.perf_counter()
        other()
        pairs.append((middle - began, time.perf_counter() - middle))
    first, second = zip(*pairs[1:], strict=True)
    return statistics.median(first), statistics.median(second), statistics.median(a / b for a, b in pairs[1:])


def measure(name: str, images: int = 1000) -> dict[str, Any]:
    """Time import, help, loading and predicting ``images`` particles with a pretrained encoder."""
    python = sys.executable
    blank = _seconds([python, "-c", "pass"])
    figures: dict[str, Any] = {
        "import_cryozoo_s": _seconds([python, "-c", "import cryozoo"]) - blank,
        "help_s": _seconds([python, "-m", "cryozoo", "--help"]),
    }
    probe = f"""
import sys, time, cryozoo
began = time.perf_counter()
encoder = cryozoo.load_pretrained({name!r})
import torch
encoder.predict(torch.randn(8, *2 * [encoder.preprocessing.image_size]))
print(time.perf_counter() - began, ' '.join(m for m in {HEAVY!r} if m in sys.modules))
"""
    loaded, *imported = subprocess.run([python, "-c", probe], check=True, capture_output=True, text=True).stdout.split()
    figures["load_and_first_batch_with_torch_import_s"] = float(loaded)
    figures["heavy_modules_imported"] = imported

    import torch

    from ..zoo.pretrained import load_pretrained

    encoder = load_pretrained(name)
    size = encoder.preprocessing.image_size
    stack = torch.randn(images, size, size, generator=torch.Generator().manual_seed(0))
    prepared = encoder.preprocessing(stack)

    def bare() -> None:
        with torch.inference_mode():
            for start in range(0, images, 256):
                encoder(prepared[start : start + 256])

    def predict() -> None:
        encoder.predict(stack)

    predicted, called, ratio = _alternate(predict, bare)
    figures |= {
        "images": images,
        "image_size": size,
        "predict_s": predicted,
        "bare_network_s": called,
        "predict_over_bare": ratio,
        "images_per_s": images / predicted,
        "peak_memory_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    return {"encoder": name, **figures, **provenance()}


def main() -> None:
    """Measure, print, write."""
    name = sys.argv[1] if len(sys.argv) > 1 else list_encoders(pretrained=True)[0]
    figures = measure(name)
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / "overhead.json", figures, overwrite=True)
    rows = [[key, f"{value:.3f}" if isinstance(value, float) else str(value)] for key, value in figures.items()]
    table = markdown_table(["figure", "value"], rows)
    with atomic_write(RESULTS / "overhead.md", overwrite=True) as file:
        file.write(table.encode())
    print(table)


if __name__ == "__main__":
    main()
