"""Epochs that leave out some of the images that the network knows, without changing what it learns on average.

Source: Qin et al., "InfoBatch: lossless training speed up by unbiased dynamic data pruning" (2024).
"""

import torch
from torch.nn.functional import cross_entropy


def prune(
    share: float, order: torch.Tensor, losses: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Leave a random `share` of the easy images out of an epoch's `order`; give the others, and what each image weighs.

    `losses` [images] are those of each image when it was last seen: easy is one below their mean. An easy image that
    stays weighs 1 / (1 - share), so that the expected gradient is that of all images.
    """
    easy = losses < losses.mean()
    left_out = easy & (torch.rand(len(losses), generator=generator) < share).to(losses.device)
    return order[~left_out[order]], torch.where(easy, 1 / (1 - share), 1.0)


def mean_loss(
    logits: torch.Tensor, targets: torch.Tensor, label_smoothing: float, weights: torch.Tensor | None
) -> torch.Tensor:
    """Give the mean cross-entropy of a batch, weighted where there are weights [batch]."""
    if weights is None:
        return cross_entropy(logits, targets, label_smoothing=label_smoothing)
    each = cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="none")
    return (each * weights).sum() / weights.sum()
