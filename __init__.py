"""cryozoo: a model zoo of pose encoders for single-particle cryo-electron microscopy.

    import cryozoo

    encoder = cryozoo.load_pretrained("vgg_gem-qcqp_bingham.phantom_64")
    poses = encoder.predict("particles.star")
    poses.save("poses.star")

Encoders

    list_encoders         names of encoders, of those with trained weights with pretrained=True
    get_entry             what is known of a pretrained encoder, an Entry
    load_pretrained       an encoder with trained weights, by name or from a folder or the Hugging Face Hub
    create_encoder        an encoder of a backbone and a head, with random weights
    save_pretrained       writes an encoder with what is known of it, for load_pretrained
    push_to_hub           puts an encoder on the Hugging Face Hub
    export                writes an encoder as one file for PyTorch or ONNX Runtime, without cryozoo
    PoseEncoder           images to poses: predict, recover, features, with_head
    Entry                 facts of a pretrained encoder

Parts

    list_parts            names of the backbones, heads or losses
    create_loss           a loss by name
    register_backbone     adds a backbone of yours
    register_head         adds a head of yours
    register_loss         adds a loss of yours
    register_decoder      adds a decoder of yours
    LossOutput            what a loss says of each image

Poses and particles

    Pose                  rotation, shift, confidence and raw vector of images, as tensors
    PoseTable             poses in and out of .star, .cs, .pkl and .npz
    ParticleStack         particle images and what their file says of them
    CTF                   parameters of the contrast transfer function of images
    evaluate              metrics of an encoder on prepared images whose poses are known
    pose_metrics          metrics of poses against true ones
    match                 poses of particles against a map, by maximum likelihood
    refine                poses against a map, from those there are
    abinitio              poses and a map from images alone
    recover_orientations  orientations from pairwise distances
    reconstruct           a density map from particles and poses

Simulation

    Volume                a density map: from a file, from atoms, or a phantom
    Projector             projections of a volume, with gradients
    Imaging               how images are made: SNR, shifts, defocus
    Simulator             images of a volume at random or given poses
    Batch                 images with their poses and CTF

Training

    train                 trains an encoder by a Recipe
    Recipe                what is trained, on what, and how
    recipe_from_map       a Recipe for the molecule of a map, and for images like those of a table
    Simulated             data made on the fly from a volume
    Recorded              data of particles with known poses
    Objective             what is optimised: a loss of poses, and of shifts

help(cryozoo.load_pretrained) says more of one. The same at the shell: cryozoo --help.
"""

if __name__ != "cryozoo":
    raise ImportError(
        f"the repository root is the package 'cryozoo' and was imported as {__name__!r}; "
        "install it (pip install -e .) and import cryozoo"
    )

from sys import _getframe
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

if _TYPE_CHECKING:
    from .geometry.pose import Pose as Pose
    from .imaging.batch import Batch as Batch
    from .imaging.projector import Projector as Projector
    from .imaging.reconstruct import reconstruct as reconstruct
    from .imaging.simulate import Imaging as Imaging
    from .imaging.simulate import Simulator as Simulator
    from .imaging.volumes import Volume as Volume
    from .losses.base import LossOutput as LossOutput
    from .particles.ctf import CTF as CTF
    from .particles.poses import PoseTable as PoseTable
    from .particles.stack import ParticleStack as ParticleStack
    from .recovery.orientations import recover_orientations as recover_orientations
    from .training.data import Recorded as Recorded
    from .training.data import Simulated as Simulated
    from .training.from_map import recipe_from_map as recipe_from_map
    from .training.objective import Objective as Objective
    from .training.recipe import Recipe as Recipe
    from .training.trainer import train as train
    from .zoo.ab_initio import abinitio as abinitio
    from .zoo.encoder import PoseEncoder as PoseEncoder
    from .zoo.encoder import create_encoder as create_encoder
    from .zoo.entries import get_entry as get_entry
    from .zoo.entries import list_encoders as list_encoders
    from .zoo.entry import Entry as Entry
    from .zoo.evaluate import evaluate as evaluate
    from .zoo.evaluate import pose_metrics as pose_metrics
    from .zoo.export import export as export
    from .zoo.loss import create_loss as create_loss
    from .zoo.match import match as match
    from .zoo.match import refine as refine
    from .zoo.pretrained import load_pretrained as load_pretrained
    from .zoo.pretrained import save_pretrained as save_pretrained
    from .zoo.publish import push_to_hub as push_to_hub
    from .zoo.registry import list_parts as list_parts
    from .zoo.registry import register_backbone as register_backbone
    from .zoo.registry import register_decoder as register_decoder
    from .zoo.registry import register_head as register_head
    from .zoo.registry import register_loss as register_loss

__version__ = "0.1.0"

# Imported when they are first asked for, so that listing and --help need no torch. The imports above say the same to
# editors and type checkers.
_HOMES = {
    "Batch": "imaging.batch",
    "CTF": "particles.ctf",
    "Entry": "zoo.entry",
    "Imaging": "imaging.simulate",
    "LossOutput": "losses.base",
    "Objective": "training.objective",
    "ParticleStack": "particles.stack",
    "Pose": "geometry.pose",
    "PoseEncoder": "zoo.encoder",
    "PoseTable": "particles.poses",
    "Projector": "imaging.projector",
    "Recipe": "training.recipe",
    "Recorded": "training.data",
    "Simulated": "training.data",
    "Simulator": "imaging.simulate",
    "Volume": "imaging.volumes",
    "abinitio": "zoo.ab_initio",
    "create_encoder": "zoo.encoder",
    "create_loss": "zoo.loss",
    "evaluate": "zoo.evaluate",
    "export": "zoo.export",
    "get_entry": "zoo.entries",
    "list_encoders": "zoo.entries",
    "list_parts": "zoo.registry",
    "load_pretrained": "zoo.pretrained",
    "match": "zoo.match",
    "pose_metrics": "zoo.evaluate",
    "reconstruct": "imaging.reconstruct",
    "recipe_from_map": "training.from_map",
    "recover_orientations": "recovery.orientations",
    "refine": "zoo.match",
    "register_backbone": "zoo.registry",
    "register_decoder": "zoo.registry",
    "register_head": "zoo.registry",
    "register_loss": "zoo.registry",
    "save_pretrained": "zoo.pretrained",
    "push_to_hub": "zoo.publish",
    "train": "training.trainer",
}


def __getattr__(name: str) -> _Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cryozoo' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"cryozoo.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    here = {name for name in globals() if not name.startswith("_") or name.startswith("__")}
    # help() imports, through inspect, all that is listed, and shows none of it; the docstring has the names.
    asked_by_help = _getframe(1).f_globals.get("__name__") == "inspect"
    return sorted(here if asked_by_help else here | _HOMES.keys())
