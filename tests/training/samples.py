"""What several tests need: parts of data sets, a training cut short, the front door as a process."""

import io
import os
import subprocess
import sys
from pathlib import Path

import torch
from rich.console import Console

from training.data import Dataset

ROOT = Path(__file__).parents[2]
SHIPPED = ("mnist-tiny", "mnist-deep", "cifar10-tiny", "cifar10-lenet", "cifar10-cnn")
CPU = torch.device("cpu")


def part(data: Dataset, train: int, test: int) -> Dataset:
    """Give the first images of a data set."""
    return Dataset(
        data.name,
        data.train_images[:train],
        data.train_labels[:train],
        data.test_images[:test],
        data.test_labels[:test],
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


def run(module: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a module from the repository's root, and give what it printed."""
    return subprocess.run(
        command(module, *arguments),
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
