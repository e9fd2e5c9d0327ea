"""A test set of one's own: a folder of images for each class."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import UnusableDataset

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
"""Of the files that are images; others are left alone, and hidden ones."""
PARTS = ("test", "val", "valid", "validation")
"""The first of these folders that is there has the class folders, where the folder itself is split."""


@dataclass(frozen=True)
class ImageFiles:
    """A test set whose pictures are files."""

    name: str
    pictures: list[Path]
    labels: npt.NDArray[np.int64]
    """[N], places in the model's list of labels."""

    def first(self, count: int) -> "ImageFiles":
        """Keep the first ``count`` pictures, or all where there are fewer."""
        return ImageFiles(self.name, self.pictures[:count], self.labels[:count])


def read_class_folder(folder: Path, labels: Sequence[str]) -> ImageFiles:
    """Find the image files of each class, in no order of classes. Raises UnusableDataset where there are none."""
    top = next((folder / name for name in PARTS if (folder / name).is_dir()), folder)
    classes = sorted(each for each in top.iterdir() if each.is_dir() and not each.name.startswith("."))
    strange = [each for each in classes if each.name not in labels]
    if strange:
        raise UnusableDataset(
            f"{strange[0]} is a class folder, and the model has no class '{strange[0].name}': name another folder, or "
            "another model with --model"
        )
    found = [
        (path, labels.index(each.name))
        for each in classes
        for path in sorted(each.rglob("*"))
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()
    ]
    if not found:
        raise UnusableDataset(
            f"{top.absolute()} holds no images in folders named as the model's classes, such as {top / labels[0]}"
        )
    order = np.random.default_rng(0).permutation(len(found))
    pictures, numbers = zip(*(found[place] for place in order), strict=True)
    return ImageFiles(str(folder), list(pictures), np.array(numbers, np.int64))
