"""The training loop, one for every network, on a CPU or a CUDA device.

Claim: on a CPU, the same recipe on the same machine gives the same weights bit for bit, also when the training was
stopped at any point and started again (tests/training/test_train.py). On CUDA runs agree up to the order of sums.

The whole data set lies on the device as uint8; an epoch's shuffling and augmentation are drawn on the CPU from one
seeded generator, so a recipe draws the same numbers on every device.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training import augment, checkpoint, pruning, winograd
from training.data import Dataset
from training.device import arithmetic_for, autocast, keep_pages
from training.errors import DivergedError
from training.networks import NETWORKS, Preprocess
from training.optimizer import make_optimizer, rate_curve
from training.progress import TrainingProgress
from training.recipes import Recipe

# Steps between two looks at the running loss. A look makes the device catch up with Python, so not every step.
STEPS_PER_LOOK = 50
# Images in one pass when an epoch is measured.
MEASURED = 500


@dataclass(frozen=True)
class Training:
    """What a training gave: the network in evaluation mode on the CPU, and its epochs."""

    network: nn.Module
    history: list[checkpoint.Epoch]
    arithmetic: Literal["fp32", "bf16"] = "fp32"
    """What its last epochs were computed in."""

    def rounded_history(self) -> list[dict[str, float | None]]:
        """Give the epochs with the digits that mean something, for a file's metadata."""
        figures: list[dict[str, float | None]] = [dict(epoch) for epoch in self.history]  # type: ignore[arg-type]
        return [{key: None if v is None else round(v, 4) for key, v in epoch.items()} for epoch in figures]


