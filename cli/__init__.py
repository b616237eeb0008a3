"""The command line: one verb a file, nothing but arguments and printing; the work is done by the folders below.

A new verb is one file here and one name in ``VERBS``. It imports what is heavy inside of its function, so that
``cryozoo --help`` needs no torch.
"""

from .. import __version__ as __version__  # fails loudly when this folder is imported as a top-level package
from .abinitio import abinitio
from .align_symmetry import align_symmetry
from .benchmark import benchmark
from .catalogue import info, list_
from .common import Settings
from .convert import convert
from .demo import demo
from .doctor import doctor
from .evaluate import evaluate
from .export import export
from .finetune import finetune
from .fsc import fsc
from .leaderboard import leaderboard
from .match import match
from .predict import predict
from .publish import publish
from .reconstruct import reconstruct
from .recover import recover
from .refine import refine
from .simulate import simulate
from .submit import submit
from .train import train
from .verify import verify

VERBS = (
    list_,
    info,
    demo,
    simulate,
    convert,
    train,
    finetune,
    predict,
    match,
    refine,
    abinitio,
    recover,
    evaluate,
    reconstruct,
    fsc,
    align_symmetry,
    benchmark,
    leaderboard,
    submit,
    publish,
    export,
    doctor,
    verify,
)

__all__ = ["VERBS", "Settings"]
