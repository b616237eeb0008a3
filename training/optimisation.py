"""Optimiser, learning rate and moving average of the weights, as a recipe has them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from .recipe import Recipe


def learning_rate(recipe: Recipe, step: int) -> float:
    """Learning rate of a step (0-based), by the recipe's schedule."""
    u = step / recipe.steps
    if recipe.schedule == "cosine":
        warm = min(1.0, (step + 1) / max(1.0, recipe.warmup * recipe.steps))
        return recipe.lr * warm * 0.5 * (1 + math.cos(math.pi * u))
    # Smith and Topin 2018, with cosine legs.
    if u < 0.3:
        low, high, v = recipe.lr / 25, recipe.lr, u / 0.3
    else:
        low, high, v = recipe.lr / 1e4, recipe.lr, 1 - (u - 0.3) / 0.7
    return high - (high - low) * 0.5 * (1 + math.cos(math.pi * v))


def make_optimizer(
    recipe: Recipe, parameters: Iterable[nn.Parameter], scales: Mapping[nn.Parameter, float] | None = None
) -> torch.optim.Optimizer:
    """The recipe's optimiser, of parameters in groups that have a ``scale`` of the learning rate, by default 1."""
    members: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        members.setdefault((scales or {}).get(parameter, 1.0), []).append(parameter)
    groups = [{"params": group, "scale": scale} for scale, group in members.items()]
    if recipe.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=recipe.lr, weight_decay=recipe.weight_decay)
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay)


@torch.no_grad()
def average(averaged: dict[str, Tensor], state: Mapping[str, Tensor], decay: float) -> None:
    """Move averaged weights towards those of a step, in place; counters are copied."""
    for name, tensor in state.items():
        if tensor.is_floating_point():
            averaged[name].lerp_(tensor, 1 - decay)
        else:
            averaged[name].copy_(tensor)
