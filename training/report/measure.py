"""What a model file can do, measured on the file itself over its whole data set: the content of its report.json."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from ..calibration import bins, expected_calibration_error
from ..command import RUN
from ..data import Dataset
from ..errors import DataError, ModelFileError
from ..evaluate import OnnxFile, Outputs, outputs_of_onnx
from ..onnx_file import read_metadata
from ..recipes import RECIPES, current_names
from . import cost

# Facts of the metadata that are JSON, numbers included; all others are text.
JSON_KEYS = {
    "history",
    "normalization",
    "labels",
    "parameters",
    "preprocessing",
    "recipe",
    "seed",
    "temperature",
    "versions",
}
JSON_KEYS |= {"agreement", "calibration_error", "fp32_test_correct", "test_accuracy", "test_correct", "test_images"}
# What older files lack.
REQUIRED_KEYS = {"calibration_error", "history", "name", "temperature"}
# Images between two steps of the progress bar.
STEP = 1_000
DIGITS = 6


def measure(
    path: Path, data: Dataset, advance: Callable[[int], object] = lambda _: None
) -> tuple[dict[str, Any], Outputs]:
    """Measure the model file at `path` on its whole data set; gives what report.json says, and the test outputs.

    `advance` is told of images as they are run. Raises ModelFileError for a file of others or of an older format,
    and DataError when this is not the data set that the model was made from.
    """
    metadata = parse_metadata(path)
    shape = image_shape(path)
    given = (data.name, list(data.labels), tuple(data.test_images.shape[1:]))
    if given != (metadata["dataset"], metadata["labels"], shape):
        raise DataError(
            f"{path} was made from {metadata['dataset']} with {len(metadata['labels'])} classes and images of "
            f"{'x'.join(map(str, shape))}, which is not the data given ({data.name} with {len(data.labels)} classes); "
            f"name the right folder with --data-dir"
        )
    recipe = metadata.get("recipe", {})
    digest = recipe.get("digest")
    if digest is not None and digest != data.digest():
        raise DataError(
            f"{path} was made from other images than those that are there now; export it again with --force"
        )
    data = data.hold_out(recipe.get("validation", 0))
    file = OnnxFile(path)
    test = _run(file, data.test_images, advance)
    labels = data.test_labels.numpy()
    report: dict[str, Any] = {
        "facts": metadata,
        "image_shape": list(shape),
        "test": _score(test, labels) | _by_class(test.predictions, labels, data.labels),
        "calibration": _calibration(test, labels, metadata["temperature"]),
        "train": _part(file, data.train_images, data.train_labels, advance),
        "validation": _part(file, data.validation_images, data.validation_labels, advance),
        "cost": {"parameters": metadata["parameters"]} | asdict(cost.measure(path, file, data.test_images.numpy())),
        "training": {
            "seconds": round(sum(epoch["seconds"] for epoch in metadata["history"]), 1),
            "epochs": len(metadata["history"]),
            "command": command(metadata),
        },
        "variant": _variant(path, metadata),
    }
    return report, test


def parse_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata of a file but its probe, numbers as numbers; raises ModelFileError where some is missing."""
    texts = read_metadata(path)
    missing = sorted(REQUIRED_KEYS - texts.keys())
    if missing:
        raise ModelFileError(
            f"{path} does not say its {missing[0]}, for an older version of this program wrote it; export it again "
            f"with --force"
        )
    del texts["probe"]
    return {key: json.loads(text) if key in JSON_KEYS else text for key, text in sorted(texts.items())}


def image_shape(path: Path) -> tuple[int, int, int]:
    """Give height, width and channels of the images that a file takes."""
    (images,) = onnx.load(path, load_external_data=False).graph.input
    height, width, channels = (dim.dim_value for dim in images.type.tensor_type.shape.dim[1:])
    return height, width, channels


def command(metadata: dict[str, Any]) -> str:
    """Name the command that makes such a file, with an option for each number that is not the recipe's own."""
    if "command" in metadata:
        return str(metadata["command"])
    name, recipe = metadata.get("variant_of", metadata["name"]), current_names(metadata["recipe"])
    own = RECIPES.get(name, RECIPES[metadata["network"]])
    line = [f"{RUN}.export"]
    if metadata["dataset"] == "folder":
        line += ["--dataset", "folder", "--data-dir", "FOLDER", "--network", metadata["network"], "--name", name]
    else:
        line.append(name)
    for option in ("epochs", "seed", "learning_rate"):
        if recipe[option] != getattr(own, option):
            line += [f"--{option.replace('_', '-')}", str(recipe[option])]
    if own.flip and not recipe["flip"]:
        line.append("--no-flip")
    if metadata["precision"] != "fp32":
        line += ["--precision", metadata["precision"]]
    return " ".join(line)


def _part(
    file: OnnxFile, images: torch.Tensor, labels: torch.Tensor, advance: Callable[[int], object]
) -> dict[str, Any] | None:
    return _score(_run(file, images, advance), labels.numpy()) if len(images) else None


def _run(file: OnnxFile, images: torch.Tensor, advance: Callable[[int], object]) -> Outputs:
    parts = []
    for part in torch.split(images, STEP):
        parts.append(outputs_of_onnx(file, part))
        advance(len(part))
    return Outputs(
        np.concatenate([part.logits for part in parts]), np.concatenate([part.probabilities for part in parts])
    )


def _score(outputs: Outputs, labels: NDArray[np.int64]) -> dict[str, Any]:
    correct = int((outputs.predictions == labels).sum())
    right = outputs.probabilities[np.arange(len(labels)), labels].astype(np.float64)
    # What float32 rounds to zero counts as its least normal number, so that the mean stays one.
    loss = -np.log(np.maximum(right, np.finfo(np.float32).tiny)).mean()
    return {
        "images": len(labels),
        "correct": correct,
        "accuracy": correct / len(labels),
        "loss": round(float(loss), DIGITS),
    }


def _by_class(predictions: NDArray[np.int64], labels: NDArray[np.int64], names: tuple[str, ...]) -> dict[str, Any]:
    confusion = np.zeros((len(names), len(names)), np.int64)
    np.add.at(confusion, (labels, predictions), 1)
    counts, right = confusion.sum(1).tolist(), confusion.diagonal().tolist()
    return {
        "classes": [
            {"label": name, "images": images, "correct": correct, "accuracy": correct / images if images else None}
            for name, images, correct in zip(names, counts, right, strict=True)
        ],
        "confusion": confusion.tolist(),
    }


def _calibration(outputs: Outputs, labels: NDArray[np.int64], temperature: float) -> dict[str, Any]:
    """Describe the softmax of the logits, and the file's probabilities, by error and bins (see `calibration.bins`)."""
    powers = np.exp(outputs.logits - outputs.logits.max(1, keepdims=True))
    found: dict[str, Any] = {"temperature": temperature}
    for name, probabilities in (("before", powers / powers.sum(1, keepdims=True)), ("after", outputs.probabilities)):
        found[name] = {
            "error": round(expected_calibration_error(probabilities, labels), DIGITS),
            "bins": [
                {key: round(value, DIGITS) for key, value in asdict(part).items()}
                for part in bins(probabilities, labels)
            ],
        }
    return found


def _variant(path: Path, metadata: dict[str, Any]) -> dict[str, Any] | None:
    if "variant_of" not in metadata:
        return None
    return {
        "of": metadata["variant_of"],
        "accuracy_lost": (metadata["fp32_test_correct"] - metadata["test_correct"]) / metadata["test_images"],
        "agreement": metadata["agreement"],
        "tolerance": json.loads(read_metadata(path)["probe"])["tolerance"],
    }
