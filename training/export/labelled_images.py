"""Real images with their classes, on which a module is proved: from a folder, a data set, or any pairs of the two."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from ..data import Dataset
from ..data.folder import find_labelled
from ..data.image_files import prepare, read_all
from ..errors import DataError
from ..preprocessing import Preprocessing

# Fewer images than this, held out, say little about a temperature.
LEAST_HELD = 50
TEST, HELD = ("test",), ("val", "valid", "validation")


@dataclass(frozen=True)
class LabelledImages:
    """Images uint8 [N, height, width, channels], prepared for a model, and their classes int64 [N]."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: torch.Tensor) -> "LabelledImages":
        """Give those rows."""
        return LabelledImages(self.images[rows], self.labels[rows])

    def halves(self) -> "tuple[LabelledImages, LabelledImages]":
        """Give two halves by chance, the same ones at each call."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))
        middle = len(self) // 2
        return self.take(order[:middle].sort().values), self.take(order[middle:])


def load(
    source: Any, labels: tuple[str, ...], rule: Preprocessing, console: Console
) -> tuple[LabelledImages, LabelledImages | None]:
    """Read what is to be tested on, and what is held out beside it, if the source has that too.

    The source is a folder of class folders named by the labels, perhaps in `test` and `val`; a Dataset of this package;
    or pairs of an image (Pillow, or uint8 pixels) and the number of its class, as torchvision's data sets give them.
    Raises DataError.
    """
    if isinstance(source, (str, Path)):
        return _of_folder(Path(source), labels, rule, console)
    if isinstance(source, Dataset):
        if source.labels != labels:
            raise DataError(f"{source.name} has the labels {source.labels}, and the model {labels}; they must agree")
        held = _of_pairs(zip(source.validation_images, source.validation_labels.tolist(), strict=True), labels, rule)
        tested = _of_pairs(zip(source.test_images, source.test_labels.tolist(), strict=True), labels, rule)
        return _some(tested, source.name), held if len(held) else None
    return _some(_of_pairs(_pairs_of(source), labels, rule), "test"), None


def _some(found: LabelledImages, where: str) -> LabelledImages:
    if not len(found):
        raise DataError(f"{where} holds no images to test on; leave it out, or give some")
    return found


def _of_folder(
    folder: Path, labels: tuple[str, ...], rule: Preprocessing, console: Console
) -> tuple[LabelledImages, LabelledImages | None]:
    tested = next((folder / name for name in (*TEST, *HELD) if (folder / name).is_dir()), folder)
    held = next((folder / name for name in HELD if (folder / name).is_dir() and folder / name != tested), None)
    return _read(tested, labels, rule, console), None if held is None else _read(held, labels, rule, console)


def _read(folder: Path, labels: tuple[str, ...], rule: Preprocessing, console: Console) -> LabelledImages:
    samples = find_labelled(folder, labels)
    images = read_all([path for path, _ in samples], rule.shape, console, rule)
    found = LabelledImages(images, torch.tensor([number for _, number in samples], dtype=torch.int64))
    # In no order of classes: the probe takes the first images.
    return found.take(torch.randperm(len(found), generator=torch.Generator().manual_seed(0)))


def _pairs_of(source: Any) -> Iterable[tuple[Any, Any]]:
    """Give the pairs of a data set that has a length, or of anything that can be gone through."""
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return (source[place] for place in range(len(source)))
    if isinstance(source, Iterable):
        return source
    raise DataError(f"test is a {type(source).__name__}; a folder, a data set or pairs of image and class are expected")


def _of_pairs(pairs: Iterable[tuple[Any, Any]], labels: tuple[str, ...], rule: Preprocessing) -> LabelledImages:
    images, numbers = [], []
    for place, pair in enumerate(pairs):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise DataError(f"item {place} of test is no pair of an image and the number of its class")
        number = int(pair[1])
        if not 0 <= number < len(labels):
            raise DataError(f"item {place} of test is of class {number}, and there are {len(labels)} labels")
        images.append(prepare(_decoded(pair[0], place), rule))
        numbers.append(number)
    stacked = np.stack(images) if images else np.empty((0, *rule.shape), np.uint8)
    return LabelledImages(torch.from_numpy(stacked), torch.tensor(numbers, dtype=torch.int64))


def _decoded(image: Any, place: int) -> Image.Image | NDArray[np.uint8]:
    if isinstance(image, Image.Image):
        return image
    pixels = image.numpy() if isinstance(image, torch.Tensor) else image
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        what = f"{getattr(pixels, 'dtype', type(image).__name__)} values"
        raise DataError(
            f"item {place} of test holds {what}; decoded images are expected, Pillow's or uint8 pixels: leave out the "
            f"transforms that scale and normalise, which the model file has inside"
        )
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim == 3 and pixels.shape[2] not in (1, 3) and pixels.shape[0] in (1, 3):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise DataError(f"item {place} of test has shape {pixels.shape}; [height, width, 1 or 3] is expected")
    return np.ascontiguousarray(pixels)
