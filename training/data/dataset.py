"""One data set as whole tensors, and the interface of every data set that is known by name."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from ..errors import DataError

Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Images and class numbers to train with, then those to test with."""


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
            found.update(tensor.cpu().contiguous().numpy().reshape(-1))
        return found.hexdigest()[:16]

    def to(self, device: torch.device) -> "Dataset":
        """Give the same data set with its tensors on `device`, but for images that lie on disk."""
        moved = {name: tensor for name, tensor in self._tensors().items() if not lies_on_disk(tensor)}
        return replace(self, **{name: tensor.to(device) for name, tensor in moved.items()})

    def _tensors(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("name", "labels")}


def lies_on_disk(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor is a file, mapped into memory."""
    return tensor.untyped_storage().filename is not None


class Source(ABC):
    """A data set that recipes name: one class has its labels, how it is read, and where it comes from."""

    name: ClassVar[str]
    title: ClassVar[str]
    """How pages call it."""
    labels: ClassVar[tuple[str, ...]]
    """The name of each class."""
    preprocessing: ClassVar[Mapping[str, Any]] = {}
    """What a model file tells a server of images that are not of its form."""

    @abstractmethod
    def read(self, folder: Path) -> Parts:
        """Read and verify it in a folder of data sets.

        Raises RuntimeError, OSError, ValueError or EOFError where it is missing or damaged, or DataError itself.
        """

    @abstractmethod
    def download(self, folder: Path) -> None:
        """Fetch it into a folder of data sets where it is not there yet; raises RuntimeError, OSError or HTTPException.

        One that cannot be fetched raises DataError, which says where it is to be had.
        """
