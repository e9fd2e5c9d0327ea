"""`python -m training.report.shapes` compares shapes of residual networks for CIFAR-10: rate, and early accuracy.

Each shape (see `training.networks.residual`) is exported with random weights and timed in ONNX Runtime, alone and in
runs of 64, in turns with the model named by --beside; it is then trained for a few epochs by the recipe of
cifar10-small, and counted on the images held out, never on the test set. Prints a table and a JSON line.
"""

import argparse
import dataclasses
import json
import statistics
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from .. import checkpoint, onnx_file
from ..data import Dataset, default_data_dir, load
from ..evaluate import OnnxFile
from ..networks import CIFAR10, NETWORKS, Classifier, Network, Preprocess, count_parameters, pool_last, residual
from ..recipes import CIFAR10_SMALL, teacher_of
from ..train import train
from .cost import multiply_accumulates, processor

SHAPES = (
    "16 32/2+1 96/2+1 128/2+1",
    "16 32p+1 64p+1 128p+1",
    "16 32p+1 64/2+2 128/2+1",
    "16 32p+1 96/2+1 128/2+1",
    "16 32/2+2 64/2+2 128/2+1",
    "16 48/2+1 96/2+1 128/2+1",
    "16 32/2+1 96/2+2 128/2+1",
    "32/2+1 96/2+1 160/2+1",
    "48/2+1 96/2+1 128/2+1",
    "32/2+1 96/2+3",
    "32/2 64/2+1 96/2+1",
    "24/2+1 48/2+1 96/2+1",
    "32/2 64/2+1 128/2+1",
)
BATCHES = (1, 64)
TURN_S = 0.1


def export(shape: str, folder: Path) -> Path:
    """Write a network of this shape with random weights, as a trained one would be."""
    network = pool_last(residual(shape))
    path = folder / f"{shape.replace('/', 's').replace(' ', '-')}.onnx"
    onnx.save(
        onnx_file.build(Classifier(Preprocess(CIFAR10_SMALL.mean, CIFAR10_SMALL.std), network).eval(), CIFAR10), path
    )
    return path


def rates(files: dict[str, OnnxFile], images: NDArray[np.uint8], turns: int) -> dict[str, dict[int, float]]:
    """Images/s of each file for each batch size: medians over turns in which all are timed one after the other."""
    found: dict[str, dict[int, list[float]]] = {name: {batch: [] for batch in BATCHES} for name in files}
    for turn in range(turns + 1):  # the first does not count
        for batch in BATCHES:
            for name, file in files.items():
                runs, started = 0, time.perf_counter()
                while (seconds := time.perf_counter() - started) < TURN_S:
                    file.run(images[:batch])
                    runs += 1
                if turn:
                    found[name][batch].append(runs * batch / seconds)
    return {name: {batch: statistics.median(each) for batch, each in by.items()} for name, by in found.items()}


def accuracy(shape: str, epochs: int, data: Dataset, chosen: argparse.Namespace, console: Console) -> float:
    """Train a shape for a few epochs; the share of the held-out images that it gets right."""
    name = f"shape {shape}".replace("/", "s")
    NETWORKS[name] = Network(partial(residual, shape), shape, CIFAR10)
    recipe = dataclasses.replace(CIFAR10_SMALL.with_epochs(epochs), name=name, network=name)
    path = checkpoint.path_of(chosen.checkpoints_dir, recipe)
    training = train(recipe, data, torch.device("cpu"), path, console, teacher_of(recipe, chosen.models_dir))
    return float(training.history[-1]["validation_accuracy"] or 0)


def measure(chosen: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """Measure every shape, ready for JSON."""
    data = load("cifar10", chosen.data_dir)
    with TemporaryDirectory() as folder:
        paths = {shape: export(shape, Path(folder)) for shape in chosen.shapes}
        paths[chosen.beside] = chosen.models_dir / chosen.beside / "1" / "model.onnx"
        files = {name: OnnxFile(path) for name, path in paths.items()}
        found = rates(files, data.test_images[:64].numpy(), chosen.turns)
        work = {name: multiply_accumulates(path) for name, path in paths.items()}
    return [
        {
            "shape": shape,
            "parameters": count_parameters(residual(shape)),
            "multiply_accumulates": work[shape],
            "images_per_s": {batch: round(found[shape][batch], 1) for batch in BATCHES},
            "times_as_fast": {batch: round(found[shape][batch] / found[chosen.beside][batch], 2) for batch in BATCHES},
            "accuracy": accuracy(shape, chosen.epochs, data, chosen, console) if chosen.epochs else None,
        }
        for shape in chosen.shapes
    ]


def main() -> None:
    """Run ``python -m training.report.shapes``."""
    parser = argparse.ArgumentParser(prog="python -m training.report.shapes", description=__doc__)
    parser.add_argument("shapes", nargs="*", default=SHAPES, metavar="SHAPE", help="such as '16 32/2+1 96p+1'")
    parser.add_argument("--epochs", type=int, default=2, help="of training for each; 0 for rates alone (default: 2)")
    parser.add_argument("--turns", type=int, default=9, help="for each rate (default: 9)")
    parser.add_argument("--beside", default="cifar10", metavar="MODEL", help="the rates' measure (default: cifar10)")
    parser.add_argument("--models-dir", type=Path, default=Path("models"), metavar="DIR")
    parser.add_argument("--checkpoints-dir", type=Path, default=Path("checkpoints"), metavar="DIR")
    parser.add_argument("--data-dir", type=Path, default=default_data_dir(), metavar="DIR")
    chosen = parser.parse_args()
    console = Console()
    found = measure(chosen, console)
    table = Table(title=f"{processor()}, {torch.get_num_threads()} threads, beside {chosen.beside}")
    table.add_column("shape", no_wrap=True)
    for column in ("parameters", "M MACs", "x 1", "x 64", f"held out, {chosen.epochs} epochs"):
        table.add_column(column, justify="right")
    for each in found:
        table.add_row(
            each["shape"],
            f"{each['parameters']:,}",
            f"{each['multiply_accumulates'] / 1e6:.1f}",
            *(f"{each['times_as_fast'][batch]:.1f}" for batch in BATCHES),
            "-" if each["accuracy"] is None else f"{each['accuracy']:.2%}",
        )
    console.print(table)
    console.out(json.dumps(found), highlight=False)


if __name__ == "__main__":
    main()
