"""Networks of torchvision and timm with random weights, scaled so that their outputs tell images apart."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import nn
from torchvision import models
from torchvision.transforms._presets import ImageClassification

from training.data import Dataset

LABELS = ("ant", "bee", "cat", "dog", "eel")
SIZE = 64
# Of three logits of a class, between images: far above what a wrong pixel pipeline would hide.
SPREAD = 4.0


@dataclass(frozen=True)
class Foreign:
    """A network of a library, and the library's own pipeline for it."""

    name: str
    module: nn.Module
    transform: Callable[[Image.Image], torch.Tensor]
    size: int

    def probabilities(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """What the library gives for images: [N, classes]."""
        with torch.no_grad():
            found: torch.Tensor = self.module(torch.stack([self.transform(image) for image in images])).softmax(1)
        return found


@functools.cache
def of_torchvision(name: str) -> Foreign:
    """A network of torchvision for small images."""
    torch.manual_seed(0)
    module = models.get_model(name, weights=None, num_classes=len(LABELS))
    rule = models.get_model_weights(name).DEFAULT.transforms()
    (side,), (resize,) = rule.crop_size, rule.resize_size
    small = ImageClassification(
        crop_size=SIZE,
        resize_size=round(resize * SIZE / side),
        mean=rule.mean,
        std=rule.std,
        interpolation=rule.interpolation,
    )
    return Foreign(name, scaled(module, SIZE), small, SIZE)


@functools.cache
def of_timm(name: str) -> Foreign:
    """A network of timm for small images."""
    torch.manual_seed(0)
    sized = {"img_size": SIZE} if "vit" in name else {}
    module = timm.create_model(name, pretrained=False, num_classes=len(LABELS), **sized)
    config = resolve_model_data_config(module) | {"input_size": (3, SIZE, SIZE)}
    return Foreign(name, scaled(module, SIZE), create_transform(**config, is_training=False), SIZE)


def scaled(module: nn.Module, size: int) -> nn.Module:
    """Fit batch norm to soft shapes under noise, and scale the last layer until logits of images differ by SPREAD."""
    draw = torch.Generator().manual_seed(1)
    coarse = torch.randn((16, 3, 4, 4), generator=draw) * 1.5
    images = nn.functional.interpolate(coarse, (size, size), mode="bicubic")
    images += torch.randn(images.shape, generator=draw) * 0.3  # a network that never saw noise multiplies it by far
    module.eval()  # but for batch norm: what is dropped by chance would leave it other statistics than those in use
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.train().momentum = None  # a mean over all batches, of which there is one
    with torch.no_grad():
        module(images)
        last = [part for part in module.eval().modules() if isinstance(part, nn.Linear | nn.Conv2d)][-1]
        if last.weight.abs().max() == 0:
            nn.init.normal_(last.weight, generator=draw)
        found = module(images)
        last.weight.mul_(SPREAD / (found.amax(0) - found.amin(0)).max().clamp_min(1e-6))
    return module


def photos(data: Dataset, folder: Path, count: int = 4) -> list[Path]:
    """Write JPEG files of several sizes and aspect ratios, made of real images."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for place, size in enumerate([(200, 150), (150, 211), (96, 96), (333, 120)][:count]):
        image = Image.fromarray(data.test_images[place].numpy()).resize(size, Image.Resampling.BICUBIC)
        paths.append(folder / f"{place}.jpg")
        image.save(paths[-1], quality=95)
    return paths
