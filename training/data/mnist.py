"""MNIST: read through torchvision, and verified byte for byte."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from ..command import RUN
from ..errors import DataError
from .dataset import Parts, Source

# torchvision checks CIFAR-10's MD5 sums whenever it opens the set, but MNIST's only on the archives it downloads.
# These are the sums of the four uncompressed files as published.
MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


class Mnist(Source):
    """Written digits, 28x28 pixels in grey."""

    name = "mnist"
    title = "MNIST"
    labels = tuple("0123456789")
    preprocessing: ClassVar[Mapping[str, Any]] = {"digits": "mnist"}

    def read(self, folder: Path) -> Parts:  # noqa: D102 -- as in Source
        from torchvision import datasets  # here, because it takes two seconds, and an up-to-date model needs no data

        train, test = (datasets.MNIST(folder, train=part, download=False) for part in (True, False))
        _check(folder / "MNIST" / "raw", f"run: {RUN}.data mnist --data-dir {folder}")
        images = [part.data.unsqueeze(3).contiguous() for part in (train, test)]
        labels = [torch.as_tensor(part.targets, dtype=torch.int64) for part in (train, test)]
        return images[0], labels[0], images[1], labels[1]

    def download(self, folder: Path) -> None:  # noqa: D102 -- as in Source
        from torchvision import datasets

        datasets.MNIST(folder, download=True)


def _check(folder: Path, remedy: str) -> None:
    """Compare the four files with the published MD5 sums; raises DataError naming the file that differs."""
    for name, expected in MD5.items():
        with (folder / name).open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found != expected:
            raise DataError(
                f"{folder.absolute() / name} is damaged (MD5 {found}, expected {expected}); remove it and {remedy}"
            )
