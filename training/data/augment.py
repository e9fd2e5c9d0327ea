"""Random augmentation of a whole batch of images at once, on whatever device they are.

An epoch's random numbers are drawn at its start from one generator on the CPU, so a recipe draws the same on every
device, and nothing waits for them between steps.
"""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from ..recipes import Recipe

# Rows and columns of the grid whose nodes an elastic distortion moves.
NODES = (5, 5)


@dataclass(frozen=True)
class Draws:
    """One epoch's random numbers, a row for each image; None where the recipe does not ask for that change."""

    offsets: torch.Tensor | None
    """int64 [N, 2]: down, right."""
    flips: torch.Tensor | None
    """bool [N]."""
    matrices: torch.Tensor | None
    """float32 [N, 2, 2]: where in the old image, from its middle, each place of the new one comes from."""
    displacements: torch.Tensor | None
    """float32 [N, 2, 5, 5]: how far the nodes of a grid are moved besides (right, down), with half the image as 1."""
    color_factors: torch.Tensor | None
    """float32 [N, 3]: factors of brightness, contrast and saturation."""
    corners: torch.Tensor | None
    """int64 [N, 2]: first row and column of the cutout; parts of it may lie outside of the image."""


def draw(recipe: Recipe, shape: tuple[int, ...], epoch: int, generator: torch.Generator, device: torch.device) -> Draws:
    """Draw the changes of an epoch, counted from 0, for images of `shape` [N, height, width, channels]."""
    count, size = shape[0], (shape[1], shape[2])
    most = recipe.translation_pixels
    offsets = torch.randint(-most, most + 1, (count, 2), generator=generator) if most else None
    flips = _draw_flips(recipe, count, epoch, generator) if recipe.flip else None
    matrices = displacements = color_factors = None
    if epoch < recipe.epochs - recipe.unaugmented_epochs:
        if recipe.rotation_degrees or recipe.scale or recipe.shear:
            matrices = _draw_matrices(recipe, count, generator)
        if recipe.elastic_pixels:
            matrices = torch.eye(2).expand(count, 2, 2) if matrices is None else matrices
            unit = torch.tensor([2 / size[1], 2 / size[0]]).view(2, 1, 1)
            displacements = _uniform((count, 2, *NODES), generator) * recipe.elastic_pixels * unit
        if recipe.color_jitter:
            color_factors = 1 + _uniform((count, 3), generator) * recipe.color_jitter
    corners = None
    if recipe.cutout_pixels:
        # Centres are drawn over the whole image, so that the edges are covered as often as the middle.
        centres = [torch.randint(side, (count,), generator=generator) for side in size]
        corners = torch.stack(centres, 1) - recipe.cutout_pixels // 2
    parts = (offsets, flips, matrices, displacements, color_factors, corners)
    return Draws(*(part if part is None else part.to(device) for part in parts))


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Draw numbers between -1 and 1."""
    return torch.rand(shape, generator=generator) * 2 - 1


def _draw_flips(recipe: Recipe, count: int, epoch: int, generator: torch.Generator) -> torch.Tensor:
    if not recipe.alternating_flip:
        return torch.rand(count, generator=generator) < 0.5
    first = torch.rand(count, generator=torch.Generator().manual_seed(recipe.seed)) < 0.5
    return ~first if epoch % 2 else first


def _draw_matrices(recipe: Recipe, count: int, generator: torch.Generator) -> torch.Tensor:
    """Give [count, 2, 2]: rotate, then shear, then scale; the columns of the product of the three."""
    rotation, shear, tall, wide = _uniform((4, count), generator).unbind()
    angle = rotation * math.radians(recipe.rotation_degrees)
    cosine, sine = angle.cos(), angle.sin()
    shear, wide, tall = shear * recipe.shear, 1 + wide * recipe.scale, 1 + tall * recipe.scale
    first = torch.stack([cosine * wide, (cosine * shear - sine) * tall], 1)
    second = torch.stack([sine * wide, (sine * shear + cosine) * tall], 1)
    return torch.stack([first, second], 1)


def apply(recipe: Recipe, draws: Draws, images: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Change uint8 images [batch, height, width, channels], which are these `rows` of the epoch's draws."""
    if draws.flips is not None:
        images = flip(images, draws.flips[rows])
    if draws.matrices is not None:
        images = warp(images, draws.matrices[rows], None if draws.displacements is None else draws.displacements[rows])
    if draws.color_factors is not None:
        images = jitter_colors(images, draws.color_factors[rows])
    if draws.offsets is not None:
        images = translate(images, draws.offsets[rows], recipe.translation_pixels)
    if draws.corners is not None:
        images = cut_out(images, draws.corners[rows], recipe.cutout_pixels)
    return images


def translate(images: torch.Tensor, offsets: torch.Tensor, most: int) -> torch.Tensor:
    """Move each image by its own offset, zeros coming in at the edges.

    `images` is [batch, height, width, channels]; `offsets` int64 [batch, 2] (down, right), each in −most … most.
    """
    batch, height, width, _ = images.shape
    padded = functional.pad(images, (0, 0, most, most, most, most))
    down, right = offsets.unbind(1)
    rows = (torch.arange(height, device=images.device) + most - down[:, None])[:, :, None]
    columns = (torch.arange(width, device=images.device) + most - right[:, None])[:, None, :]
    return padded[torch.arange(batch, device=images.device)[:, None, None], rows, columns]


def flip(images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mirror the images of a mask (bool [batch]) of [batch, height, width, channels] left to right."""
    return torch.where(mask[:, None, None, None], images.flip(2), images)


def warp(images: torch.Tensor, matrices: torch.Tensor, displacements: torch.Tensor | None = None) -> torch.Tensor:
    """Rotate, shear, scale and distort uint8 images [batch, height, width, channels], interpolating.

    `matrices` is float32 [batch, 2, 2], `displacements` float32 [batch, 2, 5, 5] (see `Draws`); zeros come in.
    """
    theta = functional.pad(matrices, (0, 1))
    planes = images.permute(0, 3, 1, 2).float()
    grid = functional.affine_grid(theta, list(planes.shape), align_corners=False)
    if displacements is not None:
        moved = functional.interpolate(displacements, planes.shape[2:], mode="bicubic", align_corners=True)
        grid = grid + moved.permute(0, 2, 3, 1)
    warped = functional.grid_sample(planes, grid, align_corners=False)
    return warped.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def jitter_colors(images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Scale brightness, contrast and saturation of each uint8 image [batch, height, width, channels].

    About black, the image's mean, and each pixel's grey; `factors` is float32 [batch, 3].
    """
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
    values = images.float() * brightness
    mean = values.mean((1, 2, 3), keepdim=True)
    values = mean + (values - mean) * contrast
    grey = values.mean(3, keepdim=True)
    values = grey + (values - grey) * saturation
    return values.round().clamp(0, 255).to(torch.uint8)


def cut_out(images: torch.Tensor, corners: torch.Tensor, side: int) -> torch.Tensor:
    """Set a square of each image [batch, height, width, channels] to zero, from its corner int64 [batch, 2] on."""
    first_row, first_column = corners[:, :, None].unbind(1)
    rows, columns = (torch.arange(size, device=images.device) for size in images.shape[1:3])
    inside_rows = (rows >= first_row) & (rows < first_row + side)
    inside_columns = (columns >= first_column) & (columns < first_column + side)
    return images.masked_fill((inside_rows[:, :, None] & inside_columns[:, None, :])[..., None], 0)
