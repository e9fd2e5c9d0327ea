"""Data sets as whole tensors on the device, each read by a class of its own.

`python -m training.data` downloads MNIST and CIFAR-10. Both together are 240 MB as uint8, so no loader with workers is
needed: training indexes the tensors. Those of a folder that is larger than memory lie on disk (see `pixel_cache`).
"""

import os
from pathlib import Path

from ..command import RUN
from ..errors import DataError
from .cifar10 import Cifar10
from .dataset import Dataset, Source
from .mnist import Mnist

__all__ = ["SOURCES", "TITLES", "Dataset", "Source", "default_data_dir", "load"]

SOURCES: dict[str, Source] = {source.name: source for source in (Mnist(), Cifar10())}
"""What recipes call a data set, and what it is; `training.additions` adds those of one's own."""
TITLES = {source.name: source.title for source in SOURCES.values()} | {"folder": "a folder of images"}
"""How pages call it."""


def default_data_dir() -> Path:
    """Where data sets are looked for when no folder is named: CONVSERVE_DATA_DIR, else ``data``."""
    return Path(os.environ.get("CONVSERVE_DATA_DIR", "data"))


def load(name: str, data_dir: Path) -> Dataset:
    """Read and verify one data set by its name; raises DataError when it is missing or damaged."""
    if name not in SOURCES:
        raise DataError(f"there is no data set {name!r}; there are {', '.join(SOURCES)}, and --use FILE adds another")
    try:
        train_images, train_labels, test_images, test_labels = SOURCES[name].read(data_dir)
    except (RuntimeError, OSError, ValueError, EOFError) as error:
        # torchvision says "not found" (RuntimeError) for a missing file as well as for a wrong MD5 sum.
        raise DataError(
            f"{name} was not found, or is damaged, in {data_dir.absolute()}; "
            f"run: {RUN}.data {name} --data-dir {data_dir}"
        ) from error
    none = slice(0, 0)
    held = train_images[none], train_labels[none]
    return Dataset(name, SOURCES[name].labels, train_images, train_labels, *held, test_images, test_labels)
