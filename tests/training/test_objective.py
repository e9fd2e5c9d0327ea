"""The loss of a batch whose images are mixed with each other."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from training.data import Dataset
from training.networks import Preprocess
from training.objective import Objective, draw_shares
from training.recipes import RECIPES

from .samples import part

RECIPE = dataclasses.replace(RECIPES["mnist-tiny"], mixup=0.4)


def test_mixed_images_have_mixed_losses(mnist: Dataset) -> None:
    """By a share of 1/4 an image is that much itself, and the rest the last, last but one, …; so is its loss."""
    data = part(mnist, 6, 0)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).eval()
    objective = Objective(RECIPE, data, Preprocess((0.0,), (1.0,)), 0, torch.Generator().manual_seed(0), None)
    objective.share = 0.25
    rows = torch.tensor([5, 1, 3, 0])
    loss, logits = objective.compute(network, rows)

    pixels = data.train_images[rows].reshape(4, 784).numpy() / 255
    mixed = 0.25 * pixels + 0.75 * pixels[::-1]
    weight, bias = (tensor.detach().numpy().astype(np.float64) for tensor in network.parameters())
    expected = mixed @ weight.T + bias
    costs = np.log(np.exp(expected).sum(1, keepdims=True)) - expected
    labels = data.train_labels[rows].numpy()
    each = 0.25 * costs[range(4), labels] + 0.75 * costs[range(4), labels[::-1]]
    assert logits.detach().numpy() == pytest.approx(expected, abs=1e-5)
    assert loss.item() == pytest.approx(each.mean(), abs=1e-5)


def test_shares_are_drawn_for_mixup_only() -> None:
    """Shares lie between 0 and 1, one for each step, and are 1 without mixup."""
    torch.manual_seed(0)
    shares = draw_shares(RECIPE, 200)
    assert len(set(shares)) == 200
    assert 0 <= min(shares) < 0.1 < 0.9 < max(shares) <= 1
    assert draw_shares(RECIPES["mnist-tiny"], 3) == [1.0] * 3
