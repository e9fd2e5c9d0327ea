"""CIFAR-10: read through torchvision, which verifies it."""

from pathlib import Path

import torch

from .dataset import Parts, Source


class Cifar10(Source):
    """Photos of ten kinds of things, 32x32 pixels in colour."""

    name = "cifar10"
    title = "CIFAR-10"
    labels = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    def read(self, folder: Path) -> Parts:  # noqa: D102 -- as in Source
        from torchvision import datasets  # here, because it takes two seconds, and an up-to-date model needs no data

        train, test = (datasets.CIFAR10(folder, train=part, download=False) for part in (True, False))
        images = [torch.from_numpy(part.data) for part in (train, test)]
        labels = [torch.as_tensor(part.targets, dtype=torch.int64) for part in (train, test)]
        return images[0], labels[0], images[1], labels[1]

    def download(self, folder: Path) -> None:  # noqa: D102 -- as in Source
        from torchvision import datasets

        datasets.CIFAR10(folder, download=True)
