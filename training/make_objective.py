"""The objective that a recipe asks for."""

from __future__ import annotations

from ..losses.reconstruction import Reconstruction
from ..particles.errors import BadInput
from ..zoo.encoder import PoseEncoder
from ..zoo.loss import create_loss
from ..zoo.parts import make_part
from .ab_initio import AbInitio
from .objective import Distances, Objective, Supervised
from .recipe import Recipe


def make_objective(recipe: Recipe, encoder: PoseEncoder) -> Objective:
    """The objective of a recipe's loss; the decoder of one that has any is made here.

    Raises:
        BadInput: the encoder gives no rotation for a loss that needs one.
        BadArguments: the loss does not take ``loss_args``.
        PartError: the loss itself fails.
    """
    args = dict(recipe.loss_args)
    if recipe.data.symmetry != "C1" and not recipe.is_ab_initio:
        args.setdefault("symmetry", recipe.data.symmetry)
    loss = create_loss(recipe.loss, **args)
    if isinstance(loss, Reconstruction):
        return AbInitio(
            make_part("decoder", recipe.decoder, recipe.image_size, **recipe.decoder_args),
            loss,
            encoder.preprocessing.pixel_size,
            own_lr=recipe.decoder_lr,
            flipped=encoder.preprocessing.ctf == "phase_flip",
            symmetry=recipe.data.symmetry,
        )
    if not (loss.frame_is_open or encoder.head.has_rotation):
        hint = "loss siamese_distance learns distances"
        raise BadInput(recipe.source, f"{recipe.encoder} gives no rotation", where="field loss", hint=hint)
    kind = Distances if loss.frame_is_open else Supervised
    if not recipe.shift:
        return kind(loss, symmetry=recipe.data.symmetry)
    # Shifts count in units of the last layer, and no more than rotations do.
    scale = encoder.shift_scale if recipe.shift_scale is None else recipe.shift_scale
    return kind(loss, symmetry=recipe.data.symmetry, shift_weight=recipe.shift_weight, shift_scale=scale)
