"""Shifts and flips move whole images, and lose nothing but what leaves the frame."""

import dataclasses

import torch

from training.data import augment
from training.recipes import RECIPES


def test_translation_moves_each_image_by_itself() -> None:
    """Translation moves each image by its own offset, and zeros come in."""
    images = torch.arange(1, 19, dtype=torch.uint8).view(2, 3, 3, 1)
    moved = augment.translate(images, torch.tensor([[1, 0], [-1, 2]]), 2)[..., 0]
    assert moved[0].tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 6]]
    assert moved[1].tolist() == [[0, 0, 13], [0, 0, 16], [0, 0, 0]]


def test_flips_mirror_only_the_chosen_images() -> None:
    """Flips mirror only the chosen images."""
    images = torch.arange(12, dtype=torch.uint8).view(2, 1, 3, 2)
    flipped = augment.flip(images, torch.tensor([True, False]))
    assert flipped[0].tolist() == [[[4, 5], [2, 3], [0, 1]]]
    assert torch.equal(flipped[1], images[1])


def test_alternating_flips_mirror_every_second_epoch() -> None:
    """Alternating flips mirror every image in every second epoch."""
    recipe = dataclasses.replace(RECIPES["cifar10-cnn"], alternating_flip=True)
    generator = torch.Generator().manual_seed(7)
    epochs = [augment.draw(recipe, (1000, 4, 4, 3), epoch, generator, torch.device("cpu")).flips for epoch in range(3)]
    first, second, third = (flips for flips in epochs if flips is not None)
    assert torch.equal(second, ~first)
    assert torch.equal(third, first)
    assert 400 < int(first.sum()) < 600
    drawn = dataclasses.replace(recipe, alternating_flip=False)
    again = [augment.draw(drawn, (1000, 4, 4, 3), epoch, generator, torch.device("cpu")).flips for epoch in range(2)]
    assert again[0] is not None
    assert again[1] is not None
    assert 400 < int((again[0] ^ again[1]).sum()) < 600


def test_warp_by_identity_and_quarter_turn() -> None:
    """A warp of nothing changes nothing and a quarter turn is one."""
    images = torch.randint(0, 256, (2, 5, 5, 3), dtype=torch.uint8)
    same = torch.eye(2).expand(2, 2, 2)
    assert torch.equal(augment.warp(images, same), images)
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]]).expand(2, 2, 2)
    assert torch.equal(augment.warp(images, quarter), images.rot90(1, (1, 2)))


def test_cutout_zeroes_one_square() -> None:
    """A cutout zeroes one square and may reach over the edge."""
    images = torch.ones(2, 4, 4, 1, dtype=torch.uint8)
    cut = augment.cut_out(images, torch.tensor([[1, 2], [-1, -1]]), 2)[..., 0]
    assert cut[0].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert cut[1].tolist() == [[0, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]


def test_draws_keep_within_the_recipe() -> None:
    """Draws keep within what the recipe allows."""
    recipe = dataclasses.replace(RECIPES["mnist"], rotation_degrees=10, scale=0.1, shear=0.0, cutout_pixels=6)
    draws = augment.draw(recipe, (10_000, 28, 28, 1), 0, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert draws.flips is None
    assert draws.offsets is not None
    assert set(draws.offsets.flatten().tolist()) == {-2, -1, 0, 1, 2}
    assert draws.corners is not None
    assert (int(draws.corners.min()), int(draws.corners.max())) == (-3, 24)
    assert draws.matrices is not None
    scales = draws.matrices.norm(dim=1)
    assert 0.9 - 1e-5 <= float(scales.min()) < 0.905
    assert 1.095 < float(scales.max()) <= 1.1 + 1e-5
    angles = torch.atan2(draws.matrices[:, 1, 0], draws.matrices[:, 0, 0]).rad2deg()
    assert 9.9 < float(angles.abs().max()) <= 10 + 1e-3
    none = augment.draw(RECIPES["mnist-tiny"], (3, 28, 28, 1), 0, torch.Generator(), torch.device("cpu"))
    assert none == augment.Draws(None, None, None, None, None, None)


def test_last_epochs_are_not_augmented() -> None:
    """The last unaugmented epochs are without rotation, elastic distortion and color jitter."""
    recipe = dataclasses.replace(
        RECIPES["cifar10-cnn"],
        epochs=3,
        unaugmented_epochs=1,
        rotation_degrees=5.0,
        elastic_pixels=1.0,
        color_jitter=0.3,
    )
    source = torch.Generator().manual_seed(0)
    second, third = (augment.draw(recipe, (9, 32, 32, 3), epoch, source, torch.device("cpu")) for epoch in (1, 2))
    assert None not in (second.matrices, second.displacements, second.color_factors, second.offsets, second.flips)
    assert (third.matrices, third.displacements, third.color_factors) == (None, None, None)
    assert third.offsets is not None
    assert third.flips is not None
    assert second.color_factors is not None
    assert 0.7 <= float(second.color_factors.min()) < 0.8
    assert 1.2 < float(second.color_factors.max()) <= 1.3


def test_color_jitter_scales_about_its_centres() -> None:
    """Colors are scaled about black, the mean, and grey."""
    image = torch.tensor([[[[10, 20, 30], [50, 60, 70]]]], dtype=torch.uint8)  # its mean is 40

    def changed(*factors: float) -> list[list[int]]:
        return augment.jitter_colors(image, torch.tensor([factors]))[0, 0].tolist()

    assert changed(1, 1, 1) == [[10, 20, 30], [50, 60, 70]]
    assert changed(1.5, 1, 1) == [[15, 30, 45], [75, 90, 105]]
    assert changed(1, 0.5, 1) == [[25, 30, 35], [45, 50, 55]]
    assert changed(1, 1, 0) == [[20, 20, 20], [60, 60, 60]]
    assert changed(9, 1, 1) == [[90, 180, 255], [255, 255, 255]]
