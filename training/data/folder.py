"""A folder of class-named folders of images, as torchvision's ImageFolder has it, as a data set."""

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from ..errors import DataError
from ..preprocessing import Preprocessing
from .dataset import Dataset
from .image_files import EXTENSIONS
from .pixel_cache import PixelCache, read_parts

Sample = tuple[Path, int]
"""An image file and its class."""

# Names by which a folder beside `train` is taken for the test set; the second only where there is none of the first.
TEST, VALIDATION = ("test",), ("val", "valid", "validation")
# Without a test set of its own, one in so many images of each class is held out.
TEST_SHARE = 5
# From so many training images on, one in so many of each class is held out for the temperature of the probabilities:
# fewer than fifty say little about one.
VALIDATION_FROM, VALIDATION_SHARE = 500, 10
# Where validation images are wanted from fewer, as for early stopping: a tenth of those would tell nothing.
FEW_VALIDATION_SHARE = 5
SHOWN_CLASSES = 10


def load_folder(
    folder: Path,
    shape: tuple[int, int, int],
    console: Console | None = None,
    validation_from: int = VALIDATION_FROM,
    rule: Preprocessing | None = None,
    cache: PixelCache | None = None,
) -> Dataset:
    """Read a folder's images at a network's `shape` (height, width, channels); labels are the class folders' names.

    Where `folder` has `train` and `test` (or `val`), each with class folders, these are the split; else a fifth of each
    class is held out for testing. The same files give the same data set, in the same shuffled order. An image is in one
    part only, however many copies there are. From `validation_from` training images on, some of each class validate.
    Images are prepared by the `rule`, if there is one, and lie in the `cache`, if there is one and they are many. What
    was found is said on `console`. Raises DataError, in one sentence, for what cannot be trained on.
    """
    console = console or Console(quiet=True)
    draw = torch.Generator().manual_seed(0)
    train, test, validation, labels, how = _split(folder, draw)
    if not validation and len(train) >= validation_from:
        share = VALIDATION_SHARE if len(train) >= VALIDATION_FROM else FEW_VALIDATION_SHARE
        train, validation = _hold_out(train, share, draw, least=0)
    # In no order of classes: the probe and the parity check take the first test images.
    parts = [[part[i] for i in torch.randperm(len(part), generator=draw)] for part in (train, validation, test)]
    pixels = read_parts([[path for path, _ in part] for part in parts], shape, console, rule, cache)
    train, validation, test = ([part[row] for row in rows] for part, rows in zip(parts, pixels.kept, strict=True))
    gone = sorted({number for _, number in parts[0]} - {number for _, number in train})
    if gone:
        raise DataError(
            f"each training image of {labels[gone[0]]!r} is an image of another part too, so nothing is left to train "
            f"with; add others"
        )
    for sentence in pixels.told:
        console.print(sentence, soft_wrap=True, highlight=False, markup=False)
    shown = ", ".join(labels[:SHOWN_CLASSES]) + (", …" if len(labels) > SHOWN_CLASSES else "")
    console.print(
        f"{folder}: {len(labels)} classes ({shown}); {len(train):,} images to train, {len(validation):,} to validate, "
        f"{len(test):,} to test ({how})",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    numbers = [torch.tensor([number for _, number in part], dtype=torch.int64) for part in (train, validation, test)]
    return Dataset("folder", labels, *(tensor for pair in zip(pixels.images, numbers, strict=True) for tensor in pair))


def find_labelled(folder: Path, labels: Sequence[str]) -> list[Sample]:
    """Find all images of class folders whose names are among the labels; raises DataError where there are none.

    A label without a folder has no images; a folder that is no label is refused.
    """
    names = _folders(folder)
    if not names:
        raise DataError(f"{folder.absolute()} has no class folders; put the images of each class into one of its name")
    strange = sorted(set(names) - set(labels))
    if strange:
        raise DataError(f"{folder / strange[0]} is a class folder, and {strange[0]!r} is none of the model's labels")
    numbers = {name: list(labels).index(name) for name in names}
    samples = [(path, numbers[names[place]]) for path, place in _samples(folder, names, least=1)]
    return sorted(samples, key=lambda sample: sample[0])


def _split(
    folder: Path, draw: torch.Generator
) -> tuple[list[Sample], list[Sample], list[Sample], tuple[str, ...], str]:
    """Give samples to train, to test and to validate, the labels, and in words where the test images come from."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder.absolute()}; name the one with your class folders by --data-dir")
    if not _folders(folder / "train"):
        labels = _labels(folder)
        samples = _samples(folder, labels, least=2)
        train, test = _hold_out(samples, TEST_SHARE, draw, least=1)
        return train, test, [], labels, "a fifth of each class, the same one at every run"
    beside = [folder / name for name in (*TEST, *VALIDATION) if _folders(folder / name)]
    if not beside:
        raise DataError(
            f"{folder / 'train'} has class folders, but no 'test' or 'val' with class folders stands beside it; add "
            f"one, or name {folder / 'train'} itself by --data-dir, and a fifth of it will be held out"
        )
    labels = _labels(folder / "train")
    for other in beside[:2]:
        different = sorted(set(labels) ^ set(_folders(other)))
        if different:
            one, lacks = (other, folder / "train") if different[0] in labels else (folder / "train", other)
            raise DataError(
                f"{lacks / different[0]} is a class, and {one} has none of that name; training and test need the same "
                f"classes, so add or remove the folder"
            )
    found = [_samples(part, labels, least=1) for part in (folder / "train", *beside[:2])]
    validation = found[2] if len(found) > 2 else []
    return found[0], found[1], validation, labels, f"from {beside[0]}"


def _folders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted, but for hidden ones, as tools leave them behind; none if it is none."""
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _labels(folder: Path) -> tuple[str, ...]:
    names = _folders(folder)
    if not names:
        raise DataError(
            f"{folder.absolute()} has no class folders; put the images of each class into a folder of its own, whose "
            f"name becomes the label, such as {folder / 'cat' / 'one.png'}"
        )
    if len(names) == 1:
        raise DataError(
            f"{folder.absolute()} has one class folder, {names[0]!r}, and a classifier needs at least two; add "
            f"another, or name the folder that holds all of them by --data-dir"
        )
    odd = [name for name in names if not name.isprintable()]
    if odd:
        raise DataError(f"the class folder {odd[0]!a} in {folder.absolute()} has a name that is no text; rename it")
    return tuple(names)


def _samples(folder: Path, labels: Sequence[str], least: int) -> list[Sample]:
    """All images of the class folders, sorted, whatever lies deeper included; raises DataError for too few."""
    from torchvision.datasets.folder import make_dataset  # here, for the same reason as in data.py

    numbers = {label: number for number, label in enumerate(labels)}
    found = make_dataset(str(folder), numbers, is_valid_file=_is_image_file, allow_empty=True)
    samples = [(Path(path), number) for path, number in found]
    counts = torch.bincount(torch.tensor([number for _, number in samples], dtype=torch.int64), minlength=len(labels))
    for label, count in zip(labels, counts.tolist(), strict=True):
        if count == 0:
            raise DataError(
                f"{folder / label} holds no images ({', '.join(EXTENSIONS)}); add some, or remove the folder"
            )
        if count < least:
            raise DataError(
                f"{folder / label} holds {count} image, and at least {least} are needed, one to train and one to "
                f"test; add some, or remove the folder"
            )
    return samples


def _is_image_file(path: str) -> bool:
    """Whether a file's name says so; macOS leaves hidden `._name.jpg` files that are none."""
    return path.lower().endswith(EXTENSIONS) and not Path(path).name.startswith(".")


def _hold_out(
    samples: Sequence[Sample], share: int, draw: torch.Generator, least: int
) -> tuple[list[Sample], list[Sample]]:
    """Split off one in `share` samples of each class, rounded, but `least` at least."""
    kept: list[Sample] = []
    held: list[Sample] = []
    for number in sorted({number for _, number in samples}):
        members = [sample for sample in samples if sample[1] == number]
        order = torch.randperm(len(members), generator=draw).tolist()
        count = max(least, round(len(members) / share))
        held += [members[place] for place in sorted(order[:count])]
        kept += [members[place] for place in sorted(order[count:])]
    return kept, held
