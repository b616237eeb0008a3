"""The verbs of the command line, one file each; they import nothing heavy before they run."""

from ._common import Settings
from .catalogue import info, list_
from .convert import convert
from .demo import demo
from .doctor import doctor
from .evaluate import evaluate
from .export import export
from .fsc import fsc
from .predict import predict
from .reconstruct import reconstruct
from .recover import recover
from .simulate import simulate
from .train import train
from .verify import verify

VERBS = (
    list_,
    info,
    demo,
    simulate,
    convert,
    train,
    predict,
    recover,
    evaluate,
    reconstruct,
    fsc,
    export,
    doctor,
    verify,
)

__all__ = ["VERBS", "Settings"]
