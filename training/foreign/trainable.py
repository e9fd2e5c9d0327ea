"""A library's network is trained on images of one's own: `--network torchvision:resnet18`, with weights or without."""

import torch
from torch import nn

from ..errors import ModuleError
from ..fine_tune import Start, head_of
from ..preprocessing import Preprocessing
from ..recipes import Recipe
from . import weights
from .arguments import Foreign
from .steps import rule_of, source_of


def prepare(wanted: Foreign) -> tuple[Recipe, Start | None]:
    """Give the recipe of a library's network, and the weights that it starts from; raises ModuleError.

    The head's weights are left out, for the classes are others.
    """
    network = f"{wanted.door}:{wanted.source}"
    source = source_of(wanted, () if wanted.pretrained else ("", ""))
    rule = rule_of(wanted, source.declared)
    head = f"{head_of(source.module)}."
    start = None
    if wanted.weights is not None:
        start = Start(wanted.weights.name, network, weights.fitting(source.module, wanted.weights, head))
    elif wanted.pretrained:
        held = {key: tensor.clone() for key, tensor in source.module.state_dict().items() if not key.startswith(head)}
        start = Start(f"the weights of {wanted.door}", network, held)
    _check_runs(source.module.train(), network, rule)
    return recipe_of(network, rule), start


def recipe_of(network: str, rule: Preprocessing) -> Recipe:
    """Give a library's network the numbers by which it is trained; where it starts from weights, `Start.fit` has more.

    They are the usual ones for few photographs. None was chosen by a test set.
    """
    declared = {"size": list(rule.size), "resize": rule.resize, "interpolation": rule.interpolation}
    if isinstance(rule.resize, tuple):
        declared["resize"] = list(rule.resize)
    return Recipe(
        name="",
        network=network,
        dataset="folder",
        mean=rule.mean,
        std=rule.std,
        optimizer="adamw",
        learning_rate=1e-3,  # AdamW's default
        batch=32,  # some steps an epoch for a hundred images
        epochs=40,
        weight_decay=0.05,
        warmup=0.1,
        cosine=True,
        translation_pixels=min(rule.size) // 16,
        flip=True,
        rotation_degrees=10,
        scale=0.2,  # photographs differ in distance more than in anything else
        color_jitter=0.2,
        label_smoothing=0.1,
        patience=10,
        hold_out_test_set=True,
        precision="bf16",
        channels_last=True,
        preprocessing=declared,
    )


def _check_runs(module: nn.Module, network: str, rule: Preprocessing) -> None:
    """Raise ModuleError for what cannot be trained by the loss of one result for each image."""
    height, width, channels = rule.shape
    try:
        with torch.no_grad():
            found = module(torch.zeros(2, channels, height, width))
    except Exception as error:  # a module may raise anything
        raise ModuleError(
            f"{network} cannot run images of {height} x {width} x {channels} ({type(error).__name__}: {error}); give "
            f"another --size, and --mean and --std with a number for each channel"
        ) from error
    if not isinstance(found, torch.Tensor) or found.ndim != 2:
        raise ModuleError(
            f"{network} gives more than one result for an image while it is trained, as of its inner layers, which no "
            f"recipe here knows; choose another network"
        )
