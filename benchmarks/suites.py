"""The suites: what is trained to answer which question. A suite is a function from nothing to named recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..imaging.simulate import Imaging
from ..training.data import Simulated
from ..training.recipe import Recipe

RIBOSOME = Simulated("maps/clean70S_ecoli_65.mrc", Imaging(shift_sigma=10.0))
"""E. coli 70S, 5 A per voxel; shifts of 2 pixels standard deviation along x and y, no CTF."""


def at_snr(data: Simulated, snr: float, **changes: Any) -> Simulated:
    """The same particles in noise."""
    return replace(data, imaging=replace(data.imaging, snr=snr), **changes)


LOSSES: dict[str, tuple[str, dict[str, Any]]] = {
    "l1": ("chordal", {"norm": "l1"}),
    "nll": ("bingham_nll", {}),
}


def _heads_run(head: str, loss: str, snr: float, seed: int, steps: int = 13_000) -> Recipe:
    name, loss_args = LOSSES[loss]
    return Recipe(
        encoder=f"vgg_gem_s-{head}",
        image_size=64,
        data=at_snr(RIBOSOME, snr),
        loss=name,
        loss_args=loss_args,
        steps=steps,
        batch_size=64,
        lr=3e-3,
        precision="bf16",
        validate_every=1000,
        seed=seed,
    )


def heads_70s() -> Mapping[str, Recipe]:
    """Which rotation head learns best in 1,800 CPU seconds? Ribosome, 64 px, particles simulated on the fly.

    Every head with the same loss, and those that describe a density also with its likelihood; the best two at a fifth
    of the SNR and with three seeds; one in a third of the time.
    """
    settings = [("qcqp_bingham", "nll"), *((head, "l1") for head in ("sixd_svd", "nined_svd", "sixd_gs"))]
    settings += [("quaternion", "l1"), ("qcqp_bingham", "l1"), ("nined_svd", "nll")]
    runs = {f"{head}-{loss}-snr0.5-seed0": _heads_run(head, loss, 0.5, 0) for head, loss in settings}
    runs["qcqp_bingham-nll-snr0.5-seed0-short"] = _heads_run("qcqp_bingham", "nll", 0.5, 0, steps=4_000)
    for head, loss in (("nined_svd", "nll"), ("qcqp_bingham", "nll")):
        for snr in (0.1, 0.5):
            runs |= {f"{head}-{loss}-snr{snr}-seed{seed}": _heads_run(head, loss, snr, seed) for seed in (0, 1, 2)}
    return runs


def forum_70s() -> Mapping[str, Recipe]:
    """Cryo-forum's protocol, scaled to 1,500 CPU seconds: does its ordering of heads and losses hold?

    5,000 fixed images without shifts at SNR 0.1, half of them for training, dropout 0.3, Adam with L2, one-cycle;
    theirs is 128 px with 20 M parameters and 63,101 pairs in each of 50 epochs (benchmarks/gpu).
    """
    losses = {"regression": ("geodesic", {}), "siamese": ("forum", {"pairs": "all"})}
    return {
        f"{head}-{label}-seed0": Recipe(
            encoder=f"vgg_gem_s-{head}",
            image_size=64,
            backbone_args={"dropout": 0.3},
            data=Simulated(RIBOSOME.volume, Imaging(snr=0.1), images=5000),
            shift=False,
            loss=loss,
            loss_args=loss_args,
            optimizer="adam",
            weight_decay=1e-3,
            schedule="onecycle",
            lr=1e-3,
            steps=8_000,
            precision="bf16",
            validate_every=1000,
        )
        for head in ("quaternion", "sixd_gs", "qcqp_bingham")
        for label, (loss, loss_args) in losses.items()
    }


NETWORKS = {
    "d4": ("d4_vgg_gem_s", 7_500),
    "c4": ("c4_vgg_gem_s", 7_500),
    "c4_same_parameters": ("c4_vgg_gem_xs", 9_500),
    "plain_same_flops": ("vgg_gem_m", 9_500),
    "plain_same_parameters": ("vgg_gem_xs", 20_000),
}
"""Backbones, and how many steps of 64 images each makes in 1,200 CPU seconds. D4 and C4 have as many channels as each
other, hence the same cost; the others match D4's cost or parameters."""


