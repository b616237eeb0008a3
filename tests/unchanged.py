"""What must not change when code moves: python tests/unchanged.py [--against OLD.json] OUT.json

Trains, predicts, recovers and reconstructs a little of everything through the public names alone, and writes digests of
what comes out. Two commits agree if their files do, on one machine, with one version of torch and one thread; where
only the order of a sum changed, the first losses still agree to rounding.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

import cryozoo
from cryozoo.geometry.sampling import random_rotations
from cryozoo.particles.files import write_json
from cryozoo.particles.stack import ParticleStack

_SMALL = {"channels": [8, 16, 32], "depths": [1, 1, 1], "kernels": [5, 3, 3], "stem": "none", "dropout": 0.1}
_SMALL_D4 = {"fields": [2, 4, 8], "depths": [1, 1, 1], "kernels": [5, 3, 3], "stem": "none"}
_COMMON: dict[str, Any] = {"image_size": 48, "batch_size": 24, "lr": 3e-3, "validate_every": 30}
_PHANTOM = {"volume": "phantom:1", "snr": 0.5}
_NETWORK: dict[str, Any] = {"encoder": "vgg_gem-qcqp_bingham", "backbone_args": _SMALL}
_NETWORK_D4: dict[str, Any] = {"backbone_args": _SMALL_D4}

RECIPES: dict[str, dict[str, Any]] = {
    "on the fly, CTF and shifts": {
        **_COMMON,
        **_NETWORK,
        "data": {**_PHANTOM, "shift_sigma": 8.0, "defocus": [1e4, 3e4], "held_out": 128},
        "loss": "bingham_nll",
        "ema": 0.9,
    },
    "fixed set, rotated": {
        **_COMMON,
        **_NETWORK,
        "data": {**_PHANTOM, "images": 400, "symmetry": "C2", "augment": "rotate"},
        "loss": "forum",
        "loss_args": {"pairs": "random"},
        "shift": False,
        "optimizer": "adam",
        "schedule": "onecycle",
    },
    "distances of embeddings": {
        **_COMMON,
        "encoder": "d4_vgg_gem-embedding",
        **_NETWORK_D4,
        "data": {**_PHANTOM, "shift_sigma": 8.0, "images": 400, "augment": "d4"},
        "loss": "siamese_distance",
        "loss_args": {"pairs": "stratified", "num_pairs": 100},
        "shift_scale": 10.0,
    },
    "density on D4": {
        **_COMMON,
        "encoder": "d4_vgg_gem-so3_harmonic",
        **_NETWORK_D4,
        "head_args": {"lmax": 4},
        "data": {**_PHANTOM, "held_out": 128},
        "loss": "so3_nll",
        "loss_args": {"order": 1},
        "precision": "bf16",
    },
}
STACKS: dict[str, dict[str, Any]] = {
    "aspire_sample17/sample_particles_relion31.star": {},
    "cryodrgn_relion31_5/relion31.star": {},
    "cryodrgn_empiar10076_7/empiar_10076_7.star": {},
}
ENCODER = "vgg_gem-qcqp_bingham.phantom_64"


def digest(*arrays: Any) -> str:
    """Of the bytes of arrays and tensors, None among them."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(b"-" if array is None else np.ascontiguousarray(np.asarray(array)).tobytes())
    return found.hexdigest()


def trainings() -> Iterator[tuple[str, Any]]:
    """Weights after 60 steps, the metrics, and the first ten losses."""
    for name, fields in RECIPES.items():
        result = cryozoo.train(cryozoo.Recipe.from_dict({**fields, "steps": 60}))
        state = result.encoder.state_dict()
        yield f"weights: {name}", digest(*(state[key] for key in sorted(state)))
        errors = {key: value for key, value in result.metrics.items() if key.endswith(("_deg", "_A"))}
        yield f"metrics: {name}", errors
        short = cryozoo.train(cryozoo.Recipe.from_dict({**fields, "steps": 10, "validate_every": 1}))
        yield f"losses: {name}", [row["loss"] for row in short.history]


