"""The real test sets, read from torchvision's layout without torch.

Sources: the IDX format (Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits") and the
Python batches of CIFAR-10 (A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009).
"""

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import numpy.typing as npt

from .errors import UnusableDataset

TEST_PICTURES = 10_000
"""In either test set."""
CLASSES = 10
"""In either data set."""

_MNIST_IMAGES = Path("MNIST/raw/t10k-images-idx3-ubyte")
_MNIST_LABELS = Path("MNIST/raw/t10k-labels-idx1-ubyte")
_CIFAR10_BATCH = Path("cifar-10-batches-py/test_batch")


@dataclass(frozen=True)
class Dataset:
    """A test set."""

    name: str
    pictures: npt.NDArray[np.uint8]
    """[N, height, width, channels], as a model's file takes them."""
    labels: npt.NDArray[np.uint8]
    """[N], each below ``CLASSES``."""

    def first(self, count: int) -> "Dataset":
        """Keep the first ``count`` pictures, or all where there are fewer."""
        return Dataset(self.name, self.pictures[:count], self.labels[:count])


@dataclass(frozen=True)
class File:
    """One file of a test set."""

    path: str
    """In the data folder."""
    archive: str
    """The name of what holds it, on every mirror."""
    size: int
    sha256: str


@dataclass(frozen=True)
class TestSet:
    """A test set that is known by name: where it is kept, and how it is read."""

    mirrors: tuple[str, ...]
    """Folders, asked in order."""
    files: tuple[File, ...]
    read: Callable[[Path], Dataset]
    """From the data folder; raises UnusableDataset."""


def read_mnist(data_dir: Path) -> Dataset:
    """Read MNIST's test set, 28 × 28 grey. Raises UnusableDataset where a file is missing or damaged."""
    pictures = _idx(data_dir / _MNIST_IMAGES, (TEST_PICTURES, 28, 28), "mnist", data_dir)
    labels = _idx(data_dir / _MNIST_LABELS, (TEST_PICTURES,), "mnist", data_dir)
    return _checked(Dataset("mnist", pictures[..., np.newaxis], labels), data_dir / _MNIST_LABELS)


def read_cifar10(data_dir: Path) -> Dataset:
    """Read CIFAR-10's test set, 32 × 32 in colour. Raises UnusableDataset where a file is missing or damaged."""
    path = data_dir / _CIFAR10_BATCH
    try:
        with path.open("rb") as file:
            batch = _ArraysOnly(file).load()
        planes = np.asarray(batch[b"data"])
        labels = np.asarray(batch[b"labels"])
    except OSError as error:
        raise _missing(path, "cifar10", data_dir, error) from error
    # A damaged pickle raises nearly anything, from EOFError to MemoryError.
    except Exception as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    if planes.dtype != np.uint8 or planes.shape != (TEST_PICTURES, 3 * 32 * 32):
        raise _damaged(path, f"its data is {planes.dtype} {list(planes.shape)}, not uint8 [{TEST_PICTURES}, 3072]")
    if labels.shape != (TEST_PICTURES,) or not np.issubdtype(labels.dtype, np.integer):
        raise _damaged(path, f"its labels are {labels.dtype} {list(labels.shape)}, not integers [{TEST_PICTURES}]")
    # Each row is a red, a green and a blue plane; the models take channels last.
    pictures = np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return _checked(Dataset("cifar10", pictures, labels), path)


TEST_SETS = {
    "mnist": TestSet(
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
        (
            File(
                "MNIST/raw/t10k-images-idx3-ubyte",
                "t10k-images-idx3-ubyte.gz",
                7_840_016,
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            ),
            File(
                "MNIST/raw/t10k-labels-idx1-ubyte",
                "t10k-labels-idx1-ubyte.gz",
                10_008,
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        ),
        read_mnist,
    ),
    "cifar10": TestSet(
        ("https://www.cs.toronto.edu/~kriz/",),
        (
            File(
                "cifar-10-batches-py/test_batch",
                "cifar-10-python.tar.gz",
                31_035_526,
                "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
            ),
        ),
        read_cifar10,
    ),
}
"""Another test set is another entry, and the function that reads it."""


def _idx(path: Path, shape: tuple[int, ...], name: str, data_dir: Path) -> npt.NDArray[np.uint8]:
    """Read an IDX file of bytes: 0, 0, type 8, the number of axes, each axis as big-endian uint32, the data."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _missing(path, name, data_dir, error) from error
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
    if content[: len(header)] != header:
        raise _damaged(path, f"it does not begin as an IDX file of {'x'.join(map(str, shape))} bytes")
    elements = np.frombuffer(content, np.uint8, offset=len(header))
    if elements.size != np.prod(shape):
        raise _damaged(path, f"it holds {elements.size} bytes of data, not {np.prod(shape)}")
    return elements.reshape(shape)


class _ArraysOnly(pickle.Unpickler):  # noqa: S301 - it calls nothing that a pickle names
    """Builds arrays out of a pickle, and refuses to call anything else: a pickle can name any function."""

    _ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        # NumPy 1 and 2 write different names for what an array itself says makes it.
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="bytes")  # Python 2 wrote it

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} does not belong in it") from None


def _checked(dataset: Dataset, path: Path) -> Dataset:
    if dataset.labels.min() < 0 or dataset.labels.max() >= CLASSES:
        raise _damaged(path, f"a label is not between 0 and {CLASSES - 1}")
    return Dataset(dataset.name, dataset.pictures, dataset.labels.astype(np.uint8))


def _missing(path: Path, name: str, data_dir: Path, error: OSError) -> UnusableDataset:
    return UnusableDataset(
        f"{path} cannot be read: {error.strerror}; `convserve dataset {name} --data-dir {data_dir}` "
        "fetches it, without --no-download, or name the folder that has it"
    )


def _damaged(path: Path, what: str) -> UnusableDataset:
    return UnusableDataset(f"{path} is damaged: {what}; remove it, and it is fetched again")
