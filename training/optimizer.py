"""What changes the weights at each step: the optimizer and its rate, as a recipe asks for them."""

import math
from collections.abc import Callable

import torch
from torch import nn

from training.muon import Muon
from training.recipes import Recipe


def make_optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """Build the recipe's optimizer, fused where PyTorch has it so: one pass over all weights, on CPUs too."""
    parameters = network.parameters()
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "muon":
        return Muon(parameters, rate, recipe.rest_rate, recipe.momentum, decay)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, rate, momentum=recipe.momentum, weight_decay=decay, fused=True)
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, rate, weight_decay=decay, fused=True)


def rate_curve(recipe: Recipe, steps: int) -> Callable[[int], float]:
    """Give the factor on the learning rate as a function of the step, from 0 to `steps`."""
    warmup = recipe.warmup * steps

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if not recipe.cosine:
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))

    return factor
