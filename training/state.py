"""What a training changes as it goes: all of it begins here, goes into a checkpoint, and comes back from one."""

import math

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training import winograd
from training.checkpoint import Checkpoint, Epoch
from training.device import arithmetic_for, describe
from training.lanes import Lanes
from training.networks import NETWORKS
from training.optimizer import make_optimizer, rate_curve
from training.recipes import Recipe


class State:
    """The state of a training by `recipe` on `device`, of so many images and classes."""

    def __init__(self, recipe: Recipe, images: int, classes: int, device: torch.device) -> None:
        torch.manual_seed(recipe.seed)
        self._recipe = recipe
        self.images_an_epoch = images
        if images % recipe.batch == 1 and images > 1:
            self.images_an_epoch -= 1  # another each time: a last batch of one has no variance for batch norm
        self.steps_an_epoch = math.ceil(self.images_an_epoch / recipe.batch)
        self.shuffling = torch.Generator().manual_seed(recipe.seed)
        self.network = NETWORKS[recipe.network].build(classes)
        layout = layout_of(recipe)
        self.network.to(device=device, memory_format=layout)  # type: ignore[call-overload] # the stubs lack this pair
        self.optimizer = make_optimizer(recipe, self.network)
        curve = rate_curve(recipe, recipe.epochs * self.steps_an_epoch)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, curve)
        self.average = None
        if recipe.average:
            moving = get_ema_multi_avg_fn(recipe.average)  # type: ignore[no-untyped-call] # so in PyTorch
            self.average = AveragedModel(self.network, multi_avg_fn=moving, use_buffers=True)
        self.history: list[Epoch] = []
        self.arithmetic = arithmetic_for(recipe.precision, device)
        self.trained_on = describe(device)
        if recipe.lanes == 1:  # its threads are those that lanes do without
            winograd.speed_up(self.network, recipe.precision, device)
        self.lanes = Lanes(self.network, recipe.lanes)

    @property
    def result(self) -> nn.Module:
        """The network that is measured and exported: the averaged one where the recipe asks for it."""
        if self.average is None:
            return self.network
        averaged: nn.Module = self.average.module
        return averaged

    def step(self) -> None:
        """Follow the gradient that the lanes have left."""
        self.optimizer.step()
        self.scheduler.step()
        if self.average is not None:
            self.average.update_parameters(self.network)

    def to_checkpoint(self) -> Checkpoint:
        """Give all of it, for a file."""
        return {
            "recipe": self._recipe.numbers(),
            "history": self.history,
            "network": self.network.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "arithmetic": self.arithmetic,
            "trained_on": self.trained_on,
            "random": [torch.get_rng_state(), self.shuffling.get_state(), *torch.cuda.get_rng_state_all()],
        }

    def restore(self, saved: Checkpoint) -> None:
        """Go back to where a checkpoint was made; one made without CUDA leaves CUDA's generators as they are."""
        self.history = saved["history"]
        if len(self.history) == self._recipe.epochs:  # else this device trains on
            self.arithmetic = saved.get("arithmetic", self.arithmetic)
            self.trained_on = saved.get("trained_on", self.trained_on)
        self.network.load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        if self.average is not None and saved["average"] is not None:
            self.average.load_state_dict(saved["average"])
        whole, shuffling, *devices = saved["random"]
        torch.set_rng_state(whole)
        self.shuffling.set_state(shuffling)
        if len(devices) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(devices)


def layout_of(recipe: Recipe) -> torch.memory_format:
    """Give the memory layout that a recipe asks for, of weights and images."""
    return torch.channels_last if recipe.channels_last else torch.contiguous_format
