"""How a network is trained, on a CPU or a CUDA device: state, optimizer step, loop.

Claim: on a CPU, the same recipe on the same machine gives the same weights bit for bit, also when the training was
stopped at any point and started again (tests/training/test_train.py). On CUDA runs agree up to the order of sums.

The whole data set lies on the device as uint8, if it fits into memory; an epoch's shuffling and augmentation are drawn
on the CPU from one seeded generator, so a recipe draws the same numbers on every device.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from . import checkpoint, fine_tune, views
from .checkpoint import Checkpoint, Epoch
from .data import Dataset
from .device import arithmetic_for, autocast, describe, disable_malloc_trim
from .errors import DivergedError
from .evaluate import rows_at_once
from .foreign.sources import network_of
from .kernels.muon import Muon
from .lanes import Lanes
from .lock import hold
from .networks import Preprocess
from .objective import Objective, Teacher, draw_shares, memory_format_of
from .progress import TrainingProgress
from .recipes import Recipe

# Synchronizing makes the device catch up with Python, so the running loss is read only every so many steps.
STEPS_PER_SYNC = 50
# Images in one pass when an epoch is evaluated.
EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Training:
    """What a training gave: the network in evaluation mode on the CPU, and its epochs."""

    network: nn.Module
    history: list[Epoch]
    arithmetic: Literal["fp32", "bf16"] = "fp32"
    """What its last epoch was computed in."""
    trained_on: str = "CPU"
    """Where that was, and with which version of PyTorch."""

    def rounded_history(self) -> list[dict[str, float | None]]:
        """Give the epochs with the digits that mean something, for a file's metadata."""
        epochs: list[dict[str, float | None]] = [dict(epoch) for epoch in self.history]  # type: ignore[arg-type]
        return [{key: None if v is None else round(v, 4) for key, v in epoch.items()} for epoch in epochs]


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
    the exported file whose logits are stored (see `views`): either happens first, in the folder of the checkpoint,
    unless there is nothing left to learn.

    Raises CheckpointError for a checkpoint of another network or recipe, and DivergedError, with the last checkpoint
    left as it was, when the loss is no longer finite, and BusyError while another process trains it. KeyboardInterrupt
    passes through: finished epochs are on disk.
    """
    with hold(path.with_suffix(".lock"), f"the checkpoint {path}"):
        return _train(recipe, data, device, path, console, teacher)


def _train(
    recipe: Recipe, data: Dataset, device: torch.device, path: Path, console: Console, teacher: Recipe | Path | None
) -> Training:
    named = teacher.parent.parent.name if isinstance(teacher, Path) else teacher and teacher.name
    wanted = recipe.teacher or recipe.taught_by or None
    if wanted != named:
        raise ValueError(f"{recipe.name} is taught by {wanted or 'nobody'}, not by {named}")
    saved = checkpoint.load(path, recipe)
    teacher_network = None
    if recipe.start and saved is None:
        raise ValueError(f"{recipe.name} starts from {recipe.start}, so it begins with a checkpoint (begin)")
    finished = saved is not None and fine_tune.is_finished(recipe, saved["history"])
    if isinstance(teacher, Recipe) and not finished:
        teacher_network = train(teacher, data, device, checkpoint.path_of(path.parent, teacher), console).network
        move(teacher_network, device, recipe)
    if recipe.disable_malloc_trim and device.type == "cpu":
        disable_malloc_trim()
    data = data.hold_out(recipe.validation).to(device)
    preprocess = Preprocess(recipe.mean, recipe.std).to(device)
    state = State(recipe, len(data.train_images), len(data.labels), device)
    if saved is not None:
        state.restore(saved)
    teaching: Teacher = teacher_network
    if isinstance(teacher, Path) and not finished:
        stored = views.answer(recipe, data.train_images.cpu(), teacher, path.parent, console)
        teaching = [logits.to(device) for logits in stored]

    with TrainingProgress(recipe.name, recipe.epochs, console) as progress:
        while not fine_tune.is_finished(recipe, state.history):
            metrics = train_epoch(recipe, state, data, preprocess, progress, teaching)
            validation = evaluate(recipe, state.result, preprocess, data.validation_images, data.validation_labels)
            tested = slice(0, 0) if recipe.hold_out_test_set else slice(None)
            test = evaluate(recipe, state.result, preprocess, data.test_images[tested], data.test_labels[tested])
            state.history.append(
                {
                    "loss": metrics.loss,
                    "accuracy": metrics.accuracy,
                    "validation_loss": validation[0],
                    "validation_accuracy": validation[1],
                    "test_loss": test[0],
                    "test_accuracy": test[1],
                    "seconds": metrics.seconds,
                }
            )
            state.keep_best()
            checkpoint.save(state.to_checkpoint(), path)
            checkpoint.save_table(state.history, path.with_suffix(".csv"))
            progress.end_epoch(len(state.history) - 1, state.history[-1], metrics.images)

    trained = network_of(recipe).build(len(data.labels))
    trained.load_state_dict(state.best or state.result.state_dict())
    if state.best is not None:
        progress.end_early(fine_tune.best_epoch(state.history), len(state.history))
    return Training(trained.eval(), state.history, state.arithmetic, state.trained_on)


def begin(recipe: Recipe, data: Dataset, start: fine_tune.Start, path: Path) -> None:
    """Write the checkpoint of no epochs from which a training with other weights than random ones goes on.

    One that is there stays.
    """
    if path.exists():
        return
    data = data.hold_out(recipe.validation)
    state = State(recipe, len(data.train_images), len(data.labels), torch.device("cpu"))
    fine_tune.load(state.network, start.weights)
    checkpoint.save(state.to_checkpoint(), path)


class State:
    """What a training by `recipe` on `device` changes as it goes, for so many images and classes."""

    def __init__(self, recipe: Recipe, images: int, classes: int, device: torch.device) -> None:
        torch.manual_seed(recipe.seed)
        self._recipe = recipe
        self.images_per_epoch = images
        if images % recipe.batch == 1 and images > 1:
            self.images_per_epoch -= 1  # another each time: a last batch of one has no variance for batch norm
        self.steps_per_epoch = math.ceil(self.images_per_epoch / recipe.batch)
        self.shuffling = torch.Generator().manual_seed(recipe.seed)
        self.network = network_of(recipe).build(classes)
        move(self.network, device, recipe)
        self.optimizer = make_optimizer(recipe, self.network)
        schedule = rate_schedule(recipe, recipe.epochs * self.steps_per_epoch)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, schedule)
        self.ema = None
        if recipe.ema_decay:
            update = get_ema_multi_avg_fn(recipe.ema_decay)  # type: ignore[no-untyped-call] # so in PyTorch
            self.ema = AveragedModel(self.network, multi_avg_fn=update, use_buffers=True)
        self.history: list[Epoch] = []
        self.best: dict[str, torch.Tensor] | None = None
        self.arithmetic = arithmetic_for(recipe.precision, device)
        self.trained_on = describe(device)
        self.lanes = Lanes(self.network, recipe.lanes)

    @property
    def result(self) -> nn.Module:
        """The network that is evaluated and exported: the averaged one where the recipe asks for it."""
        if self.ema is None:
            return self.network
        averaged: nn.Module = self.ema.module
        return averaged

    def step(self) -> None:
        """Follow the gradient that the lanes have left."""
        self.optimizer.step()
        self.scheduler.step()
        if self.ema is not None:
            self.ema.update_parameters(self.network)

    def keep_best(self) -> None:
        """Remember the weights where the last epoch has the least validation loss, if the recipe stops early."""
        if self._recipe.patience and fine_tune.best_epoch(self.history) == len(self.history) - 1:
            self.best = {key: value.detach().clone() for key, value in self.result.state_dict().items()}

    def to_checkpoint(self) -> Checkpoint:
        """Give all of it, for a file."""
        return {
            "recipe": self._recipe.to_dict(),
            "history": self.history,
            "network": self.network.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "arithmetic": self.arithmetic,
            "trained_on": self.trained_on,
            "random": [torch.get_rng_state(), self.shuffling.get_state(), *torch.cuda.get_rng_state_all()],
        }

    def restore(self, saved: Checkpoint) -> None:
        """Go back to where a checkpoint was made; one made without CUDA leaves CUDA's generators as they are."""
        self.history = saved["history"]
        if fine_tune.is_finished(self._recipe, self.history):  # else this device trains on
            self.arithmetic, self.trained_on = saved["arithmetic"], saved["trained_on"]
        self.network.load_state_dict(saved["network"])
        self.best = saved["best"]
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        if self.ema is not None and saved["ema"] is not None:
            self.ema.load_state_dict(saved["ema"])
        default, shuffling, *devices = saved["random"]
        torch.set_rng_state(default)
        self.shuffling.set_state(shuffling)
        if len(devices) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(devices)


