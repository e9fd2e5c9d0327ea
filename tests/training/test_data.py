"""The data sets are whole and right, and what is wrong with them is said in one sentence."""

import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision import datasets

from training.data import SOURCES, Dataset, default_data_dir, load
from training.data.__main__ import main
from training.errors import DataError

from .samples import part, run


def test_mnist_is_whole(mnist: Dataset) -> None:
    """MNIST is whole."""
    assert (mnist.train_images.shape, mnist.test_images.shape) == ((60_000, 28, 28, 1), (10_000, 28, 28, 1))
    assert mnist.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    check_kind(mnist)


def test_cifar10_is_whole(cifar10: Dataset) -> None:
    """CIFAR-10 is whole."""
    assert (cifar10.train_images.shape, cifar10.test_images.shape) == ((50_000, 32, 32, 3), (10_000, 32, 32, 3))
    assert torch.bincount(cifar10.test_labels).tolist() == [1000] * 10
    assert [SOURCES["cifar10"].labels[i] for i in cifar10.test_labels[:4]] == ["cat", "ship", "ship", "airplane"]
    check_kind(cifar10)


def test_hold_out_is_always_the_same(mnist: Dataset) -> None:
    """Validation images are held out of the training images alike at every call.

    Nothing is lost, nothing is in both parts, and what has validation images is left as it is.
    """
    some = part(mnist, 100, 10)
    held = some.hold_out(30)
    assert (len(held.train_images), len(held.validation_images), len(held.test_images)) == (70, 30, 10)
    both = torch.cat([held.train_images, held.validation_images]).flatten(1)
    assert sorted(both.tolist()) == sorted(some.train_images.flatten(1).tolist())
    assert torch.equal(held.validation_images, some.hold_out(30).validation_images)
    assert held.hold_out(50) is held
    with pytest.raises(DataError, match="mnist has 100 training images, of which the recipe holds out 100"):
        some.hold_out(100)


def test_a_digest_tells_data_sets_apart(mnist: Dataset) -> None:
    """By their pixels, their classes, their labels and their split."""
    some = part(mnist, 20, 10)
    label = some.train_labels.clone()
    label[3] = (label[3] + 1) % 10
    pixel = some.test_images.clone()
    pixel[5, 14, 14] += 1
    others = [
        part(mnist, 21, 10),
        some.hold_out(5),
        replace(some, train_labels=label),
        replace(some, test_images=pixel),
        replace(some, labels=(*"0123456", "seven", *"89")),
    ]
    assert some.digest() == part(mnist, 20, 10).digest()
    assert len({some.digest(), *(other.digest() for other in others)}) == 6


def check_kind(data: Dataset) -> None:
    """Images are whole pixels, labels are classes."""
    assert data.train_images.dtype == data.test_images.dtype == torch.uint8
    assert data.train_labels.dtype == data.test_labels.dtype == torch.int64
    assert set(data.train_labels.tolist()) == set(range(10))
    assert len(SOURCES[data.name].labels) == 10


@pytest.mark.parametrize("name", SOURCES)
def test_missing_data_set_names_the_remedy(name: str, tmp_path: Path) -> None:
    """A missing data set is named with its folder and the remedy."""
    with pytest.raises(DataError) as caught:
        load(name, tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert f"python -m training.data {name} --data-dir {tmp_path}" in str(caught.value)


def test_damaged_mnist_file_is_named(data_dir: Path, tmp_path: Path) -> None:
    """A damaged MNIST file is found and named.

    PyTorch's torchvision itself does not check these files; one changed byte is enough.
    """
    raw = tmp_path / "MNIST" / "raw"
    shutil.copytree(data_dir / "MNIST" / "raw", raw, copy_function=shutil.copyfile)
    raw.chmod(0o755)
    damaged = raw / "t10k-labels-idx1-ubyte"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte is damaged .* remove it and run"):
        load("mnist", tmp_path)


def test_truncated_mnist_file_is_sentence(data_dir: Path, tmp_path: Path) -> None:
    """A truncated MNIST file is an error sentence too."""
    raw = tmp_path / "MNIST" / "raw"
    shutil.copytree(data_dir / "MNIST" / "raw", raw, copy_function=shutil.copyfile)
    raw.chmod(0o755)
    (raw / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03")
    with pytest.raises(DataError, match="damaged"):
        load("mnist", tmp_path)


def test_a_damaged_cifar10_batch_is_found(data_dir: Path, tmp_path: Path) -> None:
    """A damaged CIFAR-10 batch is found."""
    folder = tmp_path / "cifar-10-batches-py"
    shutil.copytree(data_dir / "cifar-10-batches-py", folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    (folder / "data_batch_3").write_bytes(b"not a batch")
    with pytest.raises(DataError, match="cifar10 was not found, or is damaged"):
        load("cifar10", tmp_path)


def test_the_command_verifies_what_is_there(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a process, and within this one; nothing is fetched that is there."""
    finished = run("training.data", "mnist", "--data-dir", data_dir)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == f"mnist: 60,000 + 10,000 images, verified, in {data_dir}\n"
    assert main(["cifar10", "--data-dir", str(data_dir)]) == 0
    assert capsys.readouterr().out == f"cifar10: 50,000 + 10,000 images, verified, in {data_dir}\n"


def test_unwritable_folder_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that cannot be written is a sentence.

    A file stands where the folder should be, so nothing is fetched.
    """
    (tmp_path / "data").write_text("not a folder")
    assert main(["mnist", "--data-dir", str(tmp_path / "data")]) == 1
    assert capsys.readouterr().err.startswith("error: mnist could not be downloaded to")


def test_unreachable_mirror_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network that does not answer is a sentence.

    The only mirror is a port of this machine on which nothing listens.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{port}/"])
    assert main(["mnist", "--data-dir", str(tmp_path)]) == 1
    text = capsys.readouterr().err
    assert f"error: mnist could not be downloaded to {tmp_path}" in text
    assert "check the network" in text


def test_the_folder_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder comes from the environment."""
    monkeypatch.setenv("CONVSERVE_DATA_DIR", "/somewhere")
    assert default_data_dir() == Path("/somewhere")
    monkeypatch.delenv("CONVSERVE_DATA_DIR")
    assert default_data_dir() == Path("data")
