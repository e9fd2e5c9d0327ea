"""A folder of class folders becomes a data set, the same one every time; what cannot be trained on is a sentence."""

import io
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from training.data import Dataset
from training.data.folder import load_folder
from training.errors import DataError

COLOUR = (32, 32, 3)
CLASSES = {"cat": 3, "frog": 6, "ship": 8}
"""Class folders, and CIFAR-10's number for each."""
# Larger, not square, and as they are.
SIZES = ((32, 32), (96, 96), (64, 48))


def save_images(folder: Path, data: Dataset, counts: dict[str, int], skip: int = 0) -> None:
    """Write images of CIFAR-10's training set into class folders, as PNG and JPEG of several sizes."""
    for label, count in counts.items():
        (folder / label).mkdir(parents=True)
        for place, row in enumerate((data.train_labels == CLASSES[label]).nonzero()[skip : skip + count, 0].tolist()):
            image = Image.fromarray(data.train_images[row].numpy()).resize(SIZES[place % 3])
            image.save(folder / label / f"{place:03}.{'jpg' if place % 2 else 'PNG'}")


def sizes(data: Dataset) -> tuple[int, int, int]:
    return len(data.train_images), len(data.validation_images), len(data.test_images)


def test_fifth_of_each_class_is_tested(cifar10: Dataset, tmp_path: Path) -> None:
    """A fifth of each class is held out and the output says so."""
    save_images(tmp_path, cifar10, {"cat": 20, "frog": 10, "ship": 5})
    said = io.StringIO()
    data = load_folder(tmp_path, COLOUR, Console(file=said))
    assert data.name == "folder"
    assert data.labels == ("cat", "frog", "ship")
    assert sizes(data) == (28, 0, 7)
    assert torch.bincount(data.test_labels).tolist() == [4, 2, 1]
    assert torch.bincount(data.train_labels).tolist() == [16, 8, 4]
    assert data.train_images.shape[1:] == data.test_images.shape[1:] == COLOUR
    assert data.train_images.dtype == data.test_images.dtype == torch.uint8
    assert said.getvalue() == (
        f"{tmp_path}: 3 classes (cat, frog, ship); 28 images to train, 0 to validate, 7 to test (a fifth of each "
        f"class, the same one at every run)\n"
    )


def test_every_image_is_in_one_part(tmp_path: Path) -> None:
    """Every image is in one part, with its own class. Each image is one colour, which tells its class and number."""
    for label in range(3):
        (tmp_path / str(label)).mkdir()
        for number in range(240):
            Image.new("RGB", (8, 8), (label, number, 0)).save(tmp_path / str(label) / f"{number}.png")
    data = load_folder(tmp_path, COLOUR)
    assert sizes(data) == (519, 57, 144)
    images = torch.cat([data.train_images, data.validation_images, data.test_images])[:, 0, 0]
    labels = torch.cat([data.train_labels, data.validation_labels, data.test_labels])
    assert torch.equal(images[:, 0].long(), labels)
    assert len({tuple(colour) for colour in images.tolist()}) == 720
    assert torch.bincount(data.validation_labels).tolist() == [19] * 3
    # The probe takes the first eight: they are not all of one class.
    assert len(set(data.test_labels[:8].tolist())) > 1
    assert data.digest() == load_folder(tmp_path, COLOUR).digest()
    (tmp_path / "0" / "0.png").unlink()
    assert data.digest() != load_folder(tmp_path, COLOUR).digest()
    assert data.hold_out(57) is data


def test_train_and_test_folders_split(cifar10: Dataset, tmp_path: Path) -> None:
    """Train and test folders are the split."""
    save_images(tmp_path / "train", cifar10, {"cat": 6, "frog": 4})
    save_images(tmp_path / "test", cifar10, {"cat": 3, "frog": 1}, skip=10)
    (tmp_path / "notes").mkdir()
    said = io.StringIO()
    data = load_folder(tmp_path, COLOUR, Console(file=said))
    assert (data.labels, sizes(data)) == (("cat", "frog"), (10, 0, 4))
    assert torch.bincount(data.test_labels).tolist() == [3, 1]
    assert f"4 to test (from {tmp_path / 'test'})" in said.getvalue()


def test_val_tests_or_validates(cifar10: Dataset, tmp_path: Path) -> None:
    """Val is the test set where there is no other and else validates."""
    save_images(tmp_path / "train", cifar10, {"cat": 6, "frog": 4})
    save_images(tmp_path / "val", cifar10, {"cat": 3, "frog": 2}, skip=10)
    assert sizes(load_folder(tmp_path, COLOUR)) == (10, 0, 5)
    save_images(tmp_path / "test", cifar10, {"cat": 4, "frog": 4}, skip=20)
    assert sizes(load_folder(tmp_path, COLOUR)) == (10, 5, 8)


def test_hidden_and_foreign_files_are_ignored(cifar10: Dataset, tmp_path: Path) -> None:
    """What tools leave behind is no class and no image.

    Hidden folders and files are left alone, and other files too; folders within a class belong to it.
    """
    save_images(tmp_path, cifar10, {"cat": 5, "frog": 5})
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "README.txt").write_text("notes")
    (tmp_path / "cat" / "._000.jpg").write_bytes(b"resource fork")
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"thumbnails")
    (tmp_path / "frog" / "more").mkdir()
    (tmp_path / "frog" / "000.PNG").rename(tmp_path / "frog" / "more" / "000.PNG")
    data = load_folder(tmp_path, COLOUR)
    assert (data.labels, sizes(data)) == (("cat", "frog"), (8, 0, 2))


