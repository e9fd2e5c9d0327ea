"""An epoch leaves out only what is easy, and the rest stands for it."""

import pytest
import torch
from torch import nn

from training import pruning


def test_easy_images_are_left_out_at_random_and_those_that_stay_weigh_more() -> None:
    losses = torch.rand(10_000, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(10_000)[:9_000]
    kept, weights = pruning.prune(0.25, order, losses, torch.Generator().manual_seed(1))
    hard = losses >= losses.mean()
    assert torch.equal(order[torch.isin(order, kept)], kept)  # in their order
    assert set(order[hard[order]].tolist()) <= set(kept.tolist())
    assert len(kept[~hard[kept]]) == pytest.approx(0.75 * len(order[~hard[order]]), rel=0.05)
    assert torch.equal(weights, torch.where(hard, 1, 1 / 0.75))
    assert float(weights[kept].sum()) == pytest.approx(9_000, rel=0.02)


def test_weights_of_images_weigh_their_losses() -> None:
    logits, targets = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 0, 1])
    each = nn.functional.cross_entropy(logits, targets, reduction="none", label_smoothing=0.1)
    weighted = pruning.mean_loss(logits, targets, 0.1, torch.tensor([1.0, 2.0, 1.0]))
    assert float(weighted) == pytest.approx(float((each[0] + 2 * each[1] + each[2]) / 4))
    assert float(pruning.mean_loss(logits, targets, 0.1, None)) == pytest.approx(float(each.mean()))
