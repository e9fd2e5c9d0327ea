"""Shifts and flips move whole images, and lose nothing but what leaves the frame."""

import torch

from training import augment


def test_shifts_move_each_image_by_its_own_offset_and_zeros_come_in() -> None:
    images = torch.arange(1, 19, dtype=torch.uint8).view(2, 3, 3, 1)
    moved = augment.shift(images, torch.tensor([[1, 0], [-1, 2]]), 2)[..., 0]
    assert moved[0].tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 6]]
    assert moved[1].tolist() == [[0, 0, 13], [0, 0, 16], [0, 0, 0]]


def test_flips_mirror_only_the_chosen_images() -> None:
    images = torch.arange(12, dtype=torch.uint8).view(2, 1, 3, 2)
    flipped = augment.flip(images, torch.tensor([True, False]))
    assert flipped[0].tolist() == [[[4, 5], [2, 3], [0, 1]]]
    assert torch.equal(flipped[1], images[1])
