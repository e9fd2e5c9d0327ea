"""A batch in lanes gives the gradient of the whole batch."""

import dataclasses
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.nn.functional import cross_entropy

from training.data import Dataset
from training.lanes import Lanes
from training.networks import NETWORKS
from training.recipes import RECIPES
from training.train import train

from .samples import CPU, part


@pytest.mark.parametrize("lanes", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 7, 12])
def test_lanes_leave_the_batchs_gradient(lanes: int, count: int) -> None:
    """Whatever the number of lanes, and where it does not divide the batch: no norm mixes images here."""
    torch.manual_seed(0)
    images, labels = torch.randn(count, 1, 28, 28), torch.randint(0, 10, (count,))
    network = NETWORKS["mnist-tiny"].build()
    loss = cross_entropy(network(images), labels)
    expected = torch.autograd.grad(loss, list(network.parameters()))

    def compute(part_of: nn.Module, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = part_of(images[rows])
        return cross_entropy(logits, labels[rows]), logits

    split = Lanes(network, lanes)
    for _ in range(2):  # a second batch finds nothing of the first
        found, logits = split.follow(compute, torch.arange(count))
        torch.testing.assert_close(found, loss.detach())
        torch.testing.assert_close(logits, network(images).detach())
        torch.testing.assert_close([weight.grad for weight in network.parameters()], list(expected))


def test_threads_are_given_back(mnist: Dataset, tmp_path: Path, console: Console) -> None:
    """After a training in lanes PyTorch has as many threads as before, and its weights are nearly those without."""
    threads, found = torch.get_num_threads(), []
    for lanes in (1, 2):
        recipe = dataclasses.replace(RECIPES["mnist-tiny"], epochs=1, lanes=lanes)
        training = train(recipe, part(mnist, 320, 0), CPU, tmp_path / f"{lanes}.pt", console)
        found.append(torch.cat([weight.flatten() for weight in training.network.parameters()]))
    assert torch.get_num_threads() == threads
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-3)