def move(network: nn.Module, device: torch.device, recipe: Recipe) -> None:
    """Move a network to a device, in the recipe's memory format."""
    network.to(device=device, memory_format=memory_format_of(recipe))  # type: ignore[call-overload] # the stubs lack it


def make_optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """Build the recipe's optimizer, fused where PyTorch has it so: one pass over all weights, on CPUs too."""
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "muon":
        return Muon(network.parameters(), rate, recipe.sgd_learning_rate, recipe.momentum, decay)
    parameters = fine_tune.groups(network, recipe) if recipe.start else [{"params": list(network.parameters())}]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, rate, momentum=recipe.momentum, weight_decay=decay, fused=True)
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, rate, weight_decay=decay, fused=True)


def rate_schedule(recipe: Recipe, steps: int) -> Callable[[int], float]:
    """Give the factor on the learning rate as a function of the step, from 0 to `steps`."""
    warmup = recipe.warmup * steps

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if recipe.linear_decay:
            return min(1.0, (steps - step) / (recipe.linear_decay * steps))
        if not recipe.cosine:
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))

    return factor


class EpochMetrics:
    """Means over an epoch's images as they were trained on, and its time, up to the last `synchronize`."""

    def __init__(self, device: torch.device) -> None:
        self._started = time.perf_counter()
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._correct = torch.zeros((), dtype=torch.int64, device=device)
        self.images = 0
        self.loss = self.accuracy = self.seconds = 0.0

    def add(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """Take in a batch: logits [batch, classes], class numbers [batch]."""
        logits = logits.detach().float()
        self._loss += cross_entropy(logits, targets, reduction="none").sum()
        self._correct += (logits.argmax(1) == targets).sum()
        self.images += len(targets)

    def synchronize(self) -> None:
        """Wait for the device, and bring the means and the time up to now."""
        self.loss, self.accuracy = self._loss.item() / self.images, self._correct.item() / self.images
        self.seconds = time.perf_counter() - self._started


def train_epoch(
    recipe: Recipe,
    state: State,
    data: Dataset,
    preprocess: Preprocess,
    progress: TrainingProgress,
    teacher: Teacher,
) -> EpochMetrics:
    """Take the steps of the next epoch; raises DivergedError when the loss is no longer finite.

    `teacher` is in evaluation mode, on the device of the data, and computes in the same precision.
    """
    labels, device, epoch = data.train_labels, data.train_labels.device, len(state.history)
    state.lanes.train()
    if recipe.start:
        fine_tune.freeze(state.network, recipe, epoch)
    metrics = EpochMetrics(device)
    order = torch.randperm(len(labels), generator=state.shuffling)[: state.images_per_epoch].to(device)
    objective = Objective(recipe, data, preprocess, epoch, state.shuffling, teacher)
    shares = draw_shares(recipe, state.steps_per_epoch)

    for step, rows in enumerate(torch.split(order, recipe.batch), start=1):
        objective.share = shares[step - 1]
        _, logits = state.lanes.follow(objective.compute, rows)
        state.step()
        metrics.add(logits, labels[rows])

        if step % STEPS_PER_SYNC == 0 or step == state.steps_per_epoch:
            metrics.synchronize()
            if not math.isfinite(metrics.loss):
                raise DivergedError(
                    f"the loss of {recipe.name} became {metrics.loss} in epoch {epoch + 1}; lower the learning "
                    f"rate ({recipe.learning_rate}); the checkpoint is as it was after epoch {epoch}"
                )
            images_per_s = metrics.images / metrics.seconds
            progress.advance(epoch, step / state.steps_per_epoch, metrics.loss, metrics.accuracy, images_per_s)
    return metrics


def evaluate(
    recipe: Recipe, network: nn.Module, preprocess: Preprocess, images: torch.Tensor, labels: torch.Tensor
) -> tuple[float, float] | tuple[None, None]:
    """Give mean cross-entropy and accuracy over uint8 images [N, height, width, channels], in the recipe's precision.

    For the curves only: what a file claims is measured on the file. Nothing in a training depends on it.
    """
    if len(images) == 0:
        return None, None
    device = labels.device
    memory_format = memory_format_of(recipe)
    network.eval()
    with torch.inference_mode(), autocast(recipe.precision, device):
        parts = [
            network(preprocess(part.to(device)).contiguous(memory_format=memory_format)).float()
            for part in torch.split(images, rows_at_once(images, EVALUATION_BATCH))
        ]
        logits = torch.cat(parts)
        return cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item()
