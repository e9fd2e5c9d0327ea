"""The state of a training at the end of an epoch: enough to go on as if it had never stopped."""

import csv
import io
import pickle
from pathlib import Path
from typing import Literal, TypedDict

import torch

from .errors import CheckpointError
from .files import replacing
from .recipes import Recipe


class Epoch(TypedDict):
    """What one epoch gave.

    `loss` (cross-entropy without label smoothing) and `accuracy` are means over the training images as they were seen:
    augmented, by weights that still changed. The others were measured at its end; None where there are no such images.
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
    """`Recipe.to_dict` of the training: an equal one may go on from here."""
    history: list[Epoch]
    """One entry for each finished epoch."""
    network: dict[str, torch.Tensor]
    ema: dict[str, torch.Tensor] | None
    """The moving average of the weights, where the recipe asks for one."""
    best: dict[str, torch.Tensor] | None
    """The weights of the epoch with the least validation loss, where the recipe stops early."""
    optimizer: dict[str, object]
    scheduler: dict[str, object]
    arithmetic: Literal["fp32", "bf16"]
    """What the last epoch was computed in."""
    trained_on: str
    """The device of the last epoch, and the version of PyTorch."""
    random: list[torch.Tensor]
    """States of the generators: PyTorch's own (dropout), the shuffling one, then one for each CUDA device."""


def path_of(folder: Path, recipe: Recipe) -> Path:
    """Name the checkpoint of a recipe in a folder."""
    return folder / f"{recipe.name}-seed{recipe.seed}.pt"


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
        found = checkpoint["recipe"]
        checkpoint.setdefault("best", None)  # those of earlier versions never stop early
    except (RuntimeError, OSError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is not a checkpoint, or is damaged; {remedy}") from error
    if checkpoint.keys() != Checkpoint.__annotations__.keys():
        raise CheckpointError(f"{path} was written by another version of this program; {remedy}")
    if found.get("name") != recipe.name:
        raise CheckpointError(f"{path} is a checkpoint of {found.get('name')}, not of {recipe.name}; {remedy}")
    different = recipe.differences(found)
    if different:
        details = ", ".join(f"{key} {there} there and {here} here" for key, (there, here) in different.items())
        raise CheckpointError(f"{path} was trained by another recipe ({details}); {remedy}")
    return checkpoint
