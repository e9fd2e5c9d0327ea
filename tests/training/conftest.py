"""The real data sets, and small parts of them."""

import io
import os
from pathlib import Path

import pytest
import torch
from rich.console import Console

from training.data import Dataset, load

from .test_folder import save_pictures


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the data sets: CONVSERVE_DATA_DIR, else data."""
    return Path(os.environ.get("CONVSERVE_DATA_DIR", "data")).absolute()


@pytest.fixture(scope="session")
def mnist(data_dir: Path) -> Dataset:
    """All of MNIST."""
    return load("mnist", data_dir)


@pytest.fixture(scope="session")
def cifar10(data_dir: Path) -> Dataset:
    """All of CIFAR-10."""
    return load("cifar10", data_dir)


@pytest.fixture(scope="session")
def pictures(cifar10: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of sixty pictures of three classes."""
    folder = tmp_path_factory.mktemp("pictures")
    save_pictures(folder, cifar10, {"cat": 20, "frog": 20, "ship": 20})
    return folder


@pytest.fixture
def console() -> Console:
    """A console that is no terminal, and whose text goes nowhere."""
    return Console(file=io.StringIO())


@pytest.fixture(autouse=True, scope="session")
def _two_threads() -> None:
    """Bit-for-bit claims hold for one number of threads, so it is fixed for all tests."""
    torch.set_num_threads(2)
