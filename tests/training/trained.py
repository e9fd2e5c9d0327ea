"""A model after a brief training on a part of MNIST, for tests of what is said about models."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from training.data import Dataset
from training.publish import publish
from training.recipes import RECIPES
from training.train import train

from .samples import CPU, part

RECIPE = dataclasses.replace(RECIPES["mnist-tiny"], epochs=2, validation=2_000)
TRAIN, TEST = 12_000, 2_000


def few(mnist: Dataset) -> Dataset:
    """Give the part that it is trained and tested on."""
    return part(mnist, TRAIN, TEST)


def make(data: Dataset, folder: Path) -> Path:
    """Train and publish it into a models folder."""
    path = folder / "models" / RECIPE.name / "1" / "model.onnx"
    publish(RECIPE, train(RECIPE, data, CPU, folder / "tiny.pt", Console(file=io.StringIO())), data, path)
    return path


def read(path: Path) -> dict[str, Any]:
    """Read the report beside a file as a strict reader of JSON does."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    told: dict[str, Any] = json.loads(path.with_name("report.json").read_text(encoding="utf-8"), parse_constant=refuse)
    return told
