"""Random shifts and flips of a whole batch at once, on whatever device the images are."""

import torch
from torch.nn import functional


def shift(images: torch.Tensor, offsets: torch.Tensor, most: int) -> torch.Tensor:
    """Move each image by its own offset, zeros coming in at the edges.

    `images` is [batch, height, width, channels]; `offsets` int64 [batch, 2] (down, right), each in −most … most.
    """
    batch, height, width, _ = images.shape
    padded = functional.pad(images, (0, 0, most, most, most, most))
    down, right = offsets.unbind(1)
    rows = (torch.arange(height, device=images.device) + most - down[:, None])[:, :, None]
    columns = (torch.arange(width, device=images.device) + most - right[:, None])[:, None, :]
    return padded[torch.arange(batch, device=images.device)[:, None, None], rows, columns]


def flip(images: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Mirror the chosen images (bool [batch]) of [batch, height, width, channels] left to right."""
    return torch.where(chosen[:, None, None, None], images.flip(2), images)
