"""The training loop, one for every network, on a CPU or a CUDA device.

Claim: on a CPU, the same recipe on the same machine gives the same weights bit for bit, also when the training was
stopped at any point and started again (tests/training/test_train.py). On CUDA runs agree up to the order of sums.

The whole data set lies on the device as uint8; an epoch's shuffling and augmentation are drawn on the CPU from one
seeded generator, so a recipe draws the same numbers on every device.
"""

import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from torch import nn
from torch.nn.functional import cross_entropy

from training import augment, checkpoint, views
from training.data import Dataset
from training.device import autocast, keep_pages
from training.distillation import distance
from training.errors import DivergedError
from training.networks import NETWORKS, Preprocess
from training.progress import TrainingProgress
from training.recipes import Recipe
from training.state import State, layout_of

# Steps between two looks at the running loss. A look makes the device catch up with Python, so not every step.
STEPS_PER_LOOK = 50
# Images in one pass when an epoch is measured.
MEASURED = 500

Teacher = nn.Module | list[torch.Tensor] | None
"""A network that answers what the student sees, or stored answers to fixed views, or nobody."""


@dataclass(frozen=True)
class Training:
    """What a training gave: the network in evaluation mode on the CPU, and its epochs."""

    network: nn.Module
    history: list[checkpoint.Epoch]
    arithmetic: Literal["fp32", "bf16"] = "fp32"
    """What its last epoch was computed in."""
    trained_on: str = "CPU"
    """Where that was, and with which version of PyTorch."""

    def rounded_history(self) -> list[dict[str, float | None]]:
        """Give the epochs with the digits that mean something, for a file's metadata."""
        figures: list[dict[str, float | None]] = [dict(epoch) for epoch in self.history]  # type: ignore[arg-type]
        return [{key: None if v is None else round(v, 4) for key, v in epoch.items()} for epoch in figures]


def train(
    recipe: Recipe,
    data: Dataset,
    device: torch.device,
    path: Path,
    console: Console,
    teacher: Recipe | Path | None = None,
) -> Training:
    """Train by `recipe`, or go on from the checkpoint at `path`, which is renewed at the end of every epoch.

    A table of the epochs is written beside the checkpoint, as CSV. `teacher` is how the recipe's teacher is trained, or
    the exported file whose answers are stored (see `views`): either happens first, in the folder of the checkpoint,
    unless there is nothing left to learn.

    Raises CheckpointError for a checkpoint of another network or recipe, and DivergedError, with the last checkpoint
    left as it was, when the loss is no longer finite. KeyboardInterrupt passes through: finished epochs are on disk.
    """
    named = teacher.parent.parent.name if isinstance(teacher, Path) else teacher and teacher.name
    wanted = recipe.teacher or recipe.taught_by or None
    if wanted != named:
        raise ValueError(f"{recipe.name} is taught by {wanted or 'nobody'}, not by {named}")
    saved = checkpoint.load(path, recipe)
    left = recipe.epochs - len(saved["history"] if saved else [])
    trained_teacher = None
    if isinstance(teacher, Recipe) and left:
        trained_teacher = train(teacher, data, device, checkpoint.path_of(path.parent, teacher), console).network
        trained_teacher.to(device=device, memory_format=layout_of(recipe))  # type: ignore[call-overload] # as in State
    if recipe.keep_pages and device.type == "cpu":
        keep_pages()
    data = data.hold_out(recipe.validation).to(device)
    preprocess = Preprocess(recipe.mean, recipe.std).to(device)
    state = State(recipe, len(data.train_images), len(data.labels), device)
    if saved is not None:
        state.restore(saved)
    answering: Teacher = trained_teacher
    if isinstance(teacher, Path) and left:
        stored = views.answer(recipe, data.train_images.cpu(), teacher, path.parent, console)
        answering = [answers.to(device) for answers in stored]

    with TrainingProgress(recipe.name, recipe.epochs, console) as progress:
        for epoch in range(len(state.history), recipe.epochs):
            seen = train_epoch(recipe, state, data, preprocess, progress, answering)
            validation = measure(recipe, state.result, preprocess, data.validation_images, data.validation_labels)
            looked_at = slice(0, 0) if recipe.blind else slice(None)
            test = measure(recipe, state.result, preprocess, data.test_images[looked_at], data.test_labels[looked_at])
            state.history.append(
                {
                    "loss": seen.loss,
                    "accuracy": seen.accuracy,
                    "validation_loss": validation[0],
                    "validation_accuracy": validation[1],
                    "test_loss": test[0],
                    "test_accuracy": test[1],
                    "seconds": seen.seconds,
                }
            )
            checkpoint.save(state.to_checkpoint(), path)
            checkpoint.save_table(state.history, path.with_suffix(".csv"))
            progress.end_epoch(epoch, state.history[-1], seen.images)

    trained = NETWORKS[recipe.network].build(len(data.labels))
    trained.load_state_dict(state.result.state_dict())
    return Training(trained.eval(), state.history, state.arithmetic, state.trained_on)