def nothing(_folder: Path) -> None:
    """Leave it empty."""


def one_class(folder: Path) -> None:
    (folder / "cat").mkdir()


def an_empty_class(folder: Path) -> None:
    copies(folder / "cat", 2)
    (folder / "dog").mkdir()
    (folder / "dog" / "list.txt").write_text("no image")


def a_single_image(folder: Path) -> None:
    copies(folder / "cat", 2)
    copies(folder / "dog", 1)


def train_without_test(folder: Path) -> None:
    copies(folder / "train" / "cat", 2)
    copies(folder / "train" / "dog", 2)


def another_class_in_test(folder: Path) -> None:
    train_without_test(folder)
    copies(folder / "test" / "cat", 2)
    copies(folder / "test" / "emu", 2)


def a_class_that_test_lacks(folder: Path) -> None:
    train_without_test(folder)
    copies(folder / "test" / "cat", 2)


def an_empty_class_in_test(folder: Path) -> None:
    train_without_test(folder)
    copies(folder / "test" / "cat", 2)
    (folder / "test" / "dog").mkdir()


def a_name_that_is_no_text(folder: Path) -> None:
    copies(folder / "cat", 2)
    copies(folder / "d\nog", 2)


def a_broken_image(folder: Path) -> None:
    copies(folder / "cat", 2)
    copies(folder / "dog", 2)
    (folder / "dog" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")


def all_in_test(folder: Path) -> None:
    for part in ("train", "test"):
        copies(folder / part / "cat", 2)
        copies(folder / part / "dog", 2)


def copies(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (8, 8)).save(folder / f"{number}.png")


@pytest.mark.parametrize(
    ("fill", "sentences"),
    [
        (nothing, ["{} has no class folders; put the images of each class into a folder of its own"]),
        (one_class, ["{} has one class folder, 'cat', and a classifier needs at least two; add another"]),
        (an_empty_class, ["{}/dog holds no images (.jpg, ", "; add some, or remove the folder"]),
        (a_single_image, ["{}/dog holds 1 image, and at least 2 are needed", "; add some, or remove the folder"]),
        (train_without_test, ["{}/train has class folders, but no 'test' or 'val'", "or name {}/train itself"]),
        (another_class_in_test, ["{}/train/dog is a class, and {}/test has none of that name"]),
        (a_class_that_test_lacks, ["{}/train/dog is a class, and {}/test has none of that name; training and test"]),
        (an_empty_class_in_test, ["{}/test/dog holds no images"]),
        (a_name_that_is_no_text, [r"the class folder 'd\nog' in {} has a name that is no text; rename it"]),
        (all_in_test, ["each training image of 'cat' is an image of another part too", "; add others"]),
        (a_broken_image, ["cannot be decoded: {}/dog/1.png (", "; mend or remove what is broken"]),
    ],
)
def test_untrainable_folder_is_a_sentence(
    fill: Callable[[Path], None], sentences: Sequence[str], tmp_path: Path
) -> None:
    """What cannot be trained on is a sentence."""
    fill(tmp_path)
    with pytest.raises(DataError) as caught:
        load_folder(tmp_path, COLOUR)
    assert all(sentence.replace("{}", str(tmp_path)) in str(caught.value) for sentence in sentences), caught.value
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_absent_folder_is_a_sentence(name: str, tmp_path: Path) -> None:
    """A folder that is none is a sentence."""
    (tmp_path / "file").write_text("a file")
    with pytest.raises(DataError, match=f"there is no folder {tmp_path / name}; name the one with your class folders"):
        load_folder(tmp_path / name, COLOUR)


def test_images_in_two_parts_are_dropped(cifar10: Dataset, tmp_path: Path) -> None:
    """What test and training share is left out of training, and told: copies, links, and other lossless formats."""
    save_images(tmp_path / "train", cifar10, {"cat": 6, "frog": 4})
    save_images(tmp_path / "test", cifar10, {"cat": 3, "frog": 3}, skip=10)
    before = load_folder(tmp_path, COLOUR)
    test = tmp_path / "test" / "cat"
    shutil.copy(test / "000.PNG", tmp_path / "train" / "cat" / "copy.png")
    (tmp_path / "train" / "frog" / "link.jpg").symlink_to(test / "001.jpg")
    with Image.open(test / "002.PNG") as image:
        image.save(tmp_path / "train" / "cat" / "format.bmp")
    said = io.StringIO()
    data = load_folder(tmp_path, COLOUR, Console(file=said))
    assert sizes(data) == sizes(before) == (10, 0, 6)
    assert torch.equal(data.test_images.sort(0).values, before.test_images.sort(0).values)
    assert torch.equal(data.train_images.sort(0).values, before.train_images.sort(0).values)
    assert "left out of training: 3 whose pixels another part has too, such as " in said.getvalue()
    assert "10 images to train, 0 to validate, 6 to test" in said.getvalue()