def predictions() -> Iterator[tuple[str, Any]]:
    """Poses of noise and of real stacks, by the embedded encoder."""
    encoder = cryozoo.load_pretrained(ENCODER)
    noise = torch.randn(16, 64, 64, generator=torch.Generator().manual_seed(7))
    poses = encoder.predict(noise)
    yield "poses: noise", digest(poses.rotation, poses.shift, poses.confidence)
    folder = Path(os.environ["CRYOZOO_DATA"]) / "particles"
    for name, how in STACKS.items():
        poses = encoder.predict(folder / name, **how)
        yield f"poses: {name}", digest(poses.rotation, poses.shift, poses.confidence)


def recoveries() -> Iterator[tuple[str, Any]]:
    """Orientations from distances that are noisy, that saturate, and of which a third is wrong."""
    generator = torch.Generator().manual_seed(3)
    vectors = torch.nn.functional.normalize(torch.randn(120, 4, generator=generator, dtype=torch.float64), dim=1)
    exact = 2 * torch.arccos((vectors @ vectors.T).abs().clamp_max(1)).fill_diagonal_(0)
    noise = torch.randn(120, 120, generator=generator, dtype=torch.float64) * 0.3
    noise = (noise + noise.T) / 2**0.5
    wrong = torch.rand(120, 120, generator=generator, dtype=torch.float64).triu(1)
    anything = torch.pi * torch.rand(120, 120, generator=generator, dtype=torch.float64)
    matrices = {
        "noisy": (exact + noise).clamp(0, torch.pi),
        "saturating": (2 * torch.tanh((exact + noise / 3) / 2)).clamp(0, torch.pi),
        "a third wrong": torch.where((wrong + wrong.T) > 2 / 3, (anything + anything.T) / 2, exact + noise / 3),
    }
    for name, matrix in matrices.items():
        found = cryozoo.recover_orientations(matrix.clamp(0, torch.pi).fill_diagonal_(0).float(), seed=0)
        yield f"recovered: {name}", digest(found.quaternions)


def reconstructions() -> Iterator[tuple[str, Any]]:
    """A map of simulated particles with CTF and shifts, and the files it was made from."""
    with tempfile.TemporaryDirectory() as scratch:
        stack = Path(scratch) / "stack.mrcs"
        words = f"simulate --volume phantom:2 -n 300 --size 40 --pixel-size 6 --snr 1 --shift-sigma 6 -o {stack}"
        _cryozoo([*words.split(), "--defocus", "10000", "25000"])
        yield "simulated images", hashlib.sha256(stack.read_bytes()).hexdigest()
        yield "simulated table", hashlib.sha256(stack.with_suffix(".star").read_bytes()).hexdigest()
        made = cryozoo.reconstruct(ParticleStack.open(stack.with_suffix(".star")), symmetry="C2")
        yield "map", digest(made.map.data, made.half_maps[0].data, made.fsc)


def _cryozoo(words: list[str]) -> None:
    subprocess.run([sys.executable, "-m", "cryozoo", *words], check=True, capture_output=True)


def difference(name: str, old: Any, new: Any) -> str | None:
    """What to say of two values that differ; None where they are the same."""
    if old == new:
        return None
    if name.startswith("losses") and isinstance(old, list):
        apart = max(abs(a - b) / max(1.0, abs(a)) for a, b in zip(old, new, strict=True))
        return f"{name}: the first {len(old)} differ by at most {apart:.1e}"
    return f"{name}: {old} before, {new} now"


def random_state() -> str:
    """Digest of what torch's generator and the sampler of rotations give: the same, or nothing else can be."""
    return digest(random_rotations(8, generator=torch.Generator().manual_seed(0)))


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--against", type=click.Path(exists=True, path_type=Path), help="What another commit wrote.")
def main(out: Path, against: Path | None) -> None:
    """Write digests to OUT; say what differs from those of another commit, and exit with 1 where something does."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {"random rotations": random_state()}
    for part in (recoveries, predictions, reconstructions, trainings):
        for name, value in part():
            click.echo(f"{name}: {value if not isinstance(value, list) else value[-1]}")
            found[name] = value
    write_json(out, found, overwrite=True)
    if against is not None:
        old = json.loads(against.read_text())
        lines = [line for name in old if (line := difference(name, old[name], found.get(name)))]
        click.echo("\n".join(lines) or "nothing differs")
        sys.exit(bool(lines))


if __name__ == "__main__":
    main()
