"""MNIST and CIFAR-10 as whole tensors on the device, read through torchvision and verified byte for byte.

`python -m training.data` downloads them. Both sets together are 240 MB as uint8, so no loader with workers is needed:
training indexes the tensors.
"""

import hashlib
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from ..command import RUN
from ..errors import DataError

LABELS = {
    "mnist": tuple("0123456789"),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}

# torchvision checks CIFAR-10's MD5 sums whenever it opens the set, but MNIST's only on the archives it downloads.
# These are the sums of the four uncompressed files as published.
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


@dataclass(frozen=True)
class Dataset:
    """One data set, whole: images uint8 [N, height, width, channels], and class numbers int64 [N]."""

    name: str
    labels: tuple[str, ...]
    """The name of each class."""
    train_images: torch.Tensor
    train_labels: torch.Tensor
    validation_images: torch.Tensor
    """Held out of the training images by `hold_out`, where the data set does not bring its own."""
    validation_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor

    def hold_out(self, count: int) -> "Dataset":
        """Give the same data set with that many training images made validation images: the same ones at each call.

        A data set that brings validation images of its own, or holds none out, is given as it is. Raises DataError
        where nothing would be left to train with.
        """
        if len(self.validation_images) or not count:
            return self
        if count >= len(self.train_images):
            raise DataError(
                f"{self.name} has {len(self.train_images)} training images, of which the recipe holds out {count}; "
                f"it needs more images, or a smaller share"
            )
        order = torch.randperm(len(self.train_images), generator=torch.Generator().manual_seed(0))
        kept, held = order[count:].sort().values, order[:count].sort().values
        return replace(
            self,
            train_images=self.train_images[kept],
            train_labels=self.train_labels[kept],
            validation_images=self.train_images[held],
            validation_labels=self.train_labels[held],
        )

    def digest(self) -> str:
        """Give a short SHA-256 of the labels and of every image with its class, by which a folder is known again."""
        found = hashlib.sha256("\0".join(self.labels).encode())
        for tensor in self._tensors().values():
            found.update(str(tuple(tensor.shape)).encode())
            found.update(tensor.cpu().numpy().tobytes())
        return found.hexdigest()[:16]

    def to(self, device: torch.device) -> "Dataset":
        """Give the same data set with its tensors on `device`."""
        return replace(self, **{name: tensor.to(device) for name, tensor in self._tensors().items()})

    def _tensors(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("name", "labels")}


def default_data_dir() -> Path:
    """Where data sets are looked for when no folder is named: CONVSERVE_DATA_DIR, else ``data``."""
    return Path(os.environ.get("CONVSERVE_DATA_DIR", "data"))


def load(name: str, data_dir: Path) -> Dataset:
    """Read and verify one data set, ``mnist`` or ``cifar10``; raises DataError when it is missing or damaged."""
    from torchvision import datasets  # here, because it takes two seconds, and an up-to-date model needs no data

    remedy = f"run: {RUN}.data {name} --data-dir {data_dir}"
    try:
        if name == "mnist":
            train, test = (datasets.MNIST(data_dir, train=part, download=False) for part in (True, False))
            _check_mnist(data_dir / "MNIST" / "raw", remedy)
            images = [part.data.unsqueeze(3).contiguous() for part in (train, test)]
        else:
            train, test = (datasets.CIFAR10(data_dir, train=part, download=False) for part in (True, False))
            images = [torch.from_numpy(part.data) for part in (train, test)]
    except (RuntimeError, OSError, ValueError, EOFError) as error:
        # torchvision says "not found" (RuntimeError) for a missing file as well as for a wrong MD5 sum.
        raise DataError(f"{name} was not found, or is damaged, in {data_dir.absolute()}; {remedy}") from error
    labels = [torch.as_tensor(part.targets, dtype=torch.int64) for part in (train, test)]
    none = slice(0, 0)
    return Dataset(name, LABELS[name], images[0], labels[0], images[0][none], labels[0][none], images[1], labels[1])


def _check_mnist(folder: Path, remedy: str) -> None:
    """Compare the four files with the published MD5 sums; raises DataError naming the file that differs."""
    for name, expected in MNIST_MD5.items():
        with (folder / name).open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found != expected:
            raise DataError(
                f"{folder.absolute() / name} is damaged (MD5 {found}, expected {expected}); remove it and {remedy}"
            )
