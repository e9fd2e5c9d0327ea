"""The state of a training at the end of an epoch: enough to go on as if it had never stopped."""

import csv
import io
import pickle
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TypedDict

import torch

from training.errors import CheckpointError
from training.files import replacing
from training.recipes import Recipe

DEFAULTS = {field.name: field.default for field in fields(Recipe) if field.default is not MISSING}


class Epoch(TypedDict):
    """What one epoch gave.

    `loss` (cross-entropy without label smoothing) and `accuracy` are means over the training images as they were seen:
    augmented, by weights that still changed. The others were measured at its end; None where there are no such images,
    or none of full size had been trained on.
    """

    loss: float
    accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    test_loss: float | None
    test_accuracy: float | None
    seconds: float
    """Time of its steps, without the measuring."""


class Checkpoint(TypedDict):
    """What a checkpoint file holds."""

    recipe: dict[str, object]
    """`Recipe.numbers` of the training: who compares equal may go on from here."""
    history: list[Epoch]
    """One entry for each finished epoch."""
    network: dict[str, torch.Tensor]
    average: dict[str, torch.Tensor] | None
    """The moving average of the weights, where the recipe asks for one."""
    optimizer: dict[str, object]
    scheduler: dict[str, object]
    losses: torch.Tensor
    """float32 [images]: of each training image when it was last seen, where the recipe prunes; else zeros."""
    random: list[torch.Tensor]
    """States of the generators: PyTorch's own (dropout), the shuffling one, then one for each CUDA device."""


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint whole, or leave the old one as it was; raises OSError when the disk is full."""
    # Through memory, because torch.save itself reports a full disk as a RuntimeError like any other.
    content = io.BytesIO()
    torch.save(checkpoint, content)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def save_table(history: list[Epoch], path: Path) -> None:
    """Write the epochs as CSV, a line each, for spreadsheets and plots; an empty cell is a figure that there is not."""
    text = io.StringIO()
    table = csv.DictWriter(text, ["epoch", *Epoch.__annotations__], lineterminator="\n")
    table.writeheader()
    table.writerows({"epoch": number, **epoch} for number, epoch in enumerate(history, start=1))
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def load(path: Path, recipe: Recipe) -> Checkpoint | None:
    """Read the checkpoint of this very recipe, or None where there is no file.

    Raises CheckpointError when the file cannot be read, or belongs to another network or recipe.
    """
    remedy = "remove it, or name another folder with --checkpoints-dir"
    if not path.exists():
        return None
    try:
        checkpoint: Checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        # A number that recipes did not have yet when the checkpoint was made has its default, which changes nothing.
        found = DEFAULTS | checkpoint["recipe"]
    except (RuntimeError, OSError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is not a checkpoint, or is damaged; {remedy}") from error
    expected = recipe.numbers()
    if found.get("name") != recipe.name:
        raise CheckpointError(f"{path} is a checkpoint of {found.get('name')}, not of {recipe.name}; {remedy}")
    different = [key for key in expected | found if found.get(key) != expected.get(key)]
    if different:
        details = ", ".join(f"{key} {found.get(key)} there and {expected.get(key)} here" for key in different)
        raise CheckpointError(f"{path} was trained by another recipe ({details}); {remedy}")
    return checkpoint