def equivariant_70s() -> Mapping[str, Recipe]:
    """What is equivariance worth in 1,200 CPU seconds? Plain, C4 and D4, at equal parameters and at equal FLOPs.

    Ribosome, 64 px, SNR 0.5, particles simulated on the fly, so that all in-plane angles occur; three seeds.
    """
    heads = [("sixd_svd", "chordal", {"norm": "l1"}), ("qcqp_bingham", "bingham_nll", {})]
    runs = {
        f"{label}-{head}-seed{seed}": _network_run(label, head, loss, loss_args, seed)
        for seed in (0, 1, 2)
        for head, loss, loss_args in heads
        for label in NETWORKS
    }
    runs |= {f"d4-so3_harmonic-seed{seed}": _density_run(seed) for seed in (0, 1, 2)}
    return runs


def _density_run(seed: int) -> Recipe:
    """D4 with a density over rotations; the sums of its loss take a quarter of the time."""
    run = _network_run("d4", "so3_harmonic", "so3_nll", {"order": 2}, seed)
    return replace(run, steps=5_000)


def _network_run(network: str, head: str, loss: str, loss_args: dict[str, Any], seed: int) -> Recipe:
    backbone, steps = NETWORKS[network]
    return Recipe(
        encoder=f"{backbone}-{head}",
        image_size=64,
        data=at_snr(RIBOSOME, 0.5),
        loss=loss,
        loss_args=loss_args,
        steps=steps,
        lr=3e-3,
        precision="bf16",
        validate_every=500,
        seed=seed,
    )


def ctf_70s() -> Mapping[str, Recipe]:
    """What is flipping the phases worth in 1,200 CPU seconds, and what does training for all conditions cost?

    On a processor without bfloat16, of which a step takes a second. D4 with a density over rotations, ribosome, 64 px,
    defocus 1 to 3 um, three seeds. ``none`` and ``phase_flip`` at SNR 0.1; ``robust`` with phases flipped, SNR 0.05 to
    2 and noise from white to 1/k; ``robust_junk`` with a twentieth of images of noise alone besides.
    """
    fixed = Imaging(snr=0.1, shift_sigma=10.0, defocus=(10_000.0, 30_000.0))
    robust = replace(fixed, snr=(0.05, 2.0), noise_slope=1.0)
    volume = RIBOSOME.volume
    kinds = {
        "none": Simulated(volume, fixed),
        "phase_flip": Simulated(volume, fixed, ctf="phase_flip"),
        "robust": Simulated(volume, robust, ctf="phase_flip"),
        "robust_junk": Simulated(volume, robust, ctf="phase_flip", junk=0.05),
    }
    return {
        f"{label}-seed{seed}": replace(
            _density_run(seed),
            data=data,
            steps=1_200,
            precision="fp32",
            validate_every=300,
        )
        for seed in (0, 1, 2)
        for label, data in kinds.items()
    }


def small_data_70s() -> Mapping[str, Recipe]:
    """How many images does it take? 300, 1,000 and 2,500 fixed ones, plain with turned and flipped images, and D4."""
    return {
        f"{label}-{images}-seed{seed}": Recipe(
            encoder=f"{backbone}-qcqp_bingham",
            image_size=64,
            # 500 particles validate and 1,500 test, whatever the number of those that train
            data=at_snr(
                RIBOSOME,
                0.5,
                images=images + 2000,
                split=(images / (images + 2000), 500 / (images + 2000)),
                augment=augment,
            ),
            loss="bingham_nll",
            steps=4_000,
            lr=3e-3,
            weight_decay=0.05,
            precision="bf16",
            validate_every=250,
            seed=seed,
        )
        for seed in (0, 1, 2)
        for images in (300, 1000, 2500)
        for label, backbone, augment in (
            ("plain", "vgg_gem_m", "rotate"),
            ("d4", "d4_vgg_gem_s", "none"),
            ("d4_rotated", "d4_vgg_gem_s", "rotate"),
        )
    }


