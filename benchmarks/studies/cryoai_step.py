"""What a training step costs in cryoAI's published code, and here with the same encoder and decoder, or another.

    python -m cryozoo.benchmarks.studies.cryoai_step FOLDER

FOLDER is a checkout of github.com/compSPI/cryoAI. 32 images of 64 pixels, the symmetric loss, so 64 passes of the
encoder and 64 slices; CTF and shifts; forward, backward and Adam's step, one after the other in one process. Of
pytorch3d, which its encoder wants for one function, that function is given, and what it sends to a GPU stays. Prints a
table and writes it to ``results/cryoai_step.json`` and ``.md``. On one thread.
"""

from __future__ import annotations

import statistics
import sys
import time
import types
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ...zoo.provenance import provenance
from ..runs import markdown_table, middle
from .figures import write_figures

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...particles.ctf import CTF

BATCH = 32
_SIZE, _PIXEL, _ROUNDS = 64, 5.0, 5
OURS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "cryoai_cnn, fouriernet": ("cryoai_cnn-sixd_gs", {}, "reconstruction_symmetric", "fouriernet"),
    "cryoai_cnn, hartley_grid": ("cryoai_cnn-sixd_gs", {}, "reconstruction_symmetric", "hartley_grid"),
    "d4_vgg_gem_s, L2, hartley_grid": ("d4_vgg_gem_s-sixd_svd", {}, "reconstruction_l2", "hartley_grid"),
}


def published(folder: str) -> tuple[nn.Module, Callable[[dict[str, Tensor]], None]]:
    """The model of the published code, and a step of a :func:`batch_of`, with the settings that its training has."""
    import torch

    from ...heads.sixd import SixDGramSchmidt

    if find_spec("pytorch3d") is None:
        transforms = types.ModuleType("pytorch3d.transforms")
        vars(transforms).update(
            rotation_6d_to_matrix=lambda x: SixDGramSchmidt()(x).rotation,
            euler_angles_to_matrix=None,
            matrix_to_euler_angles=None,
            quaternion_to_matrix=None,
        )
        package = types.ModuleType("pytorch3d")
        vars(package)["transforms"] = transforms
        sys.modules |= {"pytorch3d": package, "pytorch3d.transforms": transforms}
    if not torch.cuda.is_available():
        torch.Tensor.cuda = lambda tensor: tensor  # type: ignore[assignment, method-assign, misc]
    sys.path.insert(0, folder)
    model_class = import_module("src.cryoai").CryoAI
    loss_factory = import_module("src.loss_utils").loss_factory

    config = Namespace(
        side_len=_SIZE,
        side_len_input_output_ratio=1,
        use_frequency_marcher=0,
        volume_representation="imp-fourier",
        implicit_representation_type="fouriernet",
        force_symmetry=0,
        map_shape=[_SIZE] * 3,
        gaussian_pyramid=1,
        num_octaves=4,
        encoder_type="vgg16",
        encoder_batch_norm=1,
        flip_images=1,
        so3_parameterization="s2s2",
        pose_estimation="encoder",
        regressor_orientation_layers=[512, 256],
        regressor_shift_layers=[512, 256],
        use_shift="encoder",
        use_ctf="gt",
        ctf_size=_SIZE,
        resolution=_PIXEL,
        kV=300.0,
        ctf_valueNyquist=0.001,
        spherical_abberation=2.7,
        amplitude_contrast=0.1,
        num_particles=BATCH,
        ctf_precompute=0,
        data_loss_domain="primal",
        data_loss_norm="symloss",
        use_masked_loss=0,
        mask_rad_loss=0.75,
        compute_proj=1,
        use_contrastive_loss=0,
        TV_fourier_reg_weight=0,
        TV_primal_reg_weight=0,
    )
    model, losses = model_class(config), loss_factory(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step(batch: dict[str, Tensor]) -> None:
        optimizer.zero_grad()
        output = model(dict(batch))
        sum(loss(output) for loss in losses.values()).backward()
        optimizer.step()

    return model, step


def batch_of(images: Tensor, ctf: CTF) -> dict[str, Tensor]:
    """Images (B, 1, L, L) as the published code wants them."""
    import torch

    columns = {"defocusU": ctf.defocus_u, "defocusV": ctf.defocus_v, "angleAstigmatism": ctf.defocus_angle.deg2rad()}
    return {
        "proj_input": images,
        "fproj": torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(images, (-2, -1)), dim=(-2, -1)), (-2, -1)),
        "idx": torch.arange(len(images)),
        "rotmat": torch.eye(3).repeat(len(images), 1, 1),
        **{name: values.float()[:, None, None] for name, values in columns.items()},
    }


def ours(encoder: str, args: dict[str, Any], loss: str, decoder: str) -> Callable[[], None]:
    """A step of this package."""
    import torch

    from ...geometry.pose import Pose
    from ...imaging.batch import Batch
    from ...particles.ctf import make_ctf
    from ...training.ab_initio import AbInitio
    from ...zoo.encoder import create_encoder
    from ...zoo.loss import create_loss
    from ...zoo.parts import make_part

    network = create_encoder(encoder, image_size=_SIZE, pixel_size=_PIXEL, backbone_args=args, shift=True).train()
    compared: Any = create_loss(loss)
    objective = AbInitio(make_part("decoder", decoder, _SIZE), compared, _PIXEL)
    optimizer = torch.optim.Adam([*network.parameters(), *objective.parameters()], lr=1e-4)
    batch = Batch(torch.randn(BATCH, 1, _SIZE, _SIZE), Pose(), make_ctf(BATCH, defocus_u=15_000.0))

    def step() -> None:
        optimizer.zero_grad()
        objective(network, batch, 1.0).total.backward()
        optimizer.step()

    return step


def measure(folder: str) -> dict[str, Any]:
    """Rounds of one step each, after one that does not count."""
    import torch

    from ...particles.ctf import make_ctf

    torch.set_num_threads(1)
    torch.manual_seed(0)
    here = provenance()
    _, theirs = published(folder)
    random = batch_of(torch.randn(BATCH, 1, _SIZE, _SIZE), make_ctf(BATCH, defocus_u=15_000.0))
    steps: dict[str, Callable[[], None]] = {"cryoAI, published": partial(theirs, random)}
    steps |= {name: ours(*design) for name, design in OURS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(1 + _ROUNDS):
        for name, step in steps.items():
            began = time.process_time()
            step()
            seconds[name].append(time.process_time() - began)
    figures = {"cpu_s": {name: times[1:] for name, times in seconds.items()}, **here}
    write_figures("cryoai_step", figures)
    return figures


def table(figures: dict[str, Any]) -> str:
    """Markdown; medians (lowest to highest), and ratios of medians."""
    theirs = statistics.median(figures["cpu_s"]["cryoAI, published"])
    rows = []
    for name, times in figures["cpu_s"].items():
        rows.append([name, middle(times), f"{theirs / statistics.median(times):.1f}"])
    where = f"Commit {figures['commit']}; {figures['hardware']}."
    return (
        f"{markdown_table(['code', 'CPU seconds of a step', 'times as fast'], rows)}\n{BATCH} images of {_SIZE} "
        f"pixels with CTF and shifts; encoders see every image twice, but the last. {where}\n"
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m cryozoo.benchmarks.studies.cryoai_step FOLDER")
    measure(sys.argv[1])
