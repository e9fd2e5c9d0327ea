"""The training loop, one for every network, on a CPU or a CUDA device.

Claim: on a CPU, the same recipe on the same machine gives the same weights bit for bit, also when the training was
stopped at any point and started again (tests/training/test_train.py). On CUDA runs agree up to the order of sums.

The whole data set lies on the device as uint8; an epoch's shuffling and augmentation are drawn on the CPU from one
seeded generator, so a recipe draws the same numbers on every device.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from training import augment, checkpoint
from training.data import Dataset
from training.device import keep_pages
from training.errors import DivergedError
from training.networks import NETWORKS, Preprocess
from training.progress import TrainingProgress
from training.recipes import Recipe

# Steps between two looks at the running loss. A look makes the device catch up with Python, so not every step.
STEPS_PER_LOOK = 50


@dataclass(frozen=True)
class Training:
    """What a training gave: the network in evaluation mode on the CPU, and its epochs."""

    network: nn.Sequential
    history: list[checkpoint.Epoch]


def train(recipe: Recipe, data: Dataset, device: torch.device, path: Path, console: Console) -> Training:
    """Train by `recipe`, or go on from the checkpoint at `path`, which is renewed at the end of every epoch.

    Raises CheckpointError for a checkpoint of another network or recipe, and DivergedError, with the last checkpoint
    left as it was, when the loss is no longer finite. KeyboardInterrupt passes through: finished epochs are on disk.
    """
    saved = checkpoint.load(path, recipe)
    if recipe.keep_pages and device.type == "cpu":
        keep_pages()
    torch.manual_seed(recipe.seed)
    shuffling = torch.Generator().manual_seed(recipe.seed)
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    network = NETWORKS[recipe.network].build()
    network.to(device=device, memory_format=layout)  # type: ignore[call-overload] # the stubs lack this pair
    preprocess = Preprocess(recipe.mean, recipe.std).to(device)
    optimizer = make_optimizer(recipe, network)
    data = data.to(device)
    images, labels = data.train_images, data.train_labels
    count = len(images)
    steps = recipe.epochs * math.ceil(count / recipe.batch)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate_curve(recipe, steps))

    history: list[checkpoint.Epoch] = []
    if saved is not None:
        history = saved["history"]
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        scheduler.load_state_dict(saved["scheduler"])
        set_random_states(saved["random"], shuffling)

    with TrainingProgress(recipe.network, recipe.epochs, count, console) as progress:
        for epoch in range(len(history), recipe.epochs):
            network.train()
            started = time.perf_counter()
            order = torch.randperm(count, generator=shuffling).to(device)
            most = recipe.shift_pixels
            offsets = torch.randint(-most, most + 1, (count, 2), generator=shuffling).to(device)
            flips = torch.rand(count, generator=shuffling).to(device) < 0.5
            loss_sum = torch.zeros((), dtype=torch.float64, device=device)
            correct = torch.zeros((), dtype=torch.int64, device=device)

            for step, first in enumerate(range(0, count, recipe.batch), start=1):
                rows = order[first : first + recipe.batch]
                seen = first + len(rows)
                batch = images[rows]
                if recipe.flip:
                    batch = augment.flip(batch, flips[rows])
                if most:
                    batch = augment.shift(batch, offsets[rows], most)
                inputs = preprocess(batch).contiguous(memory_format=layout)
                with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
                    logits = network(inputs)
                    loss = nn.functional.cross_entropy(logits, labels[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call] # so in PyTorch
                optimizer.step()
                scheduler.step()

                loss_sum += loss.detach() * len(rows)
                correct += (logits.detach().argmax(1) == labels[rows]).sum()
                if step % STEPS_PER_LOOK == 0 or seen == count:
                    seconds = time.perf_counter() - started
                    mean_loss, accuracy = loss_sum.item() / seen, correct.item() / seen
                    if not math.isfinite(mean_loss):
                        raise DivergedError(
                            f"the loss of {recipe.network} became {mean_loss} in epoch {epoch + 1}; lower the learning "
                            f"rate ({recipe.learning_rate}); the checkpoint is as it was after epoch {epoch}"
                        )
                    progress.advance(epoch, seen, mean_loss, accuracy, seen / seconds)

            history.append({"loss": mean_loss, "accuracy": accuracy, "seconds": seconds})
            state: checkpoint.Checkpoint = {
                "recipe": recipe.numbers(),
                "history": history,
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict(),
                "random": [torch.get_rng_state(), shuffling.get_state(), *torch.cuda.get_rng_state_all()],
            }
            checkpoint.save(state, path)
            progress.end_epoch(epoch, mean_loss, accuracy, count / seconds)

    network.to(device="cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload] # as above
    return Training(network.eval(), history)


def make_optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """Build the recipe's optimizer, fused: one pass over all weights, on CPUs too."""
    parameters = network.parameters()
    rate, decay = recipe.learning_rate, recipe.weight_decay
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


def set_random_states(states: list[torch.Tensor], shuffling: torch.Generator) -> None:
    """Put the generators back where a checkpoint left them; one made without CUDA leaves CUDA's as they are."""
    torch.set_rng_state(states[0])
    shuffling.set_state(states[1])
    if len(states) - 2 == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states[2:])
