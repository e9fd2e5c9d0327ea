"""What a model file says about itself: labels, origin, measured accuracy, and the probe.

Knows the metadata of the file and nothing of sessions or gRPC. Files without any of it are served
all the same, as plain tensors. docs/file-format.md is the contract.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import ModelRejected
from ..images.preprocessing import Preprocessing, read_preprocessing
from ..tensors import Array
from .probe import Probe, read_probe

PREFIX = "convserve."
FORMAT, OLD_FORMAT = "2", "1"
HASHES = PREFIX + "sha256"
PROBE = PREFIX + "probe"

PROBABILITY_TOLERANCE = 1e-4
"""Largest deviation of a probability from softmax(logits / temperature) where products are float32. 3e-7 is measured on
CPUs; what others' exponential functions leave is far below this, and a changed end of the graph far above."""

_SHARES = ("test_accuracy", "agreement", "calibration_error")
_COUNTS = ("parameters", "test_correct", "test_images", "fp32_test_correct")


@dataclass(frozen=True)
class ModelMetadata:
    """The facts in a file's metadata; empty or None where the file does not tell."""

    labels: tuple[str, ...] = ()
    dataset: str = ""
    network: str = ""
    precision: str = ""
    parameters: int = 0
    test_accuracy: float | None = None
    temperature: float = 1.0
    """What logits are divided by before the softmax that gives the probabilities."""
    probe: Probe | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    """What is to be done to images before the model takes them."""
    unproved: str = ""
    """What it lacks of the proof, as a sentence about the file; empty where it has both hashes and a probe."""
    outdated: bool = False
    """True for the format before hashes."""
    properties: Mapping[str, str] | None = None
    """All metadata of the file but the probe, as it stands there."""

    def require_proof(self) -> None:
        """Raises ModelRejected unless the file has hashes and a probe."""
        if self.unproved:
            raise ModelRejected(f"{self.unproved}, which --require-probe demands (docs/file-format.md)")

    def check_labels(self, classes: int = -1) -> None:
        """Raises ModelRejected unless there are as many labels as classes; no labels, or -1 classes, are any number."""
        if self.labels and classes >= 0 and len(self.labels) != classes:
            raise ModelRejected(f"it has {len(self.labels)} labels for {classes} classes: one label a class is needed")

    def check_preprocessing(self, shape: tuple[int, ...]) -> None:
        """Raises ModelRejected where it does not go with images of this height, width and number of channels."""
        mismatch = self.preprocessing.find_mismatch(*shape)
        if mismatch:
            raise ModelRejected(f"its metadata entry {PREFIX + 'preprocessing'!r} cannot be true: {mismatch}")

    def check_probabilities(self, logits: Array, probabilities: Array, tolerance: float) -> None:
        """Raises ModelRejected where they are not softmax(logits / temperature)."""
        scaled = logits.astype(np.float64) / self.temperature
        powers = np.exp(scaled - scaled.max(1, keepdims=True))
        deviation = float(np.abs(powers / powers.sum(1, keepdims=True) - probabilities).max())
        allowed = max(PROBABILITY_TOLERANCE, tolerance)
        if not deviation <= allowed:
            raise ModelRejected(
                f"its probabilities are not softmax(logits / {self.temperature:g}): they are off by {deviation:.3g}, "
                f"{allowed:.3g} is allowed. The end of its graph, or its temperature, is not what was exported"
            )


def read_metadata(metadata: Mapping[str, str]) -> ModelMetadata:
    """The metadata in an ONNX file's metadata; raises ModelRejected where an entry cannot be read, or be true."""
    properties = {key: value for key, value in metadata.items() if key != PROBE}
    entries = {key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)}
    if not entries.keys() - {"batching"}:
        return ModelMetadata(properties=properties, unproved="it has neither hashes nor a probe")
    file_format = entries.get("format")
    if file_format not in (FORMAT, OLD_FORMAT):
        raise ModelRejected(
            f"its metadata is of format {file_format or 'unknown'!r}; this version reads formats "
            f"{FORMAT!r} and {OLD_FORMAT!r}"
        )
    if file_format == FORMAT and HASHES not in metadata:
        raise ModelRejected(f"its metadata entry {HASHES!r} is missing: files of format {FORMAT!r} have it")
    labels = _parse(entries, "labels", _read_labels, ())
    shares = {key: _parse(entries, key, _read_share, None) for key in _SHARES}
    counts = {key: _parse(entries, key, _read_count, None) for key in _COUNTS}
    _check_counts(counts, shares["test_accuracy"])
    probe = _parse(entries, "probe", read_probe, None)
    lacks = [what for what, there in (("hashes", HASHES in metadata), ("probe", probe is not None)) if not there]
    return ModelMetadata(
        labels=labels,
        dataset=entries.get("dataset", ""),
        network=entries.get("network", ""),
        precision=entries.get("precision", ""),
        parameters=counts["parameters"] or 0,
        test_accuracy=shares["test_accuracy"],
        temperature=_parse(entries, "temperature", _read_temperature, 1.0),
        probe=probe,
        preprocessing=_parse(entries, "preprocessing", _read_preprocessing, Preprocessing()),
        unproved=f"it has no {' and no '.join(lacks)}" if lacks else "",
        outdated=file_format == OLD_FORMAT,
        properties=properties,
    )


def _parse(entries: Mapping[str, str], key: str, read: Callable[[str], Any], missing: Any) -> Any:
    """What ``read`` makes of an entry, ``missing`` where there is none; raises ModelRejected with the entry's name."""
    if key not in entries:
        return missing
    try:
        return read(entries[key])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelRejected(f"its metadata entry {PREFIX + key!r} cannot be read: {error!r}") from error


def _read_labels(text: str) -> tuple[str, ...]:
    labels = json.loads(text)
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError("it is no list of strings")
    return tuple(labels)


def _read_share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:  # NaN must fail too
        raise ValueError(f"{text} does not lie in 0 to 1")
    return share


def _read_count(text: str) -> int:
    count = int(text)
    if count < 0:
        raise ValueError(f"{text} is less than 0")
    return count


def _read_temperature(text: str) -> float:
    temperature = float(text)
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"{text} is no finite number above 0")
    return temperature


def _check_counts(counts: Mapping[str, int | None], accuracy: float | None) -> None:
    images = counts["test_images"]
    if images is None:
        return
    for key in ("test_correct", "fp32_test_correct"):
        if (counts[key] or 0) > images:
            raise ModelRejected(f"its metadata says that {counts[key]} of {images} test images are right ({key})")
    correct = counts["test_correct"]
    if correct is not None and accuracy is not None and images and abs(correct / images - accuracy) > 1e-3:
        raise ModelRejected(
            f"its metadata says that {correct} of {images} test images are right, and that its accuracy is {accuracy}"
        )


def _read_preprocessing(text: str) -> Preprocessing:
    return read_preprocessing(dict(json.loads(text)))
