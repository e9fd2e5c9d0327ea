"""Training that starts from a model's weights: the head is new and learns first, then all layers, the others slowly.

The sources: Howard and Ruder, "Universal language model fine-tuning for text classification" (2018), for the order and
the rates; Prechelt, "Early stopping -- but when?" (1998), for the end.

Batch norm keeps the statistics that it came with: a model's file has them folded into the convolutions.
"""

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import nn

from . import onnx_file
from .checkpoint import Epoch
from .errors import ModelFileError
from .networks import NETWORKS
from .recipes import Recipe

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True)
class Start:
    """The weights of a model in a models folder, or those of a library's network."""

    name: str
    network: str
    weights: Mapping[str, torch.Tensor]
    """Those of its network, by name."""

    def fit(self, recipe: Recipe) -> Recipe:
        """Give the network's recipe as one that starts from here."""
        digest = hashlib.sha256()
        for name, tensor in self.weights.items():
            digest.update(name.encode() + tensor.numpy().tobytes())
        return dataclasses.replace(
            recipe,
            start=f"{self.name} {digest.hexdigest()[:16]}",
            optimizer="adamw",  # for every network: muon is made for weights that batch norm follows in training
            learning_rate=1e-3,  # AdamW's default, of the head
            sgd_learning_rate=0.0,
            momentum=0.0,
            weight_decay=0.05,
            body_rate=0.1,  # ten times as slow: what is known already is changed little
            batch=32,  # some steps an epoch for a hundred images
            epochs=40,
            frozen_epochs=5,  # a new head's gradients are noise to the layers below until it fits them
            patience=10,
            warmup=0.1,
            cosine=True,
            unaugmented_epochs=0,
            ema_decay=0.0,  # early stopping takes the best epoch instead
        )


def read_start(path: Path, name: str, network: str | None) -> Start:
    """Read the weights in a float32 file of ours, of this network if one is named; raises ModelFileError."""
    if not path.exists():
        raise ModelFileError(f"there is no model {path} to start from; name one of the folder of --models-dir")
    metadata = onnx_file.read_metadata(path)
    found = metadata.get("network", "")
    if found not in NETWORKS or metadata.get("precision") != "fp32":
        raise ModelFileError(f"{path} is no float32 file of a network of ours; start from another model")
    if network not in (None, found):
        raise ModelFileError(f"{path} is of the network {found}, not of {network}; leave out --network")
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    weights = {name: torch.from_numpy(value.copy()) for name, value in held.items()}
    return Start(name, found, unfold(NETWORKS[found].build(), weights))


def unfold(network: nn.Module, held: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give a network's weights from the initialisers of its file, but for the head, whose classes may be others.

    The exporter folds batch norm into the convolution right before it, so there the file has no weights for it, and a
    batch norm that changes nothing takes its place: mean 0, variance 1 - ε, weight 1, bias 0. Where the convolution has
    no bias of its own, the exporter gives it one, which here is that batch norm's. Raises ModelFileError where others
    are missing.
    """
    names = {re.sub(r"\bconv(\d+)\.weight_bias$", r"norm\1.bias", key.removeprefix("network.")): key for key in held}
    neutral = {}
    for path, layer in network.named_modules():
        if isinstance(layer, NORMS):
            ones = torch.ones(layer.num_features)
            neutral[f"{path}.weight"] = ones
            neutral[f"{path}.bias"] = neutral[f"{path}.running_mean"] = torch.zeros(layer.num_features)
            neutral[f"{path}.running_var"] = ones - layer.eps
            neutral[f"{path}.num_batches_tracked"] = torch.tensor(0)
    found = {key: held[names[key]] if key in names else neutral.get(key) for key in network.state_dict()}
    missing = [key for key, tensor in found.items() if tensor is None]
    if missing:
        raise ModelFileError(f"the file holds no weights {missing[0]!r}, so nothing can start from it")
    return {key: tensor for key, tensor in found.items() if tensor is not None}


def head_of(network: nn.Module) -> str:
    """Name the layer that gives the logits: the last linear one, or the last convolution, where that comes later."""
    names: list[str] = [name for name, layer in network.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    return names[-1]


def load(network: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Give a network these weights, but for its head, which stays as it is."""
    head = head_of(network)
    network.load_state_dict(
        {key: value if key.startswith(f"{head}.") else weights[key] for key, value in network.state_dict().items()}
    )


def freeze(network: nn.Module, recipe: Recipe, epoch: int) -> None:
    """Ready a network in training mode for an epoch (from 0) of a recipe that starts from weights."""
    head = head_of(network)
    for name, weight in network.named_parameters():
        weight.requires_grad_(epoch >= recipe.frozen_epochs or name.startswith(f"{head}."))
    for layer in network.modules():
        if isinstance(layer, NORMS):
            layer.eval()


def groups(network: nn.Module, recipe: Recipe) -> list[dict[str, object]]:
    """Give the weights for an optimizer: those of the head, and the others at their share of its rate."""
    head = head_of(network)
    parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, weight in network.named_parameters():
        parts[name.startswith(f"{head}.")].append(weight)
    return [{"params": parts[True]}, {"params": parts[False], "lr": recipe.learning_rate * recipe.body_rate}]


def best_epoch(history: Sequence[Epoch]) -> int:
    """Give the epoch (from 0) of the least validation loss, the first of equals."""
    losses = [epoch["validation_loss"] for epoch in history]
    return min(range(len(losses)), key=lambda number: (losses[number], number))


def is_finished(recipe: Recipe, history: Sequence[Epoch]) -> bool:
    """Whether all epochs are done, or the last `patience` ones brought no smaller validation loss."""
    if len(history) >= recipe.epochs:
        return True
    return bool(recipe.patience and history) and len(history) - 1 - best_epoch(history) >= recipe.patience
