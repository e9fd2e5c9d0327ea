"""The state of a training at the end of an epoch: enough to go on as if it had never stopped."""

import io
import pickle
from pathlib import Path
from typing import TypedDict

import torch

from training.errors import CheckpointError
from training.files import replacing
from training.recipes import Recipe


class Epoch(TypedDict):
    """What one epoch gave: mean loss and accuracy over the training images as they were seen, and its time."""

    loss: float
    accuracy: float
    seconds: float


class Checkpoint(TypedDict):
    """What a checkpoint file holds."""

    recipe: dict[str, object]
    """`Recipe.numbers` of the training: who compares equal may go on from here."""
    history: list[Epoch]
    """One entry for each finished epoch."""
    network: dict[str, torch.Tensor]
    optimizer: dict[str, object]
    scheduler: dict[str, object]
    random: list[torch.Tensor]
    """States of the generators: PyTorch's own (dropout), the shuffling one, then one for each CUDA device."""


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint whole, or leave the old one as it was; raises OSError when the disk is full."""
    # Through memory, because torch.save itself reports a full disk as a RuntimeError like any other.
    content = io.BytesIO()
    torch.save(checkpoint, content)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def load(path: Path, recipe: Recipe) -> Checkpoint | None:
    """Read the checkpoint of this very recipe, or None where there is no file.

    Raises CheckpointError when the file cannot be read, or belongs to another network or recipe.
    """
    remedy = "remove it, or name another folder with --checkpoints-dir"
    if not path.exists():
        return None
    try:
        checkpoint: Checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        found = checkpoint["recipe"]
    except (RuntimeError, OSError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is not a checkpoint, or is damaged; {remedy}") from error
    expected = recipe.numbers()
    if found.get("network") != recipe.network:
        raise CheckpointError(f"{path} is a checkpoint of {found.get('network')}, not of {recipe.network}; {remedy}")
    different = [key for key in expected if found.get(key) != expected[key]]
    if different:
        details = ", ".join(f"{key} {found.get(key)} there and {expected[key]} here" for key in different)
        raise CheckpointError(f"{path} was trained by another recipe ({details}); {remedy}")
    return checkpoint