def modes_d2() -> Mapping[str, Recipe]:
    """Does a density over rotations show a symmetry that nobody told it of? beta-galactosidase (D2), 600 CPU seconds.

    Angles to the truth, of which there are four, say nothing here: see benchmarks/studies/modes.py.
    """
    data = Simulated("structures/5a1a.npz", Imaging(snr=0.5, shift_sigma=8.0))
    return {"d4-so3_harmonic-seed0": replace(_density_run(seed=0), data=data, pixel_size=4.0, steps=3_000)}


MOLECULES: dict[str, tuple[Simulated, float]] = {
    "5j0n": (Simulated("maps/5j0n_map.mrc", images=5000), 76 * 3.66667 / 64),
    "5a1a": (Simulated("structures/5a1a.npz", symmetry="D2", images=5000), 4.0),
}
CONDITIONS: dict[str, Imaging] = {"clean": Imaging(), "noisy": Imaging(snr=10**-1.2, shift_sigma=8.0)}
"""How the images of ``maps`` come about. Noisy is -12 dB, the published noise of variance 16."""


@dataclass(frozen=True)
class _DistanceEncoder:
    """An encoder to learn distances, and how; an equivariant one with rotations knows of symmetry by itself.

    With ``noise_ramp`` from new images at every step, whose noise grows over so many steps.
    """

    encoder: str
    pairs: Mapping[str, Any]
    augment: Literal["none", "rotate", "simulate"]
    lr: float
    steps: int
    restricted: bool
    noise_ramp: int = 0


_STRATIFIED = {"pairs": "stratified", "num_pairs": 512}
_DISTANCES = {
    "siamese_cnn": _DistanceEncoder("siamese_cnn-embedding", {"pairs": "all"}, "none", 1e-3, 11_000, True),
    "d4": _DistanceEncoder("d4_vgg_gem_s-embedding", _STRATIFIED, "rotate", 3e-3, 4_000, True),
    "d4_rotation": _DistanceEncoder("d4_vgg_gem_s-sixd_svd", _STRATIFIED, "rotate", 3e-3, 4_000, False),
}
_NEW_IMAGES: dict[str, Any] = {
    "pairs": {**_STRATIFIED, "num_pairs": 2048},
    "augment": "simulate",
    "steps": 15_000,
    "noise_ramp": 5_000,
}
_FROM_NEW_IMAGES = {f"{label}_new_images": replace(_DISTANCES[label], **_NEW_IMAGES) for label in ("d4", "d4_rotation")}


def maps() -> Mapping[str, Recipe]:
    """What maps come from distances? Banjac et al. (2021): 5,000 images, 1,650 of them the test; 2,400 CPU seconds.

    ``siamese_cnn`` is their network, and has all that time; their images are 76 and 116 pixels across. Noisy is -12 dB,
    and shifted; there 2,500 images are too few, and further runs learn from new ones at every step, for all the time.
    Then ``python -m cryozoo.benchmarks maps RUN``.
    """
    runs = {}
    for molecule, (data, pixel_size) in MOLECULES.items():
        for condition, imaging in CONDITIONS.items():
            noisy = imaging.snr is not None
            for label, network in (_DISTANCES | _FROM_NEW_IMAGES if noisy else _DISTANCES).items():
                symmetric = data.symmetry != "C1"
                if network.noise_ramp and symmetric and not network.restricted:
                    continue  # learns no distances between symmetric views without noise either
                restricted = {"restricted": True} if symmetric and network.restricted else {}
                runs[f"{molecule}-{condition}-{label}"] = Recipe(
                    encoder=network.encoder,
                    image_size=64,
                    pixel_size=pixel_size,
                    data=replace(data, imaging=imaging, augment=network.augment, noise_ramp=network.noise_ramp),
                    shift=noisy,
                    shift_scale=10.0 if noisy else None,
                    loss="siamese_distance",
                    loss_args={**network.pairs, **restricted},
                    steps=network.steps,
                    lr=network.lr,
                    weight_decay=0.05,
                    precision="bf16",
                    validate_every=500,
                )
    return runs


SUITES: dict[str, Callable[[], Mapping[str, Recipe]]] = {
    "heads_70s": heads_70s,
    "forum_70s": forum_70s,
    "equivariant_70s": equivariant_70s,
    "ctf_70s": ctf_70s,
    "small_data_70s": small_data_70s,
    "modes_d2": modes_d2,
    "maps": maps,
}
