"""The real test sets are read as torchvision lays them out; anything else is refused with a sentence."""

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision import datasets

from service.client import UnusableDataset
from service.client.dataset import TEST_SETS, read_cifar10, read_mnist

MNIST_IMAGES = "MNIST/raw/t10k-images-idx3-ubyte"
MNIST_LABELS = "MNIST/raw/t10k-labels-idx1-ubyte"
CIFAR10_BATCH = "cifar-10-batches-py/test_batch"


@pytest.mark.parametrize(
    ("name", "shape", "first"),
    [
        ("mnist", (10_000, 28, 28, 1), [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]),
        ("cifar10", (10_000, 32, 32, 3), [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]),
    ],
    ids=["mnist", "cifar10"],
)
def test_the_real_test_sets_are_read(data_dir: Path, name: str, shape: tuple[int, ...], first: list[int]) -> None:
    """Ten thousand pictures, channels last; the first labels are those everybody knows."""
    dataset = TEST_SETS[name].read(data_dir)
    assert dataset.name == name
    assert dataset.pictures.shape == shape
    assert dataset.pictures.dtype == dataset.labels.dtype == np.uint8
    assert dataset.labels[:10].tolist() == first
    assert set(dataset.labels.tolist()) == set(range(10))


def test_torchvision_reads_the_same(data_dir: Path) -> None:
    """The pictures are those that torchvision reads. Independent readers of the same files agree on every pixel."""
    mnist = datasets.MNIST(data_dir, train=False, download=False)
    cifar10 = datasets.CIFAR10(data_dir, train=False, download=False)
    ours = read_mnist(data_dir), read_cifar10(data_dir)
    assert np.array_equal(ours[0].pictures[..., 0], mnist.data.numpy())
    assert np.array_equal(ours[0].labels, mnist.targets.numpy())
    assert np.array_equal(ours[1].pictures, cifar10.data)
    assert ours[1].labels.tolist() == cifar10.targets


def test_a_data_set_can_be_shortened(data_dir: Path) -> None:
    short = read_mnist(data_dir).first(3)
    assert short.pictures.shape == (3, 28, 28, 1)
    assert short.labels.tolist() == [7, 2, 1]
    assert len(short.first(10).labels) == 3


@pytest.fixture
def copy(data_dir: Path, tmp_path: Path) -> Path:
    """A folder with both test sets, to be damaged."""
    for file in (MNIST_IMAGES, MNIST_LABELS, CIFAR10_BATCH):
        target = tmp_path / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data_dir / file, target)
    return tmp_path


@pytest.mark.parametrize("file", [MNIST_IMAGES, MNIST_LABELS, CIFAR10_BATCH], ids=["images", "labels", "batch"])
def test_missing_files_come_with_a_command(copy: Path, file: str) -> None:
    """A missing file comes with the command that fetches it."""
    (copy / file).unlink()
    name = "mnist" if "MNIST" in file else "cifar10"
    with pytest.raises(UnusableDataset) as caught:
        TEST_SETS[name].read(copy)
    assert f"{file} cannot be read: No such file or directory" in str(caught.value)
    assert f"`convserve dataset {name} --data-dir {copy}`" in str(caught.value)


@pytest.mark.parametrize("file", [MNIST_IMAGES, MNIST_LABELS, CIFAR10_BATCH], ids=["images", "labels", "batch"])
@pytest.mark.parametrize("kept", [0, 3, 12, 5000])
def test_a_cut_file_is_damaged(copy: Path, file: str, kept: int) -> None:
    os.truncate(copy / file, kept)
    with pytest.raises(UnusableDataset, match=f"{file} is damaged: "):
        TEST_SETS["mnist" if "MNIST" in file else "cifar10"].read(copy)


@pytest.mark.parametrize("file", [MNIST_IMAGES, MNIST_LABELS], ids=["images", "labels"])
def test_idx_files_have_their_length(copy: Path, file: str) -> None:
    """An IDX file must end where its header says."""
    with (copy / file).open("ab") as end:
        end.write(b"!")
    with pytest.raises(UnusableDataset, match=r"it holds \d+ bytes of data, not \d+"):
        read_mnist(copy)


def test_training_images_are_refused(copy: Path, data_dir: Path) -> None:
    """The training images are not the test set."""
    shutil.copyfile(data_dir / "MNIST/raw/train-images-idx3-ubyte", copy / MNIST_IMAGES)
    with pytest.raises(UnusableDataset, match="does not begin as an IDX file of 10000x28x28 bytes"):
        read_mnist(copy)


def test_a_label_must_name_a_class(copy: Path) -> None:
    with (copy / MNIST_LABELS).open("r+b") as file:
        file.seek(8)
        file.write(bytes([10]))
    with pytest.raises(UnusableDataset, match="a label is not between 0 and 9"):
        read_mnist(copy)


class Hostile:
    """A pickle of it runs a command when it is read."""

    def __init__(self, folder: Path) -> None:
        self.command = f"touch {folder / 'taken-over'}"

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


def test_a_pickle_cannot_run_anything(copy: Path) -> None:
    (copy / CIFAR10_BATCH).write_bytes(pickle.dumps({b"data": Hostile(copy), b"labels": []}))
    with pytest.raises(UnusableDataset, match=r"system does not belong in it"):
        read_cifar10(copy)
    assert not (copy / "taken-over").exists()
    pickle.loads((copy / CIFAR10_BATCH).read_bytes())  # noqa: S301 - the file was dangerous indeed
    assert (copy / "taken-over").exists()


@pytest.mark.parametrize(
    ("batch", "fault"),
    [
        ({}, "KeyError"),
        ([], "TypeError"),
        ({b"data": [[1, 2]], b"labels": [1]}, r"its data is int64 \[1, 2\], not uint8 \[10000, 3072\]"),
        ({b"data": None, b"labels": [1]}, r"its data is object \[\]"),
    ],
    ids=["keys", "type", "shape", "no data"],
)
def test_batches_of_another_form(copy: Path, batch: Any, fault: str) -> None:
    """A batch must hold ten thousand pictures and labels."""
    (copy / CIFAR10_BATCH).write_bytes(pickle.dumps(batch))
    with pytest.raises(UnusableDataset, match=fault):
        read_cifar10(copy)


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        ([1, 2], r"its labels are int64 \[2\], not integers \[10000\]"),
        ([0.5] * 10_000, r"its labels are float64 \[10000\]"),
        ([-1] * 10_000, "a label is not between 0 and 9"),
        ([300] * 10_000, "a label is not between 0 and 9"),
    ],
    ids=["two", "fractions", "negative", "large"],
)
def test_labels_of_batches_are_checked(copy: Path, labels: list[Any], fault: str) -> None:
    """Labels that are no ten thousand numbers of classes are refused."""
    batch = {b"data": np.zeros((10_000, 3072), np.uint8), b"labels": labels}
    (copy / CIFAR10_BATCH).write_bytes(pickle.dumps(batch, protocol=4))
    with pytest.raises(UnusableDataset, match=fault):
        read_cifar10(copy)
