"""A model after a brief training on a part of MNIST, for tests of what is said about models."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from training.data import Dataset
from training.export.publish import publish
from training.recipes import RECIPES
from training.report.write import write
from training.train import Training, train

from .samples import CPU, part

RECIPE = dataclasses.replace(RECIPES["mnist-tiny"], epochs=2, validation=2_000)
TRAIN, TEST = 12_000, 2_000


@dataclasses.dataclass(frozen=True)
class Trained:
    """One model, trained, published and reported, which no test changes."""

    data: Dataset
    """What it was trained and tested on."""
    training: Training
    path: Path
    """Its file in a models folder, beside its report."""
    report: dict[str, Any]
    """What `write` gave."""


def make(mnist: Dataset, folder: Path) -> Trained:
    """Train, publish and report it."""
    data = part(mnist, TRAIN, TEST)
    path = folder / "models" / RECIPE.name / "1" / "model.onnx"
    training = train(RECIPE, data, CPU, folder / "tiny.pt", Console(file=io.StringIO()))
    publish(RECIPE, training, data, path)
    return Trained(data, training, path, write(path, data))


def read(path: Path) -> dict[str, Any]:
    """Read the report beside a file as a strict reader of JSON does."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    text = path.with_name("report.json").read_text(encoding="utf-8")
    report: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return report
