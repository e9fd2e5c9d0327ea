"""MNIST and CIFAR-10 as whole tensors on the device, read through torchvision and verified byte for byte.

`python -m training.data` downloads them. Both sets together are 240 MB as uint8, so no loader with workers is needed:
training indexes the tensors.
"""

import argparse
import hashlib
import os
import sys
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import torch
from rich.console import Console
from torchvision import datasets

from training.errors import DataError, TrainingError

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
    """One data set, whole: images uint8 [N, height, width, channels], labels int64 [N] in 0 … 9."""

    name: str
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor

    def to(self, device: torch.device) -> "Dataset":
        """Give the same data set with its tensors on `device`."""
        return Dataset(
            self.name,
            self.train_images.to(device),
            self.train_labels.to(device),
            self.test_images.to(device),
            self.test_labels.to(device),
        )


def default_data_dir() -> Path:
    """Where data sets are looked for when no folder is named: CONVSERVE_DATA_DIR, else ``data``."""
    return Path(os.environ.get("CONVSERVE_DATA_DIR", "data"))


def load(name: str, data_dir: Path) -> Dataset:
    """Read and verify one data set, ``mnist`` or ``cifar10``; raises DataError when it is missing or damaged."""
    remedy = f"run: python -m training.data {name} --data-dir {data_dir}"
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
    return Dataset(name, images[0], labels[0], images[1], labels[1])


def download(name: str, data_dir: Path) -> Dataset:
    """Download one data set through torchvision where it is not there yet, then verify it as `load` does."""
    kind = datasets.MNIST if name == "mnist" else datasets.CIFAR10
    try:
        kind(data_dir, download=True)
    except (RuntimeError, OSError, HTTPException) as error:
        raise DataError(
            f"{name} could not be downloaded to {data_dir.absolute()} ({error}); check the network, the free space and "
            f"that the folder can be written, or name a folder that already holds the data with --data-dir"
        ) from error
    return load(name, data_dir)


def _check_mnist(folder: Path, remedy: str) -> None:
    """Compare the four files with the published MD5 sums; raises DataError naming the file that differs."""
    for name, expected in MNIST_MD5.items():
        with (folder / name).open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found != expected:
            raise DataError(
                f"{folder.absolute() / name} is damaged (MD5 {found}, expected {expected}); remove it and {remedy}"
            )


def main(arguments: list[str] | None = None) -> int:
    """Run ``python -m training.data``; gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.data", description="Download MNIST and CIFAR-10 through torchvision, and verify them."
    )
    parser.add_argument("name", nargs="?", choices=["mnist", "cifar10", "all"], default="all", help="default: all")
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=default_data_dir(),
        help="the folder for data sets (default: $CONVSERVE_DATA_DIR, else data)",
    )
    chosen = parser.parse_args(arguments)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    try:
        for name in LABELS if chosen.name == "all" else (chosen.name,):
            data = download(name, chosen.data_dir)
            console.print(
                f"{name}: {len(data.train_images):,} + {len(data.test_images):,} images, verified, "
                f"in {chosen.data_dir.absolute()}"
            )
    except TrainingError as error:
        errors.print(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        errors.print("error: interrupted; the same command fetches again what is not whole")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