class Seen:
    """What an epoch's images gave as they were seen, up to the last look; looking waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self._started = time.perf_counter()
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._correct = torch.zeros((), dtype=torch.int64, device=device)
        self.images = 0
        self.loss = self.accuracy = self.seconds = 0.0

    def add(self, losses: torch.Tensor, correct: torch.Tensor) -> None:
        """Take in a batch: loss and rightness [batch] of each image."""
        self._loss += losses.sum()
        self._correct += correct.sum()
        self.images += len(losses)

    def look(self) -> None:
        """Bring the means and the time up to now."""
        self.loss, self.accuracy = self._loss.item() / self.images, self._correct.item() / self.images
        self.seconds = time.perf_counter() - self._started


def train_epoch(
    recipe: Recipe,
    state: State,
    data: Dataset,
    preprocess: Preprocess,
    progress: TrainingProgress,
    teacher: Teacher,
) -> Seen:
    """Take the steps of the next epoch; raises DivergedError when the loss is no longer finite.

    `teacher` is in evaluation mode, on the device of the data, and answers in the same precision.
    """
    images, labels, device = data.train_images, data.train_labels, data.train_images.device
    epoch, layout = len(state.history), layout_of(recipe)
    state.lanes.train()
    seen = Seen(device)
    order = torch.randperm(len(images), generator=state.shuffling)[: state.images_an_epoch].to(device)
    shape = tuple(images.shape)
    view = None
    if isinstance(teacher, list):
        view = views.view_of_epoch(recipe, shape, epoch, teacher, device)
        change = view.apply
    else:
        change = partial(augment.apply, recipe, augment.draw(recipe, shape, epoch, state.shuffling, device))
    batches = torch.split(order, recipe.batch)

    def compute(network: nn.Module, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = preprocess(change(images[rows], rows)).contiguous(memory_format=layout)
        with autocast(recipe.precision, device):
            logits = network(inputs)
            loss = cross_entropy(logits, labels[rows], label_smoothing=recipe.label_smoothing)
            answers = None if view is None else view.answers[rows]
            if isinstance(teacher, nn.Module):
                with torch.no_grad():
                    answers = teacher(inputs)
            if answers is not None:
                loss = loss.lerp(distance(logits, answers, recipe.teaching_temperature), recipe.teaching)
        return loss, logits

    for step, rows in enumerate(batches, start=1):
        _, logits = state.lanes.follow(compute, rows)
        state.step()

        logits, targets = logits.float(), labels[rows]
        losses = cross_entropy(logits, targets, reduction="none")
        seen.add(losses, logits.argmax(1) == targets)
        if step % STEPS_PER_LOOK == 0 or step == len(batches):
            seen.look()
            if not math.isfinite(seen.loss):
                raise DivergedError(
                    f"the loss of {recipe.name} became {seen.loss} in epoch {epoch + 1}; lower the learning "
                    f"rate ({recipe.learning_rate}); the checkpoint is as it was after epoch {epoch}"
                )
            progress.advance(epoch, step / len(batches), seen.loss, seen.accuracy, seen.images / seen.seconds)
    return seen


def measure(
    recipe: Recipe, network: nn.Module, preprocess: Preprocess, images: torch.Tensor, labels: torch.Tensor
) -> tuple[float, float] | tuple[None, None]:
    """Give mean cross-entropy and accuracy over uint8 images [N, height, width, channels], in the recipe's precision.

    For the curves only: what a file claims is measured on the file. Nothing in a training depends on it.
    """
    if len(images) == 0:
        return None, None
    layout = layout_of(recipe)
    network.eval()
    with torch.inference_mode(), autocast(recipe.precision, images.device):
        parts = [
            network(preprocess(part).contiguous(memory_format=layout)).float() for part in torch.split(images, MEASURED)
        ]
        logits = torch.cat(parts)
        return cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item()
