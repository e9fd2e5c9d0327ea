"""The real data sets, small parts of them, and one trained model that many tests share."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console

from training.data import Dataset, load
from training.report import cost

from .test_folder import save_images
from .trained import Trained, make


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
def image_folder(cifar10: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of sixty images of three classes."""
    folder = tmp_path_factory.mktemp("images")
    save_images(folder, cifar10, {"cat": 20, "frog": 20, "ship": 20})
    return folder


@pytest.fixture(scope="session")
def trained(mnist: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One model, trained, published and reported."""
    return make(mnist, tmp_path_factory.mktemp("trained"))


@pytest.fixture
def console() -> Console:
    """A console that is no terminal, and whose text goes nowhere."""
    return Console(file=io.StringIO())


@pytest.fixture(autouse=True, scope="session")
def _fixed_threads() -> None:
    """Bit-for-bit claims hold for one number of threads, so it is fixed: one in each of several worker processes."""
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(autouse=True, scope="session")
def _short_timing() -> Iterator[None]:
    """No test asks how fast a file is, so the runs that a report times are few."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "REPEAT_S", 0.002)
        yield
