"""Every number of a report, counted again from the outputs of its file with NumPy."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from training import onnx_file


def calibration_error(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The definition, image by image: fifteen bins, each open below and closed above."""
    members: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(probabilities, labels, strict=True):
        place = next(k for k in range(1, 16) if row.max() <= k / 15 or k == 15)
        members.setdefault(place, []).append((row.max(), row.argmax() == label))
    gaps = [
        len(found) * abs(sum(c for c, _ in found) / len(found) - sum(right for _, right in found) / len(found))
        for found in members.values()
    ]
    return sum(gaps) / len(labels)


def check(
    report: dict[str, Any],
    path: Path,
    logits: NDArray[np.float64],
    probabilities: NDArray[np.float64],
    labels: NDArray[np.int64],
) -> None:
    """Compare a report with its file: metadata, size, and all that follows from its outputs for the test images."""
    metadata = onnx_file.read_metadata(path)
    del metadata["probe"]
    assert {key: json.loads(onnx_file.to_json(value)) for key, value in report["facts"].items()} == {
        key: text if isinstance(report["facts"][key], str) else json.loads(text) for key, text in metadata.items()
    }
    assert report["cost"]["bytes"] == path.stat().st_size
    assert report["cost"]["parameters"] == int(metadata["parameters"])

    names = report["facts"]["labels"]
    count, predictions = len(labels), logits.argmax(1)
    test = report["test"]
    assert (test["images"], test["correct"]) == (count, (predictions == labels).sum())
    assert (metadata["test_images"], metadata["test_correct"]) == (str(count), str(test["correct"]))
    assert metadata["test_accuracy"] == f"{test['correct'] / count:.4f}"
    assert test["accuracy"] == pytest.approx(test["correct"] / count)
    confusion = [
        [int(((labels == true) & (predictions == a)).sum()) for a in range(len(names))] for true in range(len(names))
    ]
    assert test["confusion"] == confusion
    for number, (label, entry) in enumerate(zip(names, test["classes"], strict=True)):
        assert (entry["label"], entry["images"]) == (label, (labels == number).sum())
        assert entry["correct"] == confusion[number][number]
        assert entry["accuracy"] == pytest.approx((predictions == labels)[labels == number].mean())
    right = np.maximum(probabilities[np.arange(count), labels], 1e-37)
    assert test["loss"] == pytest.approx(-np.log(right).mean(), abs=1e-4)

    calibration = report["calibration"]
    assert calibration["temperature"] == float(metadata["temperature"])
    powers = np.exp(logits - logits.max(1, keepdims=True))
    softmax = powers / powers.sum(1, keepdims=True)
    assert calibration["before"]["error"] == pytest.approx(calibration_error(softmax, labels), abs=1e-4)
    assert calibration["after"]["error"] == pytest.approx(calibration_error(probabilities, labels), abs=1e-4)
    assert calibration["after"]["error"] == pytest.approx(float(metadata["calibration_error"]), abs=1e-4)
    for found in (calibration["before"], calibration["after"]):
        assert sum(part["images"] for part in found["bins"]) == count
        weighted = sum(part["images"] * abs(part["confidence"] - part["accuracy"]) for part in found["bins"])
        assert found["error"] == pytest.approx(weighted / count, abs=1e-5)
