"""A terminal gets a bar with figures; anything else gets one line for each epoch."""

import dataclasses
import io
from pathlib import Path

from rich.console import Console

from training.data import Dataset
from training.recipes import RECIPES
from training.train import train

from .samples import CPU, part


def shown(mnist: Dataset, folder: Path, *, terminal: bool) -> str:
    """Give what a training of two epochs prints."""
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=120)
    train(dataclasses.replace(RECIPES["mnist-tiny"], epochs=2), part(mnist, 200, 0), CPU, folder / "tiny.pt", console)
    return text.getvalue()


def test_log_has_line_per_epoch(mnist: Dataset, tmp_path: Path) -> None:
    """A log has one line for each epoch."""
    lines = shown(mnist, tmp_path, terminal=False).splitlines()
    assert [line.split("  ")[0] for line in lines] == ["mnist-tiny: epoch 1/2", "mnist-tiny: epoch 2/2"]
    assert all("loss" in line and "accuracy: train" in line and "images/s" in line for line in lines)


def test_terminal_has_bar_with_time_left(mnist: Dataset, tmp_path: Path) -> None:
    """A terminal has a bar with metrics and the time left."""
    text = shown(mnist, tmp_path, terminal=True)
    assert "━" in text
    assert "mnist-tiny 2/2" in text
    assert "0:00:00" in text
