"""The loss of a batch: its images, changed by the epoch's draws, their classes, and the logits of a teacher.

Sources of distillation: Hinton et al., "Distilling the knowledge in a neural network" (2015); Beyer et al., "Knowledge
distillation: a good teacher is patient and consistent" (2022): both networks see the same augmented images, for long.
Of mixup: Zhang et al., "mixup: Beyond empirical risk minimization" (2018).
"""

from functools import partial

import torch
from torch import nn
from torch.distributions import Beta
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from . import views
from .data import Dataset, augment
from .device import autocast
from .networks import Preprocess
from .recipes import Recipe

Teacher = nn.Module | list[torch.Tensor] | None
"""A network that computes what the student sees, or stored logits of fixed views, or None."""


def memory_format_of(recipe: Recipe) -> torch.memory_format:
    """Give the memory format that a recipe asks for, of weights and images."""
    return torch.channels_last if recipe.channels_last else torch.contiguous_format


def distillation_loss(logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Give the mean divergence of a student's logits from its teacher's, both float [batch, classes].

    Both are divided by `temperature` before their softmax, so that classes that are wrong weigh in; the square of it
    keeps the gradient's size.
    """
    found, expected = log_softmax(logits.float() / temperature, 1), log_softmax(teacher_logits.float() / temperature, 1)
    return kl_div(found, expected, reduction="batchmean", log_target=True) * temperature**2


def draw_shares(recipe: Recipe, steps: int) -> list[float]:
    """Draw how much of each image stays its own at each step; the rest is another image of its batch."""
    if not recipe.mixup:
        return [1.0] * steps
    shares: list[float] = Beta(recipe.mixup, recipe.mixup).sample((steps,)).tolist()  # from PyTorch's own generator
    return shares


class Objective:
    """Gives the loss of an epoch's batches, by their rows in the training set."""

    def __init__(
        self,
        recipe: Recipe,
        data: Dataset,
        preprocess: Preprocess,
        epoch: int,
        shuffling: torch.Generator,
        teacher: Teacher,
    ) -> None:
        self._recipe, self._data, self._preprocess, self._teacher = recipe, data, preprocess, teacher
        self._device = data.train_labels.device
        self.share = 1.0
        """What is left of each image; the rest is mixed in."""
        shape = tuple(data.train_images.shape)
        self._view = None
        if isinstance(teacher, list):
            self._view = views.view_of_epoch(recipe, shape, epoch, teacher, self._device)
            self._change = self._view.apply
        else:
            draws = augment.draw(recipe, shape, epoch, shuffling, self._device)
            self._change = partial(augment.apply, recipe, draws)

    def compute(self, network: nn.Module, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the mean loss of these rows, and their logits."""
        recipe, labels, images = self._recipe, self._data.train_labels[rows], self._data.train_images
        seen = images[rows.to(images.device)].to(self._device)  # images that lie on disk come by batches
        memory_format = memory_format_of(recipe)
        inputs = self._preprocess(self._change(seen, rows)).contiguous(memory_format=memory_format)
        if self.share < 1:
            inputs = inputs.lerp(inputs.flip(0), 1 - self.share)
        with autocast(recipe.precision, self._device):
            logits = network(inputs)
            loss = cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
            if self.share < 1:
                others = cross_entropy(logits, labels.flip(0), label_smoothing=recipe.label_smoothing)
                loss = loss.lerp(others, 1 - self.share)
            teacher_logits = self._teacher_logits(inputs, rows)
            if teacher_logits is not None:
                distance = distillation_loss(logits, teacher_logits, recipe.distillation_temperature)
                loss = loss.lerp(distance, recipe.distillation_weight)
        return loss, logits

    def _teacher_logits(self, inputs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor | None:
        if self._view is not None:
            return self._view.answers[rows]
        if not isinstance(self._teacher, nn.Module):
            return None
        with torch.no_grad():
            logits: torch.Tensor = self._teacher(inputs)
        return logits
