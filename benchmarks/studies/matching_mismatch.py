"""What becomes of poses when map or images are not what they are taken for, and whether it is said.

    python -m cryozoo.benchmarks.studies.matching_mismatch [IMAGES]

Images of the E. coli 70S ribosome (SNR 0.1, defocus 1 to 3 um, shifted) are matched against their own map, blurred
ones, those of relatives and strangers, one with a wrong pixel size, and the mirrored one from true poses; and images
that were inverted, have no CTF, or one that was applied in another way than their table says. Relatives are laid over
the map first, so that errors mean something. Prints one table and writes it to ``results/matching_mismatch.json`` and
``.md``.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...zoo.provenance import provenance
from ..runs import markdown_table
from .figures import write_figures

if TYPE_CHECKING:
    from ...imaging.volumes import Volume

_SIZE, _PIXEL = 80, 5.0
_MAP = "structures/4v89.npz"
_OTHERS = {
    "T. thermophilus 70S": "structures/4w2e.npz",
    "yeast 80S": "maps/4v7r_5A.mrc",
    "fatty acid synthase": "maps/2uv8_5A.mrc",
    "beta-galactosidase": "structures/5a1a.npz",
}
_CASES = ("as it is", "map blurred to 15 A", "map blurred to 25 A", *_OTHERS, "pixel size 3 % too large")
_CASES += ("pixel size 3 % too small", "mirrored map, true poses given", "images inverted", "images without CTF")
_CASES += ("phases flipped, not said", "phases flipped, said", "multiplied by the CTF, not said")
_CASES += ("multiplied by the CTF, said",)


def _map(case: str) -> Volume:
    """The map of a case; others are laid over that of the images."""
    from ...imaging.fourier import crop_or_zero_pad
    from ...imaging.map_alignment import align_map, transform_map
    from ...imaging.masks import blurred
    from ...imaging.volumes import Volume, load_volume

    volume = Volume(load_volume(_MAP, image_size=_SIZE, pixel_size=_PIXEL).data, _PIXEL)
    if case.startswith("map blurred"):
        return Volume(blurred(volume, float(case.split()[-2])), _PIXEL)
    if case.startswith("pixel size"):
        return Volume(volume.data, _PIXEL * (1.03 if "large" in case else 0.97))
    if case.startswith("mirrored"):
        return Volume(volume.data.flip(0).roll(1, 0), _PIXEL)
    if case not in _OTHERS:
        return volume
    file = load_volume(_OTHERS[case], image_size=_SIZE, pixel_size=_PIXEL)
    other = Volume(crop_or_zero_pad(file.data.float(), _SIZE), file.pixel_size)
    laid = align_map(other, volume, mirror=False)
    return transform_map(other, laid.rotation, laid.shift)


def _images(folder: Path, images: int) -> None:
    from ...imaging.simulate import Imaging, Simulator
    from ...imaging.simulate_files import write_simulated_stack

    imaging = Imaging(snr=0.1, shift_sigma=10.0, defocus=(10_000.0, 30_000.0))
    simulator = Simulator(_map("as it is"), imaging, image_size=_SIZE, pixel_size=_PIXEL)
    write_simulated_stack(folder / "images.mrcs", simulator, images, seed=0)


def _changed(case: str, folder: Path) -> Any:
    """The particles of a case."""
    from dataclasses import replace

    import torch

    from ...imaging.fourier import filtered
    from ...imaging.preprocessing import phase_flip
    from ...imaging.projector import Projector
    from ...particles.mrc_writer import write_stack
    from ...particles.stack import ParticleStack

    stack = ParticleStack.open(folder / "images.star", invert=case == "images inverted")
    ctf = stack.ctf
    assert ctf is not None
    assert stack.poses is not None
    ctf = ctf.to(torch.float32)
    images = torch.from_numpy(stack.images(range(len(stack))))
    if case == "images without CTF":
        projector = Projector(_map("as it is"))
        pose = [torch.from_numpy(values).float() for values in (stack.poses.rotation, stack.poses.shift)]
        images = images - projector(*pose, ctf) + projector(*pose)
    elif case.startswith("phases flipped"):
        images = phase_flip(images[:, None], _PIXEL, ctf)[:, 0]
    elif case.startswith("multiplied"):
        images = filtered(images, _PIXEL, ctf)
    else:
        return stack
    write_stack(folder / f"{len(case)}.mrcs", images.numpy(), _PIXEL)
    changed = ParticleStack.open(folder / f"{len(case)}.mrcs")
    said = (
        () if "not said" in case or "without" in case else (("phase_flipped" if "phases" in case else "premultiplied"),)
    )
    known = {name: getattr(stack.table, name) for name in ("ctf", "group", "rotation", "shift", "pixel_size")}
    changed.table = replace(changed.table, corrected=said, **known)
    return changed


def run(case: str, folder: Path) -> dict[str, Any]:
    """Match or refine the images of a case; errors in degrees."""
    import numpy as np

    from ...zoo.match import match, refine

    stack = _changed(case, folder)
    true = stack.poses
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = (refine if "given" in case else match)(stack, _map(case))
    trace = np.einsum("nij,nij->n", true.rotation, found.rotation)
    error = np.rad2deg(np.arccos(np.clip((trace - 1) / 2, -1, 1)))
    return {
        "case": case,
        "median_deg": float(np.median(error)),
        "within_5": float((error <= 5).mean()),
        "expected_deg": float(found.matches.error.median().rad2deg()),
        "agreement": found.fit.agreement,
        "agreement_error": found.fit.agreement_error,
        "pixel_size": found.fit.pixel_size,
        "pixel_size_error": found.fit.pixel_size_error,
        "said": [
            str(w.message).split(": ", 1)[-1] for w in caught if "map" in str(w.message) or "fit" in str(w.message)
        ],
    }


def measure(images: int = 200) -> dict[str, Any]:
    """All cases."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        _images(Path(name), images)
        rows = []
        for case in _CASES:
            rows.append(run(case, Path(name)))
            print(rows[-1], file=sys.stderr, flush=True)
    return {"rows": rows, "images": images, "seed": 0, **provenance()}


def table(figures: dict[str, Any]) -> str:
    """Markdown."""
    rows = [
        [
            row["case"],
            f"{row['median_deg']:.2f}",
            f"{100 * row['within_5']:.1f}",
            f"{row['expected_deg']:.2f}",
            f"{row['agreement']:.2f} +- {row['agreement_error']:.2f}",
            f"{row['pixel_size']:.3f} +- {row['pixel_size_error']:.3f}",
            "; ".join(row["said"]) or "-",
        ]
        for row in figures["rows"]
    ]
    header = ["case", "median deg", "% <= 5", "expected deg", "agreement", "pixel size found, A", "what is said"]
    return markdown_table(header, rows) + (
        f"\n{figures['images']} images of {_SIZE} pixels of {_PIXEL:g} A at SNR 0.1, seed 0. Commit "
        f"{figures['commit']}; {figures['hardware']}.\n"
    )


def main() -> None:
    """Measure, print, write."""
    write_figures("matching_mismatch", measure(*map(int, sys.argv[1:])))


if __name__ == "__main__":
    main()
