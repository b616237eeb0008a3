"""What the library costs beyond the network: import, help, loading, prediction against the same network called bare.

    python -m cryozoo.benchmarks.studies.overhead [ENCODER]

Prints one table and writes it to ``results/overhead.json`` and ``.md``. All figures are from one run; the ratio's two
sides take turns.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from typing import Any

from ...zoo.entries import list_encoders
from ...zoo.provenance import provenance
from .figures import write_figures
from .timing import median_ratio, take_turns

HEAVY = ("timm", "torchvision", "escnn", "e3nn", "pandas", "roma", "scipy")


def _seconds(command: list[str], repeats: int = 5) -> float:
    """Median wall time of a fresh process, after one that warms the file cache."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


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

    from ...zoo.pretrained import load_pretrained

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

    seconds = take_turns({"predict": predict, "bare": bare}, repeats=7, clock=time.perf_counter)
    predicted = statistics.median(seconds["predict"])
    figures |= {
        "images": images,
        "image_size": size,
        "predict_s": predicted,
        "bare_network_s": statistics.median(seconds["bare"]),
        "predict_over_bare": median_ratio(seconds["predict"], seconds["bare"]),
        "images_per_s": images / predicted,
        "peak_memory_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    return {"encoder": name, **figures, **provenance()}


def main() -> None:
    """Measure, print, write."""
    name = sys.argv[1] if len(sys.argv) > 1 else list_encoders(pretrained=True)[0]
    write_figures("overhead", measure(name))


if __name__ == "__main__":
    main()