def train(recipe: Recipe, data: Dataset, device: torch.device, path: Path, console: Console) -> Training:
    """Train by `recipe`, or go on from the checkpoint at `path`, which is renewed at the end of every epoch.

    A table of the epochs is written beside the checkpoint, as CSV. Raises CheckpointError for a checkpoint of another
    network or recipe, and DivergedError, with the last checkpoint left as it was, when the loss is no longer finite.
    KeyboardInterrupt passes through: finished epochs are on disk.
    """
    saved = checkpoint.load(path, recipe)
    if recipe.keep_pages and device.type == "cpu":
        keep_pages()
    torch.manual_seed(recipe.seed)
    shuffling = torch.Generator().manual_seed(recipe.seed)
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    data = data.hold_out(recipe.validation).to(device)
    images, labels = data.train_images, data.train_labels
    count = len(images)
    if count % recipe.batch == 1 and count > 1:
        count -= 1  # each epoch leaves out another image: a last batch of one has no variance for batch norm
    network = NETWORKS[recipe.network].build(len(data.labels))
    network.to(device=device, memory_format=layout)  # type: ignore[call-overload] # the stubs lack this pair
    preprocess = Preprocess(recipe.mean, recipe.std).to(device)
    optimizer = make_optimizer(recipe, network)
    steps = math.ceil(count / recipe.batch)  # of an epoch
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate_curve(recipe, recipe.epochs * steps))
    losses = torch.zeros(len(images), device=device)  # of each image when it was last seen
    average = None
    if recipe.average:
        moving = get_ema_multi_avg_fn(recipe.average)  # type: ignore[no-untyped-call] # so in PyTorch
        average = AveragedModel(network, multi_avg_fn=moving, use_buffers=True)
    result = network if average is None else average.module
    winograd.speed_up(network, recipe.precision, device)

    history: list[checkpoint.Epoch] = []
    if saved is not None:
        history = saved["history"]
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        scheduler.load_state_dict(saved["scheduler"])
        losses.copy_(saved.get("losses", losses))
        if average is not None and saved["average"] is not None:
            average.load_state_dict(saved["average"])
        set_random_states(saved["random"], shuffling)

    with TrainingProgress(recipe.name, recipe.epochs, console) as progress:
        for epoch in range(len(history), recipe.epochs):
            network.train()
            started = time.perf_counter()
            order = torch.randperm(len(images), generator=shuffling)[:count].to(device)
            draws = augment.draw(recipe, tuple(images.shape), epoch, shuffling, device)
            batches, weights = torch.split(order, recipe.batch), None
            if recipe.prune and 0 < epoch < recipe.epochs - recipe.plain_epochs:
                order, weights = pruning.prune(recipe.prune, order, losses, shuffling)
                batches = order.tensor_split(steps)  # as many steps, of fewer images: the rate falls as ever
            seen = 0
            loss_sum = torch.zeros((), dtype=torch.float64, device=device)
            correct = torch.zeros((), dtype=torch.int64, device=device)

            for step, rows in enumerate(batches, start=1):
                seen += len(rows)
                targets = labels[rows]
                inputs = preprocess(augment.apply(recipe, draws, images[rows], rows))
                if epoch < recipe.small_epochs:
                    inputs = augment.scale(inputs, recipe.small_side)
                inputs = inputs.contiguous(memory_format=layout)
                with autocast(recipe.precision, device):
                    logits = network(inputs)
                    loss = pruning.mean_loss(
                        logits, targets, recipe.label_smoothing, None if weights is None else weights[rows]
                    )
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call] # so in PyTorch
                optimizer.step()
                scheduler.step()
                if average is not None:
                    average.update_parameters(network)

                logits = logits.detach()
                if recipe.prune:
                    losses[rows] = cross_entropy(logits.float(), targets, reduction="none")
                changed = recipe.label_smoothing or weights is not None
                plain = cross_entropy(logits, targets) if changed else loss.detach()
                loss_sum += plain * len(rows)
                correct += (logits.argmax(1) == targets).sum()
                if step % STEPS_PER_LOOK == 0 or step == len(batches):
                    seconds = time.perf_counter() - started
                    mean_loss, accuracy = loss_sum.item() / seen, correct.item() / seen
                    if not math.isfinite(mean_loss):
                        raise DivergedError(
                            f"the loss of {recipe.name} became {mean_loss} in epoch {epoch + 1}; lower the learning "
                            f"rate ({recipe.learning_rate}); the checkpoint is as it was after epoch {epoch}"
                        )
                    progress.advance(epoch, step / len(batches), mean_loss, accuracy, seen / seconds)

            # What has seen small images only answers badly for those of full size, which says nothing.
            seen_whole = slice(None) if epoch >= recipe.small_epochs else slice(0, 0)
            unseen = slice(0, 0) if recipe.blind else seen_whole
            validation = measure(
                recipe, result, preprocess, data.validation_images[seen_whole], data.validation_labels[seen_whole]
            )
            test = measure(recipe, result, preprocess, data.test_images[unseen], data.test_labels[unseen])
            history.append(
                {
                    "loss": mean_loss,
                    "accuracy": accuracy,
                    "validation_loss": validation[0],
                    "validation_accuracy": validation[1],
                    "test_loss": test[0],
                    "test_accuracy": test[1],
                    "seconds": seconds,
                }
            )
            state: checkpoint.Checkpoint = {
                "recipe": recipe.numbers(),
                "history": history,
                "network": network.state_dict(),
                "average": None if average is None else average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict(),
                "losses": losses,
                "random": [torch.get_rng_state(), shuffling.get_state(), *torch.cuda.get_rng_state_all()],
            }
            checkpoint.save(state, path)
            checkpoint.save_table(history, path.with_suffix(".csv"))
            progress.end_epoch(epoch, history[-1], seen)

    trained = NETWORKS[recipe.network].build(len(data.labels))
    trained.load_state_dict(result.state_dict())
    return Training(trained.eval(), history, arithmetic_for(recipe.precision, device))


def measure(
    recipe: Recipe, network: nn.Module, preprocess: Preprocess, images: torch.Tensor, labels: torch.Tensor
) -> tuple[float, float] | tuple[None, None]:
    """Give mean cross-entropy and accuracy over uint8 images [N, height, width, channels], in the recipe's precision.

    For the curves only: what a file claims is measured on the file. Nothing in a training depends on it.
    """
    if len(images) == 0:
        return None, None
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    network.eval()
    with torch.inference_mode(), autocast(recipe.precision, images.device):
        parts = [
            network(preprocess(part).contiguous(memory_format=layout)).float() for part in torch.split(images, MEASURED)
        ]
        logits = torch.cat(parts)
        return cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item()


def set_random_states(states: list[torch.Tensor], shuffling: torch.Generator) -> None:
    """Put the generators back where a checkpoint left them; one made without CUDA leaves CUDA's as they are."""
    torch.set_rng_state(states[0])
    shuffling.set_state(states[1])
    if len(states) - 2 == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states[2:])
