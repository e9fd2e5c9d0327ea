"""What several tests need: parts of data sets, a training cut short, the front door as a process."""

import dataclasses
import io
import os
import subprocess
import sys
from pathlib import Path

import torch
from rich.console import Console

from training.data import Dataset
from training.fine_tune import read_start
from training.networks import NETWORKS, Classifier, Preprocess
from training.onnx_file import read_metadata
from training.recipes import RECIPES

ROOT = Path(__file__).parents[2]
SHIPPED = (
    "mnist-tiny",
    "mnist-deep",
    "mnist",
    "mnist-small",
    "cifar10",
    "cifar10-tiny",
    "cifar10-lenet",
    "cifar10-cnn",
)
CPU = torch.device("cpu")


def shipped(name: str) -> Path:
    """Where the file of a bundled model is."""
    return ROOT / "models" / name / "1" / "model.onnx"


def classifier_of(name: str) -> Classifier:
    """Build the PyTorch network anew, with the weights and the temperature that the shipped file holds."""
    network = NETWORKS[name].build()
    network.load_state_dict(read_start(shipped(name), name, name).weights)
    temperature = float(read_metadata(shipped(name))["temperature"])
    network = network.to(memory_format=torch.channels_last)  # a third faster
    return Classifier(Preprocess(RECIPES[name].mean, RECIPES[name].std), network, temperature).eval()


def part(data: Dataset, train: int, test: int) -> Dataset:
    """Give the first images of a data set."""
    return dataclasses.replace(
        data,
        train_images=data.train_images[:train],
        train_labels=data.train_labels[:train],
        test_images=data.test_images[:test],
        test_labels=data.test_labels[:test],
    )


class ConsoleThatInterrupts(Console):
    """Presses Ctrl-C once it has printed a number of lines; a training prints one for each epoch."""

    def __init__(self, lines: int) -> None:
        super().__init__(file=io.StringIO())
        self._lines_left = lines

    def print(self, *_objects: object, **_options: object) -> None:
        """Count a line."""
        self._lines_left -= 1
        if self._lines_left == 0:
            raise KeyboardInterrupt


def command(module: str, *arguments: str | Path) -> list[str]:
    """Build a command line for a module of this package, with warnings as errors."""
    return [sys.executable, "-W", "error", "-m", module, *map(str, arguments)]


def environment() -> dict[str, str]:
    """Give a process as many threads as are used here: bit-for-bit claims hold for one number of them."""
    return os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}


def run(module: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a module from the repository's root, and give what it printed."""
    line = command(module, *arguments)
    return subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False, timeout=240)


def start(module: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """Start a module from the repository's root, with pipes to read what it prints."""
    line = command(module, *arguments)
    return subprocess.Popen(
        line, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
